//! The southbound interface: joining, the session of each node, artifacts for agents.
//!
//! A session is two tasks: one reads what the agent sends and feeds the dispatcher, one takes
//! [`crate::dispatch::Work`] from the dispatcher, adds payloads from the journal and writes it
//! out. Neither decides anything.

mod artifacts;
mod join;
mod reader;
mod service;
mod writer;

pub use service::AgentService;
