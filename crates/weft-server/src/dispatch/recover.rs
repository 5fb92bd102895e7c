//! Starting the dispatcher with what the journal has.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use weft_core::Monotonic;
use weft_core::dispatch::{Config, FinalRun, Input, Machine, Recovered};
use weft_proto::v1;
use weft_queue::{RecoveredJob, Recovery};
use weft_types::{JobId, NodeId, Reason, TaskState, Timestamp, Workload, parse_json};

use super::attempts;
use super::command::Command;
use super::dead::DeadLetters;
use super::endings::Endings;
use super::handle::{Dispatcher, MAX_WAITING_COMMANDS, Watchers};
use super::job::{Cancellation, JobRecord};
use super::log::{Log, is_dropped, unpack_state};
use super::reserved::Reserved;
use super::shell::Shell;
use crate::Error;
use crate::clock::Clock;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::rest::submission;

/// A dispatcher that is put together and not started yet.
pub struct Dispatching {
    shell: Shell,
    handle: Dispatcher,
    commands: mpsc::Receiver<Command>,
    answered: mpsc::UnboundedReceiver<Command>,
}

impl Dispatching {
    /// A dispatcher without jobs.
    pub fn new(
        log: Log,
        clock: Clock,
        events: Events,
        metrics: Arc<Metrics>,
        result_ttl: Duration,
    ) -> Self {
        let (sender, commands) = mpsc::channel(MAX_WAITING_COMMANDS);
        let (answers, answered) = mpsc::unbounded_channel();
        let watchers = Arc::new(Watchers::default());
        let shell = Shell {
            // The seed only jitters backoffs: any value that differs between starts will do.
            machine: Machine::new(Config::default(), clock.wall().as_millis()),
            log,
            clock,
            events,
            metrics,
            watchers: Arc::clone(&watchers),
            answers,
            jobs: HashMap::new(),
            keys: HashMap::new(),
            last_id: 0,
            result_ttl,
            expiring: VecDeque::new(),
            endings: Endings::default(),
            sessions: BTreeMap::new(),
            reserved: Reserved::default(),
            submitting: HashMap::new(),
            cancel_again: Vec::new(),
            dead: DeadLetters::default(),
            out: Vec::new(),
            stopped: false,
        };
        Self {
            shell,
            handle: Dispatcher {
                commands: sender,
                watchers,
            },
            commands,
            answered,
        }
    }

    /// Its handle; commands wait until it is started.
    pub fn handle(&self) -> Dispatcher {
        self.handle.clone()
    }

    /// Takes recovered jobs in and starts the thread. Recovered tasks wait until `nodes` have come
    /// back and told what they hold, or until a lease has run out.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        mut self,
        recovered: Recovery,
        nodes: Vec<NodeId>,
        lease_ttl: Duration,
    ) -> Result<(), Error> {
        let now = Monotonic(self.shell.clock.steady().as_millis());
        let ttl_ms = u64::try_from(lease_ttl.as_millis()).unwrap_or(u64::MAX);
        if !recovered.jobs.is_empty() {
            let deadline = now.plus_ms(ttl_ms);
            self.shell.machine.step(
                now,
                Input::AwaitNodes { nodes, deadline },
                &mut self.shell.out,
            );
        }
        for job in recovered.jobs {
            self.shell.recover(now, job);
        }
        self.shell.sort_expiring();
        self.shell.round(now);
        let Self {
            shell,
            commands,
            answered,
            ..
        } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|source| Error::File {
                path: "thread weft-dispatch".into(),
                source,
            })?;
        std::thread::Builder::new()
            .name("weft-dispatch".to_owned())
            .spawn(move || runtime.block_on(shell.run(commands, answered)))
            .map_err(|source| Error::File {
                path: "thread weft-dispatch".into(),
                source,
            })?;
        Ok(())
    }
}

