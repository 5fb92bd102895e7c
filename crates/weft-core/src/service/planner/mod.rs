//! What is to be done with one workload now.
//!
//! ```text
//!  begin ─▶ tidy ─▶ judge ─▶ scale ─▶ replace ─▶ sum up
//!    │        │        │        │         └ makes missing units, stops superfluous and old ones
//!    │        │        │        └ how many are wanted
//!    │        │        └ the update is complete, or has failed: back to what worked
//!    │        └ units that ended, failed or were lost
//!    └ the record has changed: an update begins
//! ```

mod backoff;
mod draft;
mod in_place;
mod judge;
mod replace;
mod scale;
mod stop_first;
mod summary;
mod tidy;

#[cfg(test)]
mod tests;

use super::board::Board;
use super::vocabulary::{Moment, Plan, View};

use draft::Draft;

/// What is to be done with a workload now. Pure: the same arguments give the same plan, in
/// whatever order units and nodes were given.
pub fn plan(now: Moment, view: &View<'_>, board: &Board) -> Plan {
    let mut draft = Draft::new(now, view, board);
    if view.workload.deleting {
        draft.end_everything("the workload is being deleted", false);
    } else if view.workload.stopped {
        draft.end_everything("somebody stopped the workload", true);
        draft.retry = None;
    } else {
        draft.begin();
        draft.tidy();
        draft.judge();
        draft.scale();
        if !draft.is_truncated {
            draft.replace();
        }
        draft.calm_down();
    }
    draft.finish()
}
