//! Which tasks of a job can be handed out, as ranges: a million fresh tasks are one number.

use std::collections::VecDeque;

use super::table::{Phase, Table};

/// The queue of one job.
///
/// Every task in [`Phase::Queued`] is in it. It may also name tasks that are not queued any more
/// (cancelled, adopted); they are passed over when they come up, and swept out when they
/// outnumber the queued ones.
#[derive(Default, Debug)]
pub(super) struct Ready {
    /// Tasks from here to the end of the table have never come up.
    fresh: u32,
    /// Tasks before `fresh` that are queued again: first and length.
    again: VecDeque<(u32, u32)>,
    /// Sum of the lengths in `again`.
    again_tasks: u64,
}

/// How many stale entries are tolerated before a sweep.
const SWEEP_SLACK_TASKS: u64 = 1_024;

impl Ready {
    /// A task is queued again, before those that are there already when `first` is set.
    pub(super) fn push(&mut self, task: u32, first: bool) {
        if task >= self.fresh {
            return;
        }
        self.again_tasks += 1;
        if first {
            match self.again.front_mut() {
                Some((start, len)) if task + 1 == *start => {
                    *start = task;
                    *len += 1;
                }
                _ => self.again.push_front((task, 1)),
            }
        } else {
            match self.again.back_mut() {
                Some((start, len)) if *start + *len == task => *len += 1,
                _ => self.again.push_back((task, 1)),
            }
        }
    }

    /// The next queued task.
    pub(super) fn pop(&mut self, table: &Table) -> Option<u32> {
        while let Some((start, len)) = self.again.front_mut() {
            let task = *start;
            *start += 1;
            *len -= 1;
            self.again_tasks -= 1;
            if *len == 0 {
                self.again.pop_front();
            }
            if is_queued(table, task) {
                return Some(task);
            }
        }
        while self.fresh < table.len() {
            let task = self.fresh;
            self.fresh += 1;
            if is_queued(table, task) {
                return Some(task);
            }
        }
        None
    }

    /// Drops what is stale when it has become much more than what is queued.
    pub(super) fn sweep(&mut self, table: &Table, queued: u32) {
        if self.again_tasks <= u64::from(queued) * 2 + SWEEP_SLACK_TASKS {
            return;
        }
        self.again.clear();
        self.again_tasks = 0;
        for (task, cell) in table.iter().take(self.fresh as usize) {
            if cell.phase() == Phase::Queued {
                self.push(task, false);
            }
        }
    }
}

fn is_queued(table: &Table, task: u32) -> bool {
    table
        .get(task)
        .is_some_and(|cell| cell.phase() == Phase::Queued)
}
