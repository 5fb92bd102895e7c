//! What is to be done with one workload now.

use weft_types::WorkloadState;

use super::board::Board;
use super::vocabulary::{Counts, Moment, Plan, Summary, View};

/// What is to be done with a workload now. Pure: the same arguments give the same plan.
pub fn plan(now: Moment, view: &View<'_>, board: &Board) -> Plan {
    let _ = (now, board);
    Plan {
        actions: Vec::new(),
        wake_ms: None,
        claim: None,
        summary: Summary {
            state: WorkloadState::Pending,
            reason: None,
            why: String::new(),
            revision: view.workload.revision,
            counts: Counts::default(),
            next_try_ms: None,
            waiting: None,
        },
    }
}
