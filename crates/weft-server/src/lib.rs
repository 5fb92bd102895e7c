//! The control plane: REST and gRPC, node sessions, the dispatcher, events and metrics.
//!
//! ```no_run
//! # async fn example() -> Result<(), weft_server::Error> {
//! let config = weft_server::Config::new("/var/lib/weft".into());
//! let server = weft_server::Server::start(config).await?;
//! println!("{} {}", server.url(), server.admin_file().display());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Decisions are made by the machines of `weft-core`; this crate feeds them and carries out what
//! they return. How a task is run, it does not know.

mod activity;
mod clock;
mod config;
mod dispatch;
mod error;
mod events;
mod follow;
mod garbage;
mod grpc;
mod handover;
mod intake;
mod listener;
mod liveness;
mod metrics;
mod nodes;
mod outcome;
mod records;
mod rest;
mod services;
mod session;
mod start;
mod state;
mod watch;
mod ws;

pub use config::Config;
pub use error::Error;
pub use rest::openapi_json;
pub use start::Server;
pub use weft_intake::{NatsSettings, RedisSettings};
