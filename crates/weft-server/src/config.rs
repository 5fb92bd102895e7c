//! Settings of a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_intake::{NatsSettings, RedisSettings};

/// Settings of a server; [`Config::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where keys, jobs and results are kept.
    pub data_dir: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A loopback address for plain HTTP without any protection.
    pub insecure_http: Option<SocketAddr>,
    /// Name of a new cluster; an existing one keeps its own.
    pub cluster: Option<String>,
    /// Further names or addresses under which agents reach this server.
    pub names: Vec<String>,
    /// How long a node may be silent before its tasks go elsewhere.
    pub lease_ttl: Duration,
    /// How long the certificates of nodes live.
    pub certificate_ttl: Duration,
    /// How long results are kept after their job has ended.
    pub result_ttl: Duration,
    /// Whether the server announces itself on the local network.
    pub mdns: bool,
    /// The most bytes that artifacts may take.
    pub max_blob_bytes: u64,
    /// The namespaces whose containers may be privileged, use their node's network and mount its
    /// directories.
    pub allow_privileged: Vec<String>,
    /// Redis, as a queue that others push into.
    pub redis: Option<RedisSettings>,
    /// NATS JetStream, as a queue that others push into.
    pub nats: Option<NatsSettings>,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            listen: SocketAddr::from(([0, 0, 0, 0], 7700)),
            insecure_http: None,
            cluster: None,
            names: Vec::new(),
            lease_ttl: Duration::from_secs(3),
            certificate_ttl: Duration::from_secs(24 * 3600),
            result_ttl: Duration::from_secs(24 * 3600),
            mdns: true,
            max_blob_bytes: 64 << 30,
            allow_privileged: Vec::new(),
            redis: None,
            nats: None,
        }
    }
}
