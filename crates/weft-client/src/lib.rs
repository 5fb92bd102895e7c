//! The REST API from the outside, over mutual TLS.
//!
//! ```no_run
//! # async fn example() -> Result<(), weft_client::Error> {
//! let endpoint = weft_client::Endpoint::from_admin_file("/var/lib/weft/admin.json".as_ref())?;
//! let client = weft_client::Client::new(&endpoint)?;
//! for node in client.nodes().await? {
//!     println!("{} {}", node.id, node.state);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Knows the shapes of `weft-api` and nothing of output formats. Every call has a bound on its
//! time, except the streams, which end when the server ends them or they are dropped.

mod client;
mod dead;
mod endpoint;
mod error;
mod jobs;
mod lines;
mod nodes;
mod streams;
mod workloads;

pub use client::Client;
pub use dead::DeadLetters;
pub use endpoint::Endpoint;
pub use error::Error;
pub use jobs::ResultOrder;
pub use lines::Lines;
pub use streams::{ExecCommand, ExecEvent, ExecInput, ExecOutput, PortInput, PortOutput};
pub use workloads::UnitLogs;
