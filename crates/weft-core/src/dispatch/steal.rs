//! Work taken back: from nodes that are busy while others idle, and from nodes that are closed.

use weft_placement::ClassId;

use crate::Monotonic;

use super::Machine;
use super::node::{Node, candidate};
use super::table::Phase;
use super::vocabulary::{Output, TaskRef};

/// The most tasks asked back from one node at a time.
const MAX_RECALL_TASKS: usize = 4_096;
/// How many tasks of a job are looked at from its end to find some that can be taken back.
const MAX_SCAN_TASKS: usize = 262_144;

impl Machine {
    /// Asks busy nodes for prefetched work that an idle node could begin now.
    pub(super) fn steal(&mut self, now: Monotonic, out: &mut Vec<Output>) {
        if self.steal_at.is_none_or(|due| due > now) {
            return;
        }
        let prefetched: Vec<(u16, ClassId, u32)> = self
            .nodes
            .iter()
            .flat_map(|(slot, node)| node.loads.iter().map(move |load| (slot, load)))
            .filter(|(_, load)| load.held > load.reserved)
            .map(|(slot, load)| (slot, load.class, load.held - load.reserved))
            .collect();
        self.steal_at = (!prefetched.is_empty()).then(|| now.plus_ms(self.config.steal_after_ms));
        for (slot, class, tasks) in prefetched {
            let wanted = self.worth_stealing(slot, class, tasks);
            if wanted > 0 {
                self.recall(slot, Some(class), wanted, out);
            }
        }
    }

    /// How many prefetched tasks an idle node could begin at once, when they would otherwise wait
    /// for longer than stealing takes.
    fn worth_stealing(&mut self, from: u16, class: ClassId, prefetched: u32) -> usize {
        let Some(idle) = self.index.choose(class) else {
            return 0;
        };
        if idle == candidate(from) {
            return 0;
        }
        let run_us = self.classes.get(class).map_or(0, |class| class.run_us);
        let slots = self.index.slots(candidate(from), class).max(1);
        let wait_ms = u64::from(prefetched) * u64::from(run_us) / u64::from(slots) / 1_000;
        if wait_ms < self.config.steal_after_ms {
            return 0;
        }
        self.index.fits(idle, class).min(prefetched) as usize
    }

    /// Asks a node for everything that it has not begun.
    pub(super) fn recall_unstarted(&mut self, slot: u16, out: &mut Vec<Output>) {
        self.recall(slot, None, MAX_RECALL_TASKS, out);
    }

    fn recall(&self, slot: u16, class: Option<ClassId>, wanted: usize, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get(slot) else {
            return;
        };
        let tasks = self.unstarted(slot, node, class, wanted.min(MAX_RECALL_TASKS));
        if let Some(epoch) = node.epoch
            && !tasks.is_empty()
        {
            out.push(Output::Recall {
                node: node.id.clone(),
                epoch,
                tasks,
            });
        }
    }

    /// Tasks that a node holds and has not said to have begun, the last given first.
    fn unstarted(
        &self,
        slot: u16,
        node: &Node,
        class: Option<ClassId>,
        wanted: usize,
    ) -> Vec<TaskRef> {
        let mut tasks = Vec::new();
        for &job_slot in node.jobs.keys().rev() {
            let Some(job) = self.jobs.at(job_slot) else {
                continue;
            };
            if class.is_some_and(|class| class != job.class) {
                continue;
            }
            let found = job
                .table
                .iter()
                .rev()
                .take(MAX_SCAN_TASKS)
                .filter(|(_, cell)| cell.phase() == Phase::Assigned && cell.node() == Some(slot))
                .map(|(task, cell)| TaskRef {
                    job: job.id,
                    task,
                    attempt: cell.attempt(),
                });
            tasks.extend(found.take(wanted - tasks.len()));
            if tasks.len() == wanted {
                break;
            }
        }
        tasks
    }
}
