//! How the backend is set up.

use std::ffi::OsString;
use std::path::PathBuf;

use weft_types::NodeId;
use weft_volumes::Volumes;

use crate::network::Subnet;
use crate::unpack::Limits;

/// OCI runtimes in the order in which they are preferred: the fastest first.
pub const RUNTIMES: [&str; 4] = ["crun", "runc", "kata", "runsc"];

/// The program that runs [`crate::monitor::main`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MonitorCommand {
    /// Its path; usually `/proc/self/exe` resolved.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// How the backend is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Images, layers and units are kept here; ours alone, on a file system that overlayfs can use.
    pub data_dir: PathBuf,
    /// Whose units they are. Names of bridges, pairs and control groups are made from it.
    pub node: NodeId,
    /// How a monitor is started.
    pub monitor: MonitorCommand,
    /// Managed volumes and paths of the node.
    pub volumes: Volumes,
    /// Which OCI runtimes may be used, the preferred one first.
    pub runtimes: Vec<String>,
    /// Name of the bridge; `weft0`, or one made from the node's id, when absent.
    pub bridge: Option<String>,
    /// Network of the containers; a free part of 10.88.0.0/16 when absent.
    pub subnet: Option<Subnet>,
    /// Certificates in PEM that registries may have beside those that the machine trusts.
    pub registry_roots: Vec<u8>,
    /// How much the archive of one layer may ask for.
    pub layer_limits: Limits,
}

impl Options {
    /// The usual setup.
    pub fn new(data_dir: PathBuf, node: NodeId, monitor: MonitorCommand, volumes: Volumes) -> Self {
        Self {
            data_dir,
            node,
            monitor,
            volumes,
            runtimes: RUNTIMES.map(str::to_owned).to_vec(),
            bridge: None,
            subnet: None,
            registry_roots: Vec::new(),
            layer_limits: Limits::default(),
        }
    }
}
