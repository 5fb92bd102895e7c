//! Tasks of the runtimes that take a while: fetch the input, run, send the output.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use weft_runtime::Control;
use weft_types::{Failure, Reason};

use super::Shared;
use super::table::Waiting;
use crate::identity::now;
use crate::outcome::{Report, of_failure, of_run};
use crate::task::prepare;

impl Shared {
    /// Starts waiting tasks as far as there is room.
    pub(super) fn start_what_fits(self: &Arc<Self>) {
        let mut table = self.table.lock();
        while let Some((task, control)) = table.start_next() {
            let shared = Arc::clone(self);
            self.tokio
                .spawn(async move { shared.run(task, control).await });
        }
        let is_urgent = table.out.is_urgent();
        drop(table);
        if is_urgent {
            self.outgoing.notify_one();
        }
    }

    async fn run(self: Arc<Self>, task: Waiting, control: Control) {
        let started_ms = now().as_millis();
        let attempt = AssertUnwindSafe(self.attempt(&task, &control, started_ms));
        // Whatever happens, the room that the task took is given back.
        let report = attempt.catch_unwind().await.unwrap_or_else(|_| {
            let failure = Failure::new(Reason::Internal, "the task broke the agent's runtime");
            of_failure(&self.node, started_ms, failure)
        });
        self.table.lock().ended(&task, report);
        self.outgoing.notify_one();
        self.room.notify_waiters();
        self.start_what_fits();
    }

    async fn attempt(&self, task: &Waiting, control: &Control, started_ms: u64) -> Report {
        // Nobody gets to see this: only what is forgotten is cancelled.
        let cancelled = || {
            let failure = Failure::new(Reason::Cancelled, "it was cancelled");
            of_failure(&self.node, started_ms, failure)
        };
        let prepared = tokio::select! {
            prepared = prepare(&task.job, task.task, task.attempt, &task.payload, &self.artifacts) => prepared,
            () = control.cancelled() => return cancelled(),
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return of_failure(&self.node, started_ms, failure),
        };
        let outcome = self.runtimes.run(prepared.run, control.clone()).await;
        drop(prepared.inputs);
        tokio::select! {
            report = of_run(&self.node, started_ms, outcome, &self.artifacts) => report,
            () = control.cancelled() => cancelled(),
        }
    }
}
