//! Figures for Prometheus, in OpenMetrics; every name begins with `weft_`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use weft_api::NodeView;
use weft_types::{NodeState, Reason, TaskState};

use crate::Error;
use crate::dispatch::Gauges;
use crate::intake::IntakeMetrics;

/// One state of tasks or nodes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

/// How an attempt ended: `completed`, or a failure reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NamespaceLabel {
    namespace: String,
}

/// A door of the interface.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Door {
    /// REST and JSON.
    Rest,
    /// gRPC.
    Grpc,
    /// WebSocket.
    WebSocket,
}

impl Door {
    const ALL: [Self; 3] = [Self::Rest, Self::Grpc, Self::WebSocket];

    fn label(self) -> DoorLabel {
        let door = match self {
            Self::Rest => "rest",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
        };
        DoorLabel { door }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DoorLabel {
    door: &'static str,
}

/// Counts something for as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The figures that are counted as things happen.
pub struct Metrics {
    registry: Registry,
    /// Figures of the queues that others push into.
    pub intake: IntakeMetrics,
    /// Jobs that were acknowledged.
    pub jobs_submitted: Counter,
    /// Tasks that were acknowledged.
    pub tasks_submitted: Counter,
    /// Tasks that were handed to nodes, again and again counted.
    pub tasks_assigned: Counter,
    /// Failed attempts that were tried again.
    pub retries: Counter,
    /// From handing results to the journal until they are on disk.
    pub journal_append_s: Histogram,
    attempts: Family<OutcomeLabel, Counter>,
    finals: Family<StateLabel, Counter>,
    run_s: Histogram,
    jobs: Gauge,
    tasks: Gauge,
    sessions: Gauge,
    queued: Family<NamespaceLabel, Gauge<i64>>,
    nodes: Family<StateLabel, Gauge<i64>>,
    subscriptions: Family<DoorLabel, Gauge>,
    websockets: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All figures at zero.
    pub fn new() -> Self {
        // From 100 microseconds to about 100 seconds.
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 4.0, 11));
        let mut metrics = Self {
            registry: Registry::with_prefix("weft"),
            intake: IntakeMetrics::default(),
            jobs_submitted: Counter::<u64, AtomicU64>::default(),
            tasks_submitted: Counter::default(),
            tasks_assigned: Counter::default(),
            retries: Counter::default(),
            journal_append_s: seconds(),
            attempts: Family::default(),
            finals: Family::default(),
            run_s: seconds(),
            jobs: Gauge::default(),
            tasks: Gauge::default(),
            sessions: Gauge::default(),
            queued: Family::default(),
            nodes: Family::default(),
            subscriptions: Family::default(),
            websockets: Gauge::default(),
        };
        for door in Door::ALL {
            metrics.subscriptions.get_or_create(&door.label()).set(0);
        }
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        self.intake.register(registry);
        registry.register(
            "jobs_submitted",
            "Jobs that were acknowledged",
            self.jobs_submitted.clone(),
        );
        registry.register(
            "tasks_submitted",
            "Tasks that were acknowledged",
            self.tasks_submitted.clone(),
        );
        registry.register(
            "tasks_assigned",
            "Assignments of tasks to nodes",
            self.tasks_assigned.clone(),
        );
        registry.register(
            "task_retries",
            "Failed attempts that were tried again",
            self.retries.clone(),
        );
        registry.register(
            "task_attempts",
            "Attempts that were reported, by outcome",
            self.attempts.clone(),
        );
        registry.register(
            "tasks_final",
            "Tasks that became final, by state",
            self.finals.clone(),
        );
        registry.register_with_unit(
            "task_run",
            "Time from start to end of an attempt",
            Unit::Seconds,
            self.run_s.clone(),
        );
        registry.register_with_unit(
            "journal_append",
            "Time until results are on disk",
            Unit::Seconds,
            self.journal_append_s.clone(),
        );
        registry.register("jobs", "Jobs in memory", self.jobs.clone());
        registry.register("tasks", "Tasks in memory", self.tasks.clone());
        registry.register(
            "node_sessions",
            "Nodes with a session",
            self.sessions.clone(),
        );
        registry.register(
            "tasks_queued",
            "Tasks that wait for a node, by namespace",
            self.queued.clone(),
        );
        registry.register("nodes", "Nodes by state", self.nodes.clone());
        registry.register(
            "subscriptions",
            "Clients that follow a job, results or events, by door",
            self.subscriptions.clone(),
        );
        registry.register(
            "websocket_connections",
            "Open WebSocket connections",
            self.websockets.clone(),
        );
    }

    /// Counts a client that follows something at a door, until the returned value is dropped.
    pub fn subscription(&self, door: Door) -> Counted {
        Counted::new(self.subscriptions.get_or_create(&door.label()).clone())
    }

    /// Counts a WebSocket connection, until the returned value is dropped.
    pub fn websocket(&self) -> Counted {
        Counted::new(self.websockets.clone())
    }

    /// Counts a reported attempt.
    pub fn attempt(&self, reason: Option<Reason>, run_us: u64) {
        let outcome = reason.map_or("completed", Reason::as_str).to_owned();
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
        self.run_s.observe(run_us as f64 / 1e6);
    }

    /// Counts a task that became final.
    pub fn task_final(&self, state: TaskState) {
        self.finals
            .get_or_create(&StateLabel {
                state: state.as_str().to_owned(),
            })
            .inc();
    }

    /// Everything as text.
    ///
    /// # Errors
    /// When the text cannot be made, which is a defect.
    pub fn encode(&self, gauges: &Gauges, nodes: &[NodeView]) -> Result<String, Error> {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.jobs.set(whole(gauges.jobs));
        self.tasks.set(whole(gauges.tasks));
        self.sessions.set(whole(gauges.sessions));
        self.queued.clear();
        for (namespace, count) in &gauges.queued {
            self.queued
                .get_or_create(&NamespaceLabel {
                    namespace: namespace.clone(),
                })
                .set(whole(*count));
        }
        let mut states: BTreeMap<NodeState, i64> =
            NodeState::ALL.iter().map(|state| (*state, 0)).collect();
        for node in nodes {
            *states.entry(node.state).or_insert(0) += 1;
        }
        for (state, count) in states {
            self.nodes
                .get_or_create(&StateLabel {
                    state: state.as_str().to_owned(),
                })
                .set(count);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|error| Error::Corrupt {
            what: "metrics".to_owned(),
            detail: error.to_string(),
        })?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_the_prefix_and_a_description() {
        let metrics = Metrics::new();
        metrics.attempt(Some(Reason::Timeout), 1_000);
        metrics.task_final(TaskState::Dead);
        let text = metrics.encode(&Gauges::default(), &[]).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let names = text.lines().filter(|line| line.starts_with("# HELP"));
        assert!(
            names.clone().count() >= 12
                && names.clone().all(|line| line.starts_with("# HELP weft_")),
            "{text}"
        );
        assert!(
            text.contains("weft_task_attempts_total{outcome=\"timeout\"} 1"),
            "{text}"
        );
    }
}
