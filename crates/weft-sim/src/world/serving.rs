//! The server's shell: carries out what the machines return.

use weft_core::dispatch::{
    BatchId, FinalTask, Input, Outcome, Output, Recovered, TaskResult, Verdict,
};
use weft_core::{Epoch, Monotonic, liveness};
use weft_types::{JobId, NodeId, Reason};

use crate::client;
use crate::journal::{Record, Waiter};
use crate::network::{Direction, ToAgent, ToServer};
use crate::server::{Server, availability, candidate};

use super::{Event, MAX_TASKS, World};

/// Within this time after a restart nodes come back before their work is handed out again.
const REATTACH_MS: u64 = 3_000;
/// How long the server waits before it tries again to write a cancellation.
const CANCEL_AGAIN_MS: u64 = 200;

impl World {
    /// Something for the server: lost when it is down, later when it stands still.
    pub(super) fn server_event(&mut self, event: Event) {
        let Some(server) = &self.server else {
            if let Event::Up { link, .. } = event {
                self.refuse(link);
            }
            return;
        };
        if self.now_ms < server.paused_until_ms {
            self.at(server.paused_until_ms, event);
            return;
        }
        let current = server.boot;
        match event {
            Event::Up { link, message } => {
                if self.network.arrives(self.now_ms, link) {
                    self.message(link, message);
                }
            }
            Event::Synced { boot, len } if boot == current => self.synced(len),
            Event::Tick { boot } if boot == current => {
                let now = server.clock(self.now_ms);
                self.liveness(now, liveness::Input::Tick);
                self.dispatch(Input::Tick);
                if let Some(server) = &mut self.server {
                    server.tick_ms = None;
                }
            }
            Event::CancelAgain { boot, job, reason } if boot == current => self.cancel(job, reason),
            _ => return,
        }
        self.round();
    }

    /// Nobody listens: the agent finds out soon.
    fn refuse(&mut self, link: usize) {
        self.network.cut(self.now_ms, link, &mut self.random);
        let ms = self.random.between(10, 200);
        self.after(ms, Event::LinkLost { link });
    }

