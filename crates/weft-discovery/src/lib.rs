//! Finding servers on the local network with mDNS.
#![allow(unused, missing_docs, clippy::unimplemented)]
use std::{net::SocketAddr, time::Duration};
pub type Result<T, E = Error> = std::result::Result<T, E>;
#[derive(Debug, thiserror::Error)] #[error("…")] pub struct Error; // becomes an enum
/// Withdrawn on drop.
pub struct Advertisement;
/// `ca_fingerprint` is hex. Blocks for no longer than it takes to open sockets.
pub fn advertise(cluster: &str, port: u16, ca_fingerprint: &str, server_id: &str) -> Result<Advertisement> { unimplemented!() }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundServer { pub addresses: Vec<SocketAddr>, pub cluster: String, pub fingerprint: String, pub server_id: String }
/// All servers that answer within `timeout`.
pub async fn find(timeout: Duration) -> Result<Vec<FoundServer>> { unimplemented!() }
/// The first server whose CA has this fingerprint (any server if None); None: nobody answered.
pub async fn find_first(fingerprint: Option<&str>, timeout: Duration) -> Result<Option<FoundServer>> { unimplemented!() }
