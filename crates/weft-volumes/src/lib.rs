//! Volumes of containers: where their data lies on a node, who holds them, and how they get to a
//! path that an engine or an OCI runtime can bind into a container.
//!
//! ```text
//!  <dir>/<workload>/<volume>/<slot>/volume.json    who holds it, of which class, whether it is kept
//!                                   data/          a directory, or
//!                                   image, mount/  a file with a file system, NFS, a block device
//!  <dir>/.binds/<unit>/<n>                         what was opened for a sub-path or a host path
//!  <dir>/.locks/<workload>                         held while anything of it is changed
//! ```
//!
//! A volume that one replica holds at a time (`read-write-once`) has a slot for each of them. A slot
//! whose holder was removed with `keep` is free, and the next unit of the workload takes it over
//! with its data; so a replica that is replaced on its node finds what the one before has written.
//!
//! Whatever happens to the caller, the next call finds what is there: every call is idempotent, and
//! `volume.json` is written before data are made and removed after they are gone. Several processes
//! may share a directory.
//!
//! Paths that a user chooses are opened beneath their volume without following symbolic links, and
//! what was opened is bound: a container that swaps a directory for a link meanwhile gains nothing.
//! What lies on NFS or in a block device that was there before is never deleted.
//!
//! Architecture invariant: knows no engine and no container, only units and directories.

mod beneath;
mod command;
mod error;
mod file_system;
mod holding;
mod host;
mod lock;
mod mounts;
mod name;
mod rbd;
mod slot;
mod volumes;

pub use error::Error;
pub use host::HostPaths;
pub use volumes::{Mounted, Options, Volumes};
