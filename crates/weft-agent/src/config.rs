//! Settings of an agent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use weft_types::{Bytes, Millicores, Money, NodeId};

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Docker or Podman when there is one, else none of them: Weft's own.
    #[default]
    Auto,
    /// Docker Engine.
    Docker,
    /// Podman.
    Podman,
    /// Weft itself, by an OCI runtime.
    Oci,
    /// Nothing: the node runs no services at all.
    None,
}

/// What becomes of units when the agent's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// They run on, and the next agent of this data directory finds them again.
    #[default]
    Keep,
    /// They are stopped and removed.
    Remove,
}

/// Settings of an agent; [`Config::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where its key and its work are kept.
    pub data_dir: PathBuf,
    /// Address of a server; the token's, or one on the local network, when absent.
    pub join: Option<String>,
    /// The token to join with; needed the first time only.
    pub token: Option<String>,
    /// Its id; made from the host name when absent.
    pub node_id: Option<NodeId>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// How much of the machine work may use, in percent.
    pub threshold_percent: u8,
    /// CPU to offer, instead of what the machine has.
    pub cpu: Option<Millicores>,
    /// Memory to offer, instead of what the machine has.
    pub memory: Option<Bytes>,
    /// What an hour of this machine costs, in US dollars; not negative.
    pub price_per_hour: Money,
    /// How many agents share this machine; each offers its part, at its part of the price.
    pub share: u32,
    /// A directory that goes when the agent's process dies.
    pub cleanup_dir: Option<PathBuf>,
    /// Where other nodes reach this one's replicas, over mutual TLS; port 0 takes a free one.
    pub peer_listen: SocketAddr,
    /// What runs containers.
    pub engine: Engine,
    /// Directories for the disks of virtual machines, by the name of their pool.
    pub storage_pools: BTreeMap<String, PathBuf>,
    /// Private networks that tasks' inputs may be fetched from by URL. Public addresses may be asked
    /// in any case; those of the local link and of clouds' metadata never are.
    pub fetch_from: Vec<IpNet>,
    /// What becomes of units when the agent's process ends.
    pub on_shutdown: OnShutdown,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            join: None,
            token: None,
            node_id: None,
            labels: BTreeMap::new(),
            threshold_percent: 80,
            cpu: None,
            memory: None,
            price_per_hour: Money(0),
            share: 1,
            cleanup_dir: None,
            peer_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            engine: Engine::default(),
            storage_pools: BTreeMap::new(),
            fetch_from: Vec::new(),
            on_shutdown: OnShutdown::default(),
        }
    }
}