impl Shell {
    fn recover(&mut self, now: Monotonic, job: RecoveredJob) {
        let id = JobId(job.job.0);
        self.last_id = self.last_id.max(id.0);
        let parsed = v1::StoredJob::decode(job.header.clone())
            .ok()
            .and_then(|stored| {
                let spec = v1::JobSpec::decode(stored.spec.clone()).ok()?;
                let workload: Workload = parse_json(&spec.workload_json).ok()?;
                Some((stored, spec, workload))
            });
        let Some((stored, spec, workload)) = parsed else {
            return tracing::error!(job = %id, "a job of the journal cannot be understood and is left alone");
        };
        let state = job
            .state
            .and_then(|bytes| v1::StoredJobState::decode(bytes).ok())
            .unwrap_or_default();
        let time = |ms: u64| (ms > 0).then_some(Timestamp(ms));
        let record = JobRecord {
            name: spec.name.into(),
            namespace: workload.namespace.clone(),
            runtime: workload.runtime.as_str(),
            priority: workload.priority,
            spec: stored.spec,
            created: Timestamp(stored.created_ms),
            started: time(state.started_ms),
            finished: time(state.finished_ms),
            accepted: None,
            key: Some(stored.idempotency_key)
                .filter(|key| !key.is_empty())
                .map(Into::into),
            cancelled: u8::try_from(state.cancelled)
                .ok()
                .and_then(Reason::from_code)
                .map(|reason| Cancellation {
                    reason,
                    detail: state.cancel_detail.into(),
                }),
            dependent_tasks: state.dependent_tasks,
        };
        let mut submission = submission(&workload, job.tasks, self.clock.wall());
        submission.id = id;
        if record.dependent_tasks {
            let Some(graph) = self.log.task_graph(id, job.tasks) else {
                return tracing::error!(job = %id, "what the tasks of a job wait for cannot be read; the job is left alone");
            };
            submission.graph = Some(Arc::new(graph));
        }
        if let Some(key) = &record.key {
            self.keys.insert(key.to_string(), id);
        }
        if let Some(finished) = record.finished {
            self.expiring
                .push_back((finished.plus(self.result_ttl), id));
        }
        let cancelled = record.cancelled.as_ref().map(|cancelled| cancelled.reason);
        self.jobs.insert(id, record);
        let counts_lost = submission.retry.on.contains(&Reason::NodeLost);
        let counted = attempts::count(&job.notes, &job.results, counts_lost);
        for (task, _, packed) in &job.results {
            let is_dead = unpack_state(*packed).is_some_and(|(state, _)| state == TaskState::Dead);
            if is_dead && !is_dropped(*packed) {
                self.dead.add(id, *task);
            }
        }
        let recovered = Recovered {
            submission,
            finals: final_runs(&job.results),
            failures: counted.failures,
            attempts: counted.attempts,
            cancelled,
        };
        self.machine
            .step(now, Input::Recovered(recovered), &mut self.out);
    }

    fn sort_expiring(&mut self) {
        self.expiring.make_contiguous().sort_unstable();
    }

    /// What the journal keeps of a job's fate; `cancelled` while it is being cancelled.
    pub(super) fn stored_state(
        &self,
        job: JobId,
        cancelled: Option<&Cancellation>,
    ) -> v1::StoredJobState {
        let record = self.jobs.get(&job);
        let ms = |time: Option<Timestamp>| time.map_or(0, Timestamp::as_millis);
        let known = record.and_then(|record| record.cancelled.as_ref());
        let cancelled = known.or(cancelled);
        v1::StoredJobState {
            started_ms: ms(record.and_then(|record| record.started)),
            finished_ms: ms(record.and_then(|record| record.finished)),
            cancelled: cancelled.map_or(0, |cancelled| cancelled.reason.code().into()),
            requeued: 0,
            cancel_detail: cancelled
                .map_or_else(String::new, |cancelled| cancelled.detail.to_string()),
            dependent_tasks: record.is_some_and(|record| record.dependent_tasks),
        }
    }
}

/// Consecutive tasks that ended alike, as runs.
fn final_runs(results: &[(u32, u32, u8)]) -> Vec<FinalRun> {
    let mut runs: Vec<FinalRun> = Vec::new();
    for (task, _, packed) in results {
        let Some((state, reason)) = unpack_state(*packed) else {
            continue;
        };
        // A task that was queued again has a result that does not count any more.
        if state == TaskState::Queued {
            continue;
        }
        match runs.last_mut() {
            Some(run)
                if run.first + run.len == *task && run.state == state && run.reason == reason =>
            {
                run.len += 1
            }
            _ => runs.push(FinalRun {
                first: *task,
                len: 1,
                state,
                reason,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::log::pack_state;
    use super::*;

    #[test]
    fn neighbours_that_ended_alike_are_one_run() {
        let completed = pack_state(TaskState::Completed, None);
        let failed = pack_state(TaskState::Failed, Some(Reason::Timeout));
        let requeued = pack_state(TaskState::Queued, None);
        let runs = final_runs(&[
            (0, 1, completed),
            (1, 2, completed),
            (3, 1, completed),
            (4, 1, failed),
            (5, 1, requeued),
        ]);
        let seen: Vec<_> = runs
            .iter()
            .map(|run| (run.first, run.len, run.reason))
            .collect();
        assert_eq!(
            seen,
            [(0, 2, None), (3, 1, None), (4, 1, Some(Reason::Timeout))]
        );
    }
}
