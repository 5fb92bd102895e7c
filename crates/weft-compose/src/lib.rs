//! Compose applications, by the reference implementation found on the node.
//!
//! A unit is one Compose project, `weft-<unit>`. What is Compose's own is left to its command line:
//! reading the file, pulling, building, bringing up and stopping in order. Everything else
//! (observing, logs, commands inside, figures, removing) is asked of the engine's API, where the
//! containers are found by the labels that an override file puts on everything.
//!
//! ```text
//!  inline text ─┐                     ┌─ raw: keys, files, aliases (before Compose reads it)
//!               ├─► file ─► policy ───┤
//!  Git commit ──┘                     └─ model: values, as `config` resolved them
//!                              │
//!                              ▼
//!            compose.yaml + weft.override.yaml (labels, limits, names) ─► pull, build, up
//! ```
//!
//! Volumes belong to the workload and not to the unit: they are called
//! `weft-<workload>-<slot>-<volume>`, where the slot is the lowest number that no other unit of the
//! workload holds on this node. A unit that is removed with its volumes kept leaves its slot behind,
//! and the next unit of the workload takes it over together with the data. So an update stops and
//! removes the old unit (keeping volumes) and starts the new one; both are never up at once, since
//! they would publish the same ports.
//!
//! Architecture invariant: nothing here trusts a Compose file. It may come from anyone who may push
//! to a repository; what it can ask of the node is in [`weft_compose_rules`], and nothing else.

mod cgroup;
mod child;
mod clean;
mod cli;
mod compose;
mod engine;
mod events;
mod exec;
mod git;
mod logs;
mod observe;
mod over;
mod prepare;
mod redact;
mod remove;
mod scratch;
mod start;
mod state;
mod stats;
mod vet;

pub use compose::{Compose, Options};
