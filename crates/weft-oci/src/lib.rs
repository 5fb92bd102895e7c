//! Containers without an engine: images, mounts, networks and an OCI runtime.
//!
//! [`Oci`] is a backend of the unit port that needs nothing but an OCI runtime (`crun`, `runc`,
//! `runsc`, Kata's) on this machine. It fetches images itself, mounts their layers by overlayfs,
//! connects containers by a bridge of its own, and leaves each container to a small process, the
//! [`monitor`], that outlives the agent.
//!
//! ```text
//!  image/    registry ──► blobs, verified ──► unpack/ ──► layers, shared by all units
//!  bundle/   specification ──► config.json of the OCI runtime
//!  network/  bridge, addresses, the way out
//!  monitor/  mounts, network namespace, OCI runtime; output and end of the container
//!  oci/      the port: puts them together
//! ```
//!
//! Whatever is killed when, the next call finds what there is: records of a unit are written before
//! anything is made for it and removed last, a monitor is known by the lock that it holds, and
//! mounts and network namespaces belong to processes and vanish with them.
//!
//! It works in a network namespace too: the bridge is made in the one in which the agent runs.
//! Architecture invariant: everything on the machine that is not beneath the data directory has a
//! name made from the node's id; agents do not meet.

mod bundle;
mod cgroup;
mod error;
mod exec;
mod files;
mod image;
mod lock;
mod logs;
pub mod monitor;
mod names;
mod network;
mod oci;
mod options;
mod path;
mod proc;
mod record;
mod runtimes;
mod size;
mod spawn;
mod state;
mod unpack;
mod watch;

pub use error::Error;
pub use image::{
    Blob, Compression, Digest, Document, ImageConfig, Layer, Manifest, Reference, RootFs,
    RunConfig, parse_config, parse_document,
};
pub use network::Subnet;
pub use oci::Oci;
pub use options::{MonitorCommand, Options, RUNTIMES};
pub use unpack::{Limits, Unpacked, unpack_layer};
