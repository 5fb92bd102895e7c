//! Containers without an engine: images, mounts, networks and an OCI runtime.
mod error;
mod files;
mod image;
mod unpack;
pub use error::Error;
