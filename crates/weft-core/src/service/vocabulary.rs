//! What the planner is asked, and what it answers.

use weft_placement::{Explanation, NearestChange};
use weft_types::{Reason, UnitId, WorkloadId, WorkloadState};

use super::board::Claim;
use super::record::{Assignment, Retry, Rollout, UnitLoad, UnitStatus, WorkloadRecord};

/// When a plan is made.
///
/// Both times are milliseconds since the Unix epoch by a clock that is *steady*: the wall clock as
/// it was when the process started, plus what a monotonic clock has counted since. A wall clock
/// that jumps is therefore not noticed before another scheduler takes over; what the records hold
/// may then lie in the future or an hour in the past. Deadlines and cooldowns are for that reason
/// counted from `leading_since_ms` at the earliest, and waits are never longer than the policy
/// allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Now.
    pub now_ms: u64,
    /// Since when this scheduler leads.
    pub leading_since_ms: u64,
}

/// Everything that is known of one workload.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is wanted.
    pub workload: &'a WorkloadRecord,
    /// How far the scheduler has come; none before its first plan.
    pub rollout: Option<&'a Rollout>,
    /// What failed last.
    pub retry: Option<&'a Retry>,
    /// Every assignment of the workload, in any order.
    pub units: &'a [UnitView<'a>],
}

/// One unit of the workload.
#[derive(Clone, Copy, Debug)]
pub struct UnitView<'a> {
    /// Where and what it is to be.
    pub assignment: &'a Assignment,
    /// How it is, as its node says; none before it has said anything.
    pub status: Option<&'a UnitStatus>,
    /// Since when it is ready without a break, by the scheduler's own clock ([`ReadyTimes`]): the
    /// clock of a node may be wrong by any amount.
    ///
    /// [`ReadyTimes`]: super::ReadyTimes
    pub ready_since_ms: Option<u64>,
    /// What it uses; none when its node has not measured of late.
    pub load: Option<UnitLoad>,
}

/// One thing to do. All actions of a plan are one transaction, in any order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Write this new assignment. Its number is covered by the `next_unit` of a
    /// [`Action::SetRollout`] in the same plan.
    Assign(Box<Assignment>),
    /// Write this assignment in place of the one of the same unit: it is to stop.
    Stop(Box<Assignment>),
    /// Remove a unit's assignment and status: nothing of it is left, or its node can no longer act.
    Forget {
        /// Which.
        unit: UnitId,
    },
    /// Write the rollout.
    SetRollout(Box<Rollout>),
    /// Write the retry, or remove it.
    SetRetry(Option<Box<Retry>>),
    /// Have a unit of another workload stopped, of strictly lower priority: read its assignment,
    /// and write it with [`Assignment::stopping`] if it still is to run.
    Preempt {
        /// Which unit makes room.
        unit: UnitId,
        /// For which workload.
        by: WorkloadId,
        /// Why, in a sentence.
        why: String,
    },
    /// Remove the workload, its rollout and its retry. Nothing of it is left.
    DeleteWorkload,
    /// Tell people.
    Event {
        /// What happened, without the `weft.` before it: `service.placed`.
        kind: &'static str,
        /// The unit it is about; the workload itself when none.
        unit: Option<UnitId>,
        /// Why, when it is a failure.
        reason: Option<Reason>,
        /// What happened, in a sentence.
        detail: String,
    },
}

impl Action {
    /// Whether the store changes by it.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Event { .. })
    }
}

/// What is to be done with a workload now.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// What to do; empty when everything is as it should be, or has to be waited for.
    pub actions: Vec<Action>,
    /// When to plan again even if nothing changes until then.
    pub wake_ms: Option<u64>,
    /// Room that is being made for this workload, which others of lower priority must not take.
    /// [`Board::apply`](super::Board::apply) notes it.
    pub claim: Option<Claim>,
    /// How the workload is, for people.
    pub summary: Summary,
}

/// How a workload is.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// Where it is in its life.
    pub state: WorkloadState,
    /// Why it waits or failed, as one of the reasons.
    pub reason: Option<Reason>,
    /// In a sentence; empty when there is nothing to say.
    pub why: String,
    /// The revision that units are made of: that of the record, or the last good one after a
    /// rollback.
    pub revision: u64,
    /// Numbers of units.
    pub counts: Counts,
    /// When the next unit is made after a failure.
    pub next_try_ms: Option<u64>,
    /// Why a unit has no place, while that is so.
    pub waiting: Option<Box<Waiting>>,
}

/// Numbers of units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// As many as there should be now.
    pub wanted: u32,
    /// As many as there are, in any state, those on their way out too.
    pub existing: u32,
    /// Those that run.
    pub running: u32,
    /// Those that are to run and pass their health check.
    pub ready: u32,
    /// Those that are to run and are of [`Summary::revision`].
    pub updated: u32,
    /// Those on their way out.
    pub stopping: u32,
}

/// Why a unit has no place.
#[derive(Clone, PartialEq, Debug)]
pub struct Waiting {
    /// `no-candidate` or `insufficient-resources`.
    pub reason: Reason,
    /// In a sentence.
    pub detail: String,
    /// What would help.
    pub nearest: Option<NearestChange>,
    /// Every candidate with what was thought of it.
    pub explanation: Explanation,
}
