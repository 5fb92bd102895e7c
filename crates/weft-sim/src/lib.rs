//! The machines of the control plane under virtual time and injected faults.
//!
//! One server, three nodes and a client run the very machines of `weft-core`
//! ([`weft_core::dispatch`], [`weft_core::liveness`], retries and breakers inside them) in one
//! thread. Everything else is a model: the network ([`network`]) delays, stalls, partitions (also
//! one way), breaks sessions and still delivers what was under way; the journal ([`journal`])
//! loses a random part of what was not synced, and fills up; agents and the server crash,
//! restart, and stand still. Checkers ([`checker`]) look after every step, and again once faults
//! have stopped: by then everything acknowledged has to end.
//!
//! The declarative path has a world of its own, [`services`], beside that of the dispatch path.
//!
//! A run is a function of its seed: the same seed gives the same events, byte for byte
//! ([`Run::trace`] is a hash over all of them).
//!
//! It deliberately opens no file or socket and reads no clock.

pub mod agent;
pub mod checker;
pub mod client;
mod faults;
pub mod journal;
pub mod network;
#[cfg(feature = "planted")]
pub mod planted;
pub mod random;
pub mod server;
pub mod services;
mod world;

pub use world::{Options, Run, Violation, run};
