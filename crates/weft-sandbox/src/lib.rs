//! Process sandbox: namespaces, cgroups, seccomp, Landlock, and the spawner that starts processes in it.
//!
//! A small single-threaded helper process, the [`spawner`], starts and watches processes for the agent, which
//! talks to it through a [`Client`]. The spawner is the same binary executed again, so that its address space is
//! small and forking is cheap, and it outlives a killed agent just long enough to leave nothing behind.
//!
//! This crate knows processes, not tasks: no jobs, retries, artifacts or results.

mod cgroup;
mod client;
mod clone;
mod codec;
mod confine;
mod connection;
mod disk;
mod error;
mod failure;
mod frame;
mod identity;
mod landlock;
mod limits;
mod mounts;
mod namespaces;
mod probe;
mod program;
mod reports;
mod seccomp;
pub mod spawner;
mod spec;
mod sweep;

pub use client::{Client, Finished, Process, probe};
pub use error::Error;
pub use probe::{Capabilities, CgroupSupport, CgroupVersion, Missing};
pub use spec::*;
pub use sweep::{Swept, sweep};
