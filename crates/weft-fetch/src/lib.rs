//! Fetching what users name by URL: over HTTP or HTTPS, streamed to a file, bounded in size and
//! time, and only from addresses that may be asked.
//!
//! Whoever names a URL must not reach what only this machine reaches: services on loopback, the
//! local network, the credentials that clouds hand out under link-local addresses. Each name is
//! checked when it is resolved, each redirect as well, and the connection goes to the address that
//! was checked ([`Allowed`]).

mod address;
mod error;
mod fetch;
mod part;

pub use address::Allowed;
pub use error::Error;
pub use fetch::{Fetch, Options};
pub use part::Part;
