//! What servers and agents take.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use weft_types::{Bytes, Millicores, Money, NodeId, parse_duration};

/// What runs containers on a node.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Docker or Podman when there is one, else Weft itself
    Auto,
    /// Docker Engine
    Docker,
    /// Podman
    Podman,
    /// Weft itself, by crun, runc or runsc
    Oci,
    /// Nothing: no services here
    None,
}

impl From<Engine> for weft_agent::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Docker => Self::Docker,
            Engine::Podman => Self::Podman,
            Engine::Oci => Self::Oci,
            Engine::None => Self::None,
        }
    }
}

/// What becomes of services on a node when its agent is stopped.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShutdown {
    /// They run on, but for exclusive ones; the next start finds them again
    Keep,
    /// They are stopped and removed
    Remove,
}

impl From<OnShutdown> for weft_agent::OnShutdown {
    fn from(on_shutdown: OnShutdown) -> Self {
        match on_shutdown {
            OnShutdown::Keep => Self::Keep,
            OnShutdown::Remove => Self::Remove,
        }
    }
}

/// Settings that a server and `up` share.
#[derive(Args, Debug, Clone)]
pub struct ServeArgs {
    /// Where keys, jobs and results are kept [default: $XDG_DATA_HOME/weft]
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [default: 0.0.0.0:7700]
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Also plain HTTP on this loopback address, without any protection
    #[arg(long, value_name = "ADDR")]
    pub insecure_http: Option<std::net::SocketAddr>,
    /// Name of a new cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// A further name or address under which agents reach this server
    #[arg(long, value_name = "NAME")]
    pub advertise: Vec<String>,
    /// How long a node may be silent before its tasks go elsewhere [default: 3s]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub lease_ttl: Option<Duration>,
    /// How long the certificates of nodes live [default: 1d]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub cert_ttl: Option<Duration>,
    /// How long results are kept [default: 1d]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub result_ttl: Option<Duration>,
    /// Do not announce the server on the local network
    #[arg(long)]
    pub no_mdns: bool,
    /// A namespace whose containers may be privileged, use the node's network and mount its
    /// directories; may be repeated
    #[arg(long, value_name = "NAMESPACE")]
    pub allow_privileged: Vec<String>,
    /// Take jobs from Redis, as in redis://127.0.0.1:6379/0; more in [queue.redis] of the config file
    #[arg(
        long,
        env = "WEFT_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis_url: Option<String>,
    /// Take jobs from NATS JetStream, as in nats://127.0.0.1:4222; more in [queue.nats] of the config file
    #[arg(
        long,
        env = "WEFT_NATS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub nats_url: Option<String>,
}

#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// How many agents to run here
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub nodes: u32,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// What agents do, alone and within `weft up`.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// What runs containers here [default: auto]
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// What becomes of services here when this process is stopped [default: keep]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_shutdown: Option<OnShutdown>,
    /// Where other nodes reach replicas here [default: 0.0.0.0:0, a free port]
    #[arg(long, value_name = "ADDR")]
    pub peer_listen: Option<std::net::SocketAddr>,
    /// A private network that inputs may be fetched from by URL, as in 192.168.0.0/16; may be
    /// repeated
    #[arg(long, value_name = "NET")]
    pub fetch_from: Vec<IpNet>,
    /// What an hour of this machine costs, in US dollars, as in 0.12; its nodes share it [default: 0]
    #[arg(long, value_name = "USD", value_parser = Money::price_per_hour, allow_negative_numbers = true)]
    pub price_per_hour: Option<Money>,
}

#[derive(Args, Debug, Clone)]
pub struct ServerArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Args, Debug, Clone)]
pub struct AgentArgs {
    /// Address of a server [default: the token's, or found on the local network]
    #[arg(long, value_name = "ADDR")]
    pub join: Option<String>,
    /// Where its key and its work are kept [default: $XDG_DATA_HOME/weft-agent]
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Its id [default: made from the host name]
    #[arg(long, value_name = "ID")]
    pub id: Option<NodeId>,
    /// A label, for placement
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// How much of the machine work may use, in percent [default: 80]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub threshold: Option<u8>,
    #[command(flatten)]
    pub node: NodeArgs,
    /// A directory for disks of virtual machines, under a name; may be repeated
    #[arg(long, value_name = "NAME=DIR")]
    pub storage_pool: Vec<String>,
    /// CPU to offer, instead of what the machine has
    #[arg(long)]
    pub cpu: Option<Millicores>,
    /// Memory to offer, instead of what the machine has
    #[arg(long)]
    pub memory: Option<Bytes>,
}
