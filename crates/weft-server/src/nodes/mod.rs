//! The nodes of the cluster: who may come in, what they offer, how they do.
//!
//! What must survive a restart is a record in the store under `nodes/<id>`; what a node last
//! said of itself is kept beside it in memory.

mod admission;
mod record;
mod registry;
mod view;

pub use admission::Rejoin;
pub use registry::{Nodes, SessionFacts, availability};
