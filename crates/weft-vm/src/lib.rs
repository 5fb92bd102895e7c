//! Virtual machines on QEMU, behind the port of `weft-unit`.
//!
//! ```text
//!  prepare: image by hash ─► copy-on-write disk on a pool ─► seed for cloud-init ─► record
//!  start:   control groups, tap devices ─► process (survives the agent) ─► watcher
//!  watcher: console ─► bounded files; address; booted or not; end ─► record
//! ```
//!
//! Every machine has a directory `DATA/nodes/NODE/UNIT`. What is in its record is true also after
//! the agent was killed: it is written before anything is made, and removed after everything else.
//! A later [`Vms`] over the same directory goes on watching what runs.
//!
//! What the crate does not know: when a machine should be started again, where images by hash come
//! from ([`ArtifactSource`]), who may use which bridge or pool.

mod boot;
mod cgroup;
mod console;
mod disks;
mod exec;
mod fail;
mod filter;
mod guest;
mod images;
mod life;
mod logs;
mod machine;
mod net;
mod options;
mod prepare;
mod process;
mod qemu;
mod qmp;
mod record;
mod seed;
mod shared;
mod socket;
mod user;
mod vms;
mod watch;

pub use options::{ArtifactSource, Options};
pub use vms::Vms;
