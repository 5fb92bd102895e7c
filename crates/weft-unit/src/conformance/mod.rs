//! The suite that every backend passes against its real engine.
//!
//! A backend's test implements [`Subject`]: how to get the backend, how to make a unit that does
//! what a [`Program`] says, and how to see from the outside whether anything is left. Then it calls
//! [`run_all`], which runs every scenario, prints how each went, and panics with the names of those
//! that failed. `WEFT_SCENARIO=NAME[,NAME…]` in the environment runs only these.
//!
//! ```text
//!  run_all ──► scenario ──► Subject::runtime().prepare / start / …
//!                      └──► Subject::leftovers() must become empty after each
//! ```
//!
//! Scenarios are public functions as well, for a test of a single one; [`pull_policies`] is one
//! more, for backends that fetch images themselves. [`images`] makes images and a registry for the
//! backends that need them, [`docker`] and [`git`] start servers of others.

pub mod crash;
pub mod docker;
pub mod exec;
pub mod git;
pub mod images;
pub mod layer;
pub mod life;
pub mod limits;
pub mod output;
mod pulls;
mod run;
mod subject;

pub use pulls::pull_policies;
pub use run::{Report, SCENARIOS, Scenario, run, run_all};
pub use subject::{
    Abilities, Failed, Ground, Outcome, Program, SERVE_PORT, SERVED, Subject, fresh_id,
};