    pub(crate) fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.boots += 1;
        let base_ms = self.random.between(0, 1 << 40);
        let mut server = Server::new(self.boots, base_ms, self.random.bits());
        let now = server.clock(self.now_ms);
        let mut outputs = Vec::new();
        for (node, &epoch) in &self.known {
            let known = liveness::Input::Known {
                node: node.clone(),
                epoch,
                cordoned: false,
                draining: false,
                offline: false,
            };
            server.liveness.step(now, known, &mut outputs);
            server.hear(self.now_ms, node);
        }
        let nodes: Vec<NodeId> = self.known.keys().cloned().collect();
        let deadline = now.plus_ms(REATTACH_MS);
        let mut out = Vec::new();
        server
            .dispatch
            .step(now, Input::AwaitNodes { nodes, deadline }, &mut out);
        for recovered in self.journal.replay() {
            self.next_job = self.next_job.max(recovered.submission.id.0 + 1);
            let recovered: Recovered = recovered;
            server
                .dispatch
                .step(now, Input::Recovered(recovered), &mut out);
        }
        self.checker.recovered(&server.dispatch, &self.journal);
        self.server = Some(server);
        self.carry_out(out);
        self.round();
    }

    pub(crate) fn crash_server(&mut self) {
        if self.server.take().is_none() {
            return;
        }
        self.journal.crash(&mut self.random);
        for agent in 0..self.agents.len() {
            if let Some(link) = self.agents[agent].link {
                self.network.cut(self.now_ms, link, &mut self.random);
                let ms = self.random.between(1, 1_000);
                self.after(ms, Event::LinkLost { link });
            }
        }
    }

    fn message(&mut self, link: usize, message: ToServer) {
        let agent = self.network.link(link).agent;
        let node = self.agents[agent].id.clone();
        let Some(server) = &mut self.server else {
            return;
        };
        let now = server.clock(self.now_ms);
        if let ToServer::Hello { held } = message {
            let mut out = Vec::new();
            let epoch = server.liveness.register(now, &node, &mut out);
            server.hear(self.now_ms, &node);
            self.known.insert(node.clone(), epoch);
            self.network.link_mut(link).epoch = Some(epoch);
            if let Some(old) = server.sessions.insert(node.clone(), link) {
                self.network.cut(self.now_ms, old, &mut self.random);
            }
            let (candidate, max_held) =
                (candidate(&self.agents[agent]), self.agents[agent].max_held);
            self.checker.hello(&node, &held);
            self.dispatch(Input::NodeUp {
                node,
                epoch,
                candidate,
                max_held: max_held as u32,
                held,
            });
            self.judge(out, Some(link));
            return;
        }
        let Some(epoch) = self.network.link(link).epoch else {
            return;
        };
        match message {
            ToServer::Hello { .. } => {}
            ToServer::Heartbeat => self.heartbeat(now, node, epoch, link),
            ToServer::Results(results) => self.results(now, &node, epoch, &results, link),
            ToServer::Started(tasks) => self.dispatch(Input::Started { node, epoch, tasks }),
            ToServer::Handback(tasks, reason) => {
                self.dispatch(Input::Handback {
                    node,
                    epoch,
                    tasks,
                    reason,
                });
            }
        }
    }

    fn heartbeat(&mut self, now: Monotonic, node: NodeId, epoch: Epoch, link: usize) {
        let Some(server) = &mut self.server else {
            return;
        };
        let mut out = Vec::new();
        let heartbeat = liveness::Input::Heartbeat {
            node: node.clone(),
            epoch,
        };
        server.liveness.step(now, heartbeat, &mut out);
        if !out
            .iter()
            .any(|output| matches!(output, liveness::Output::Fenced { .. }))
        {
            server.hear(self.now_ms, &node);
        }
        self.judge(out, Some(link));
    }

    fn liveness(&mut self, now: Monotonic, input: liveness::Input) {
        let mut out = Vec::new();
        if let Some(server) = &mut self.server {
            server.liveness.step(now, input, &mut out);
        }
        self.judge(out, None);
    }

    /// Carries out what the leases say; `link` is whose message it was.
    fn judge(&mut self, out: Vec<liveness::Output>, link: Option<usize>) {
        for output in out {
            match output {
                liveness::Output::StateChanged { node, to, .. } => {
                    let availability = availability(to);
                    self.dispatch(Input::NodeAvailability { node, availability });
                }
                liveness::Output::LeaseLost { node, epoch } => {
                    if let Some(server) = &mut self.server {
                        let silent_ms = server.silent_ms(self.now_ms, &node);
                        let ttl_ms = server.liveness.config().ttl_ms;
                        self.checker.lose_lease(&node, silent_ms, ttl_ms);
                        if let Some(link) = server.sessions.remove(&node) {
                            self.goodbye(link);
                        }
                    }
                    self.dispatch(Input::NodeDown { node, epoch });
                }
                liveness::Output::Fenced { .. } => {
                    if let Some(link) = link {
                        self.goodbye(link);
                    }
                }
            }
        }
    }

    fn goodbye(&mut self, link: usize) {
        self.send_down(link, ToAgent::Goodbye);
    }

    fn results(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        epoch: Epoch,
        results: &[TaskResult],
        link: usize,
    ) {
        let mut out = Vec::new();
        let Some(server) = &mut self.server else {
            return;
        };
        let accepted = server.dispatch.accept(now, node, epoch, results, &mut out);
        let mut records = Vec::new();
        for (result, verdict) in results.iter().zip(accepted.verdicts) {
            match verdict {
                Verdict::Record(state) => records.push(FinalTask {
                    at: result.at,
                    state,
                    reason: match result.outcome {
                        Outcome::Completed => None,
                        Outcome::Failed(reason) => Some(reason),
                    },
                }),
                Verdict::Retry => {
                    self.journal.append([Record::Note(result.at)], None);
                }
                Verdict::Pending | Verdict::Ignore => {}
                Verdict::Fenced => {
                    self.goodbye(link);
                    break;
                }
            }
        }
        self.carry_out(out);
        if let Some(batch) = accepted.batch {
            self.record(batch, &records);
        }
    }

    /// Appends results; the dispatcher hears when they are on disk, or that they are not.
    fn record(&mut self, batch: BatchId, finals: &[FinalTask]) {
        let records = finals.iter().copied().map(Record::Final);
        if !self.journal.append(records, Some(Waiter::Batch(batch))) {
            self.dispatch(Input::RecordFailed { batch });
            return;
        }
        for done in finals {
            self.checker.record(done.at);
        }
        self.sync_soon();
        #[cfg(feature = "planted")]
        if crate::planted::is_planted(crate::planted::Bug::VisibleBeforeDisk) {
            self.dispatch(Input::Recorded { batch });
        }
    }

    fn sync_soon(&mut self) {
        let ms = if self.random.chance(20) {
            self.random.between(50, 500)
        } else {
            self.random.between(1, 10)
        };
        if let Some(server) = &self.server {
            let (boot, len) = (server.boot, self.journal.len());
            self.after(ms, Event::Synced { boot, len });
        }
    }

    fn synced(&mut self, len: usize) {
        for waiter in self.journal.sync(len) {
            match waiter {
                Waiter::Batch(batch) => self.dispatch(Input::Recorded { batch }),
                Waiter::Cancel(job, reason) => {
                    let tasks = None;
                    self.checker.cancel(job);
                    self.dispatch(Input::Cancel { job, tasks, reason });
                }
                Waiter::Job(job) => self.acknowledge(job),
            }
        }
    }

    fn acknowledge(&mut self, job: JobId) {
        let submitting = self
            .server
            .as_mut()
            .and_then(|server| server.submitting.remove(&job));
        if let Some(submission) = submitting {
            self.checker.acknowledged.insert(job, submission.tasks);
            self.dispatch(Input::Submit(submission));
        }
    }

    /// The client submits a job, or cancels one.
    pub(super) fn client(&mut self) {
        if self.is_calm {
            return;
        }
        let ms = self.random.between(50, 2_500);
        self.after(ms, Event::Client);
        let listens = self
            .server
            .as_ref()
            .is_some_and(|server| server.paused_until_ms <= self.now_ms);
        if !listens {
            return;
        }
        let jobs: Vec<JobId> = self.checker.acknowledged.keys().copied().collect();
        if !jobs.is_empty() && self.random.chance(12) {
            let which = self.random.between(0, jobs.len() as u64 - 1) as usize;
            self.cancel(jobs[which], Reason::Cancelled);
        } else if self.may_submit() {
            self.submit();
        }
        self.round();
    }

    fn submit(&mut self) {
        let id = JobId(self.next_job);
        self.next_job += 1;
        let mut submission = client::job(id, &mut self.random);
        let Some(server) = &mut self.server else {
            return;
        };
        if server.dispatch.check_after(id, &submission.after).is_err() {
            submission.after.clear();
        }
        if server.dispatch.admit(submission.weight()).is_err() {
            return;
        }
        let record = Record::Job(Box::new(submission.clone()));
        if !self.journal.append([record], Some(Waiter::Job(id))) {
            server.dispatch.abandon(submission.weight());
            return;
        }
        self.checker.submit(&submission);
        server.submitting.insert(id, submission);
        self.sync_soon();
        #[cfg(feature = "planted")]
        if crate::planted::is_planted(crate::planted::Bug::AcknowledgedBeforeDisk) {
            self.acknowledge(id);
        }
    }

    fn cancel(&mut self, job: JobId, reason: Reason) {
        let Some(server) = &self.server else {
            return;
        };
        if server
            .dispatch
            .job_state(job)
            .is_none_or(weft_types::JobState::is_final)
        {
            return;
        }
        let boot = server.boot;
        let record = Record::Cancel(job, reason);
        if self
            .journal
            .append([record], Some(Waiter::Cancel(job, reason)))
        {
            self.sync_soon();
        } else {
            self.after(CANCEL_AGAIN_MS, Event::CancelAgain { boot, job, reason });
        }
    }

    fn dispatch(&mut self, input: Input) {
        let mut out = Vec::new();
        if let Some(server) = &mut self.server {
            let now = server.clock(self.now_ms);
            server.dispatch.step(now, input, &mut out);
        }
        self.carry_out(out);
    }

    /// Hands out what can be handed out, looks at everything, and sets the clock.
    fn round(&mut self) {
        let mut out = Vec::new();
        let Some(server) = &mut self.server else {
            return;
        };
        let now = server.clock(self.now_ms);
        if server.dispatch.next_tick().is_some_and(|due| due <= now) {
            server.dispatch.step(now, Input::Tick, &mut out);
        }
        server.dispatch.assign(now, &mut out);
        self.carry_out(out);
        let Some(server) = &mut self.server else {
            return;
        };
        let nodes: Vec<(NodeId, u32)> = self
            .agents
            .iter()
            .map(|agent| (agent.id.clone(), agent.slots as u32))
            .collect();
        self.checker.look(&server.dispatch, &nodes, MAX_TASKS);
        if let Some(due_ms) = server.next_tick_ms(self.now_ms)
            && server
                .tick_ms
                .is_none_or(|set_ms| due_ms < set_ms || set_ms <= self.now_ms)
        {
            server.tick_ms = Some(due_ms);
            let boot = server.boot;
            self.at(due_ms, Event::Tick { boot });
        }
    }

    fn carry_out(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Assign { node, epoch, runs } => {
                    let live = self
                        .server
                        .as_ref()
                        .is_some_and(|server| server.liveness.is_live(&node, epoch));
                    let provider = self.provider(&node);
                    self.checker.assign(&node, live, provider, &runs);
                    self.send_to(&node, ToAgent::Dispatch(runs));
                }
                Output::Attached { node, stop, .. } => {
                    if let Some(server) = &self.server {
                        self.checker.attached(&server.dispatch, &node, &stop);
                    }
                    self.send_to(&node, ToAgent::Welcome { stop })
                }
                Output::Stop { node, tasks, .. } => self.send_to(&node, ToAgent::Stop(tasks)),
                Output::Recall { node, tasks, .. } => self.send_to(&node, ToAgent::Recall(tasks)),
                Output::Ack { node, tasks } => self.send_to(&node, ToAgent::Ack(tasks)),
                Output::Record { batch, tasks } => self.record(batch, &tasks),
                Output::CancelDue { job, reason, .. } => self.cancel(job, reason),
                Output::Finals(finals) => self.checker.announce(&finals),
                Output::SubstrateBreaker { substrate, state } => {
                    self.checker.substrate(&substrate, state);
                }
                Output::JobStarted { .. }
                | Output::Retrying { .. }
                | Output::Lost { .. }
                | Output::JobFinal { .. }
                | Output::Breaker { .. } => {}
            }
        }
    }

    fn provider(&self, node: &NodeId) -> &'static str {
        let agent = self.agents.iter().find(|agent| agent.id == *node);
        agent.map_or("", |agent| agent.provider)
    }

    fn send_to(&mut self, node: &NodeId, message: ToAgent) {
        let link = self
            .server
            .as_ref()
            .and_then(|server| server.sessions.get(node).copied());
        if let Some(link) = link {
            self.send_down(link, message);
        }
    }

    fn send_down(&mut self, link: usize, message: ToAgent) {
        if let Some(due_ms) =
            self.network
                .send(self.now_ms, link, Direction::Down, &mut self.random)
        {
            self.at(due_ms, Event::Down { link, message });
        }
    }
}
