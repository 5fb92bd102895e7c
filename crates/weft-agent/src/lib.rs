//! The agent: makes one machine a node of a cluster.
//!
//! ```text
//!  server ⇄ session (one stream; reconnects for ever) ⇄ executor ──▶ op threads
//!                    ▲ heartbeats, from a thread of their own      └─▶ runtimes: process, wasm
//!                    └──────────────▶ units ──▶ containers, Compose applications, machines
//! ```
//!
//! The agent is dumb on purpose: it runs what it is handed as its free resources allow, keeps every
//! result until the server has it on disk, and stops what it is told to stop. Losing sight of the
//! server stops nothing but what is exclusive ([`lease`]); losing the agent neither ([`guard`]).
//!
//! Architecture invariant: an agent only dials out, and knows no other node.

mod artifacts;
mod backoff;
mod capacity;
mod channel;
mod config;
mod error;
mod executor;
mod guard;
mod heartbeat;
mod identity;
mod kept;
mod lease;
mod lease_file;
mod logs;
mod machine;
mod node;
mod outcome;
mod renewal;
mod runtimes;
mod session;
mod small_file;
mod spawner;
mod task;
#[cfg(test)]
mod testing;
mod units;
mod urls;

pub use config::{Config, Engine, OnShutdown};
pub use error::Error;
pub use guard::{GUARD_ARGUMENT, main as guard_exclusive_units};
pub use node::Agent;
pub use runtimes::MONITOR_ARGUMENT;
/// The program that watches one container and outlives the agent.
pub use weft_oci::monitor::main as watch_container;
