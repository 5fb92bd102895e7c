//! Services: what is kept running, and the decisions that keep it so.
//!
//! ```text
//!  records of one workload ─┐
//!  (View)                   ├─▶ plan() ─▶ Plan: actions ─▶ one store transaction
//!  nodes and what is        │                   summary ─▶ API
//!  reserved on them (Board) ┘                   wake_ms ─▶ timer
//! ```
//!
//! [`plan`] is level-triggered: it looks at how everything is and says what to do next; it keeps
//! no memory beside the records. With nothing to do its plan is empty. The same workload is
//! planned again whenever one of its records changes, at [`Plan::wake_ms`], and, while
//! [`Summary::waiting`] says that it waits for room, whenever the board has changed.
//!
//! What the shell owes, so that it may be killed between any two instructions:
//!
//! * All actions of a plan are carried out in *one* transaction, or none. It compares that this
//!   scheduler still leads (the key of its lease), and that the workload, its rollout, its retry
//!   and every assignment that is changed still have the revisions that the view was read at, and
//!   that an assignment to make does not exist. Two schedulers that both believe to lead therefore
//!   never both change something, and the board of the one that leads misses nothing.
//! * The health of nodes is looked at *after* the records of the view were read. An exclusive unit
//!   rests on that: see [`NodeHealth::LeaseLost`].
//! * A node that registers is told its assignments as the store has them after the registration,
//!   and ends every unit that is not among them or is to stop. It never starts a unit again that
//!   it has reported as gone.
//! * Status records are written only while the assignment exists.
//! * Time is steady while one scheduler leads ([`Moment`]).

pub mod record;

mod board;
mod need;
mod planner;
mod ready;
mod vocabulary;

pub use board::{Board, BoundUnit, Claim, NodeHealth, Placed, Refused};
pub use need::{UnitRequest, has_node_data, is_apart_from_itself, is_stop_first};
pub use planner::plan;
pub use ready::ReadyTimes;
pub use vocabulary::{Action, Counts, Moment, Plan, Summary, UnitView, View, Waiting};
