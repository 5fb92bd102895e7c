//! The threads of byte programs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use weft_runtime::{OpRuntime, OpTask};
use weft_types::{Failure, Reason};

use super::Shared;
use super::table::Op;
use crate::identity::now;
use crate::outcome::{Report, of_failure, of_op};

/// The most byte programs one thread takes at once.
const MAX_OP_BATCH: usize = 256;

impl Shared {
    /// An op thread: takes byte programs in batches until the agent stops.
    pub(super) fn run_ops(&self) {
        // Heartbeats and reports go before computing.
        let _ = rustix::process::nice(5);
        while let Some(batch) = self.next_ops() {
            let reports = self.run_batch(&batch);
            let mut table = self.table.lock();
            for (op, report) in batch.iter().zip(reports) {
                table.done((op.job.id.0, op.task), op.attempt, report);
            }
            drop(table);
            self.outgoing.notify_one();
        }
    }

    /// Waits for byte programs; `None` when the agent stops.
    fn next_ops(&self) -> Option<Vec<Op>> {
        let mut table = self.table.lock();
        loop {
            let batch = table.take_ops(MAX_OP_BATCH, self.op_threads)?;
            if !batch.is_empty() {
                return Some(batch);
            }
            self.op_ready.wait(&mut table);
        }
    }

    /// One report for each, in their order.
    fn run_batch(&self, batch: &[Op]) -> Vec<Report> {
        let started_ms = now().as_millis();
        let tasks: Option<Vec<OpTask<'_>>> = batch.iter().map(op_task).collect();
        let outcomes = tasks.and_then(|tasks| {
            // A program that breaks the interpreter must not take the thread with it.
            catch_unwind(AssertUnwindSafe(|| OpRuntime.run_batch(&tasks))).ok()
        });
        let Some(outcomes) = outcomes.filter(|outcomes| outcomes.len() == batch.len()) else {
            return self.run_apart(batch);
        };
        let mut before_us = 0;
        outcomes
            .into_iter()
            .map(|outcome| {
                let started_ms = started_ms + before_us / 1_000;
                before_us += outcome.run_us;
                of_op(&self.node, started_ms, outcome)
            })
            .collect()
    }

    /// Finds the one that broke the batch; the others get their results.
    fn run_apart(&self, batch: &[Op]) -> Vec<Report> {
        batch
            .iter()
            .map(|op| {
                let started_ms = now().as_millis();
                let outcome = op_task(op).and_then(|task| {
                    let run = || OpRuntime.run_batch(&[task]).pop();
                    catch_unwind(AssertUnwindSafe(run)).ok().flatten()
                });
                match outcome {
                    Some(outcome) => of_op(&self.node, started_ms, outcome),
                    None => of_failure(
                        &self.node,
                        started_ms,
                        Failure::new(
                            Reason::Internal,
                            "the byte program broke the agent's interpreter",
                        ),
                    ),
                }
            })
            .collect()
    }
}

/// The program of the task, or of its job.
fn op_task(op: &Op) -> Option<OpTask<'_>> {
    Some(OpTask {
        program: op.inline.program.as_ref().or(op.job.program.as_ref())?,
        input: &op.inline.input,
        timeout: op.inline.timeout,
        control: None,
    })
}
