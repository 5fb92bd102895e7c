//! The config file: contexts, and settings for `up`, `server` and `agent`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_api::AdminFile;
use weft_server::{NatsSettings, RedisSettings};
use weft_types::{Bytes, Millicores, Money, NodeId};

use crate::args::{Engine, OnShutdown};
use crate::exit::Failed;

/// What the config file may hold.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// The context in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Clusters by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, AdminFile>,
    /// Settings of `up` and `server`.
    pub server: ServerSettings,
    /// Settings of `agent`.
    pub agent: AgentSettings,
    /// Queues of others from which `up` and `server` take jobs.
    pub queue: QueueSettings,
}

/// Queues of others, by engine.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisSettings>,
    /// NATS JetStream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsSettings>,
}

/// Settings of `up` and `server`, where no flag says otherwise.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Where keys, jobs and results are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Address and port to listen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Also plain HTTP on this loopback address, without any protection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_http: Option<SocketAddr>,
    /// Name of a new cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Further names or addresses under which agents reach this server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// Whether the server announces itself on the local network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdns: Option<bool>,
    /// How long a node may be silent before its tasks go elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ttl: Option<String>,
    /// How long the certificates of nodes live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_ttl: Option<String>,
    /// How long results are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl: Option<String>,
    /// The namespaces whose containers may be privileged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_privileged: Vec<String>,
}

/// Settings of `agent`, where no flag says otherwise.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// Address of a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// Where its key and its work are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// Labels, for placement.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How much of the machine work may use, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u8>,
    /// What runs containers; of `up` as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Directories for disks of virtual machines, by the name of their pool.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_pools: BTreeMap<String, PathBuf>,
    /// Private networks that tasks' inputs may be fetched from by URL; of `up` as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fetch_from: Vec<IpNet>,
    /// What becomes of services when the process ends; of `up` as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_shutdown: Option<OnShutdown>,
    /// Where other nodes reach replicas; of `up` as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_listen: Option<SocketAddr>,
    /// What an hour of this machine costs, in US dollars; of `up` as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<Money>,
    /// CPU to offer, instead of what the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Millicores>,
    /// Memory to offer, instead of what the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// The path of the config file: the flag's, or the one of the XDG base directory specification.
pub fn path(flag: Option<&Path>) -> PathBuf {
    flag.map_or_else(
        || xdg("XDG_CONFIG_HOME", ".config").join("weft/config.toml"),
        Path::to_path_buf,
    )
}

/// Where a server keeps its data unless told otherwise.
pub fn default_data_dir() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share").join("weft")
}

/// Where an agent keeps its data unless told otherwise.
pub fn default_agent_dir() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share").join("weft-agent")
}

fn xdg(variable: &str, beneath_home: &str) -> PathBuf {
    match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(beneath_home)
        }
    }
}

/// Reads the config file; a file that is not there is an empty one, unless it was asked for.
pub fn load(flag: Option<&Path>) -> Result<ConfigFile, Failed> {
    let path = path(flag);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && flag.is_none() => {
            return Ok(ConfigFile::default());
        }
        Err(error) => {
            return Err(Failed::usage(format!(
                "config file {}: {error}",
                path.display()
            )));
        }
    };
    weft_types::parse_toml(&text).map_err(|error| {
        Failed::usage(format!(
            "config file {}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

/// Writes the config file, readable by its owner only: it may hold a token.
pub fn save(flag: Option<&Path>, config: &ConfigFile) -> Result<(), Failed> {
    let path = path(flag);
    let text =
        toml::to_string_pretty(config).map_err(|error| Failed::internal(error.to_string()))?;
    let failed = |error: &dyn std::fmt::Display| {
        Failed::internal(format!(
            "the config file {} cannot be written: {error}",
            path.display()
        ))
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    }
    weft_pki::write_secret_file(&path, text.as_bytes()).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ConfigFile, Failed> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).expect("a file");
        load(Some(&path))
    }

    #[test]
    fn every_section_is_read_and_written_again() {
        let text = "current = 'a'\n[server]\nlisten = '127.0.0.1:0'\nmdns = false\nadvertise = ['x']\n\
            [agent]\nthreshold = 50\ncpu = '2'\nprice_per_hour = 0.12\non_shutdown = 'remove'\npeer_listen = '10.0.0.1:7800'\nlabels = { zone = 'a' }\n\
            [queue.redis]\nurl = 'redis://localhost'\nlease = '5s'\n\
            [queue.nats]\nurl = 'nats://localhost'\nstream = 'S'\n";
        let config = read(text).expect("a config");
        let redis = config.queue.redis.clone().expect("redis");
        assert_eq!(
            (redis.prefix.as_str(), redis.lease.as_secs()),
            ("packetfs", 5)
        );
        assert_eq!(
            config.queue.nats.clone().expect("nats").subject,
            "weft.jobs"
        );
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.toml");
        save(Some(&path), &config).expect("written");
        let again = load(Some(&path)).expect("a config");
        assert_eq!(again.agent.threshold, Some(50));
        assert_eq!(again.agent.price_per_hour, Some(Money(120_000)));
        assert_eq!(again.agent.on_shutdown, Some(OnShutdown::Remove));
        assert_eq!(again.agent.peer_listen.map(|it| it.port()), Some(7800));
        assert_eq!(again.queue.redis, Some(redis));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path_and_the_nearest_name() {
        for (text, path, near) in [
            (
                "[queue.redis]\nurl = 'redis://h'\nprefx = 'p'\n",
                "queue.redis.prefx",
                "`prefix`",
            ),
            (
                "[queue.rediss]\nurl = 'redis://h'\n",
                "queue.rediss",
                "`redis`",
            ),
            (
                "[server]\nlisten_addr = 'x'\n",
                "server.listen_addr",
                "`listen`",
            ),
            ("[queue.nats]\nurl = 7\n", "queue.nats.url", "string"),
            (
                "[agent]\nprice_per_hour = -0.12\n",
                "agent.price_per_hour",
                "an amount of money",
            ),
        ] {
            let message = read(text).expect_err(text).problem.detail.clone();
            assert!(
                message.contains(path) && message.contains(near),
                "{message}"
            );
        }
    }
}
