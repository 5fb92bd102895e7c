//! Containers without an engine: images, mounts, networks and an OCI runtime.
mod bundle;
mod cgroup;
mod error;
mod files;
mod image;
mod lock;
pub mod monitor;
mod names;
mod network;
mod path;
mod record;
mod unpack;
pub use error::Error;
