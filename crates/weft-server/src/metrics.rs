//! Figures for Prometheus, in OpenMetrics; every name begins with `weft_`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use weft_api::{BreakerState, NodeView};
use weft_types::{NodeState, NodeValidity, Reason, TaskState, Timestamp};

use crate::Error;
use crate::activity::Activity;
use crate::dispatch::Gauges;
use crate::intake::IntakeMetrics;
use crate::services::metrics::ServiceMetrics;

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

/// Tasks of one namespace in one state.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DepthLabels {
    namespace: String,
    state: String,
}

/// Why an attempt failed, and who can do something about it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailureLabels {
    reason: String,
    class: String,
}

/// How much life is left in a certificate.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ValidityLabel {
    validity: String,
}

/// Whose certificate: `ca`, `server` or `admin`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IdentityLabel {
    identity: String,
}

/// The figures that are counted as things happen.
pub struct Metrics {
    registry: Registry,
    /// Figures of the queues that others push into.
    pub intake: IntakeMetrics,
    /// Figures of services.
    pub services: ServiceMetrics,
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
    /// How long syncs of the journal take.
    pub journal_sync_s: Histogram,
    /// What nodes do.
    pub activity: Activity,
    dispatch_s: Histogram,
    failures: Family<FailureLabels, Counter>,
    depth: Family<DepthLabels, Gauge<i64>>,
    dead: Family<NamespaceLabel, Gauge<i64>>,
    breakers: Family<StateLabel, Gauge<i64>>,
    node_certificates: Family<ValidityLabel, Gauge<i64>>,
    certificate_expiry: Family<IdentityLabel, Gauge<i64>>,
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
            services: ServiceMetrics::default(),
            jobs_submitted: Counter::<u64, AtomicU64>::default(),
            tasks_submitted: Counter::default(),
            tasks_assigned: Counter::default(),
            retries: Counter::default(),
            journal_append_s: seconds(),
            journal_sync_s: seconds(),
            activity: Activity::default(),
            dispatch_s: seconds(),
            failures: Family::default(),
            depth: Family::default(),
            dead: Family::default(),
            breakers: Family::default(),
            node_certificates: Family::default(),
            certificate_expiry: Family::default(),
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
        metrics.register_flow();
        metrics.register_state();
        metrics
    }

    /// What is counted as things happen.
    fn register_flow(&mut self) {
        let registry = &mut self.registry;
        self.intake.register(registry);
        self.services.register(registry);
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
            "task_failures",
            "Failed attempts, those that no node reported included, by reason and by who can do something about it",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "dispatch_latency",
            "Time from a job being on disk to the first hand-out of each of its tasks",
            Unit::Seconds,
            self.dispatch_s.clone(),
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
        registry.register_with_unit(
            "journal_fsync",
            "Time of one sync of the journal to disk",
            Unit::Seconds,
            self.journal_sync_s.clone(),
        );
    }

    /// What is looked up when somebody asks.
    fn register_state(&mut self) {
        let registry = &mut self.registry;
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
        registry.register(
            "queue_depth",
            "Tasks that have not ended, by namespace and state",
            self.depth.clone(),
        );
        registry.register(
            "dead_letters",
            "Tasks that used up their attempts and wait to be requeued or dropped, by namespace",
            self.dead.clone(),
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
        registry.register(
            "node_breakers",
            "Nodes by the state of their circuit breaker; an open one gets no work",
            self.breakers.clone(),
        );
        registry.register(
            "node_certificates",
            "Nodes by how much life is left in their certificates",
            self.node_certificates.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When a certificate of the control plane ends, since the Unix epoch",
            Unit::Seconds,
            self.certificate_expiry.clone(),
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

    /// A task was handed out for the first time.
    pub fn dispatched(&self, waited: Duration, tasks: u32) {
        let seconds = waited.as_secs_f64();
        for _ in 0..tasks {
            self.dispatch_s.observe(seconds);
        }
    }

    /// A certificate of the control plane ends then.
    pub fn certificate(&self, identity: &str, ends: Timestamp) {
        let label = IdentityLabel {
            identity: identity.to_owned(),
        };
        let seconds = ends.as_millis() / 1_000;
        self.certificate_expiry
            .get_or_create(&label)
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Attempts failed; also called for those that no node reports.
    pub fn failed(&self, reason: Reason, attempts: u64) {
        let class = serde_json::to_value(reason.class()).unwrap_or_default();
        let labels = FailureLabels {
            reason: reason.as_str().to_owned(),
            class: class.as_str().unwrap_or_default().to_owned(),
        };
        self.failures.get_or_create(&labels).inc_by(attempts);
    }

    /// Counts a reported attempt.
    pub fn attempt(&self, reason: Option<Reason>, run_us: u64) {
        let outcome = reason.map_or("completed", Reason::as_str).to_owned();
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
        self.run_s.observe(run_us as f64 / 1e6);
        if let Some(reason) = reason {
            self.failed(reason, 1);
        }
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
        self.jobs.set(whole(gauges.jobs));
        self.tasks.set(whole(gauges.tasks));
        self.sessions.set(whole(gauges.sessions));
        self.encode_tasks(gauges);
        self.encode_nodes(nodes);
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|error| Error::Corrupt {
            what: "metrics".to_owned(),
            detail: error.to_string(),
        })?;
        Ok(text)
    }

    fn encode_tasks(&self, gauges: &Gauges) {
        self.queued.clear();
        self.depth.clear();
        self.dead.clear();
        for (namespace, counts) in &gauges.counts {
            let namespace = namespace.clone();
            if counts.queued > 0 {
                let label = NamespaceLabel {
                    namespace: namespace.clone(),
                };
                self.queued.get_or_create(&label).set(whole(counts.queued));
            }
            for &state in TaskState::ALL.iter().filter(|state| !state.is_final()) {
                let labels = DepthLabels {
                    namespace: namespace.clone(),
                    state: state.as_str().to_owned(),
                };
                self.depth
                    .get_or_create(&labels)
                    .set(whole(counts.get(state)));
            }
            // A namespace without dead letters says 0, so that their growth from none is seen.
            let dead = gauges.dead.get(&namespace).copied().unwrap_or(0);
            let label = NamespaceLabel { namespace };
            self.dead.get_or_create(&label).set(whole(dead));
        }
    }

    fn encode_nodes(&self, nodes: &[NodeView]) {
        let state = |state: &str| StateLabel {
            state: state.to_owned(),
        };
        let count = |wanted: &dyn Fn(&NodeView) -> bool| {
            whole(nodes.iter().filter(|node| wanted(node)).count() as u64)
        };
        for &wanted in NodeState::ALL {
            self.nodes
                .get_or_create(&state(wanted.as_str()))
                .set(count(&|node| node.state == wanted));
        }
        for &wanted in BreakerState::ALL {
            self.breakers
                .get_or_create(&state(wanted.as_str()))
                .set(count(&|node| node.breaker == wanted));
        }
        for &wanted in NodeValidity::ALL {
            let label = ValidityLabel {
                validity: wanted.as_str().to_owned(),
            };
            let has = |node: &NodeView| {
                node.certificate
                    .as_ref()
                    .is_some_and(|certificate| certificate.validity == wanted)
            };
            self.node_certificates
                .get_or_create(&label)
                .set(count(&has));
        }
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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

    /// The figures that a text names, without the suffixes of their samples.
    fn named(text: &str) -> Vec<&str> {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let words = text.split(|c: char| !is_name(c));
        words.filter(|word| word.starts_with("weft_")).collect()
    }

    #[test]
    fn every_figure_of_the_alert_rules_exists() {
        let metrics = Metrics::new();
        metrics.certificate("ca", Timestamp(0));
        metrics.failed(Reason::NodeLost, 1);
        let counts = weft_types::TaskCounts {
            queued: 1,
            dead: 1,
            ..Default::default()
        };
        let gauges = Gauges {
            counts: [("default".to_owned(), counts)].into(),
            ..Gauges::default()
        };
        let text = metrics.encode(&gauges, &[]).unwrap();
        let known: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let rules = include_str!("../../../docs/prometheus/weft.rules.yml");
        let rules: Vec<&str> = rules
            .lines()
            .filter(|line| line.trim_start().starts_with("expr:"))
            .flat_map(named)
            .collect();
        assert!(rules.len() >= 6, "{rules:?}");
        for rule in rules {
            let exists = ["", "_total", "_bucket", "_count", "_sum"]
                .iter()
                .any(|suffix| {
                    rule.strip_suffix(suffix)
                        .is_some_and(|n| known.contains(&n))
                });
            assert!(exists, "{rule} is in the rules and not in /metrics");
        }
    }

    #[test]
    fn a_namespace_without_dead_letters_says_so() {
        let metrics = Metrics::new();
        let counts = weft_types::TaskCounts {
            running: 2,
            ..Default::default()
        };
        let gauges = Gauges {
            counts: [("default".to_owned(), counts)].into(),
            ..Gauges::default()
        };
        let text = metrics.encode(&gauges, &[]).unwrap();
        assert!(
            text.contains("weft_dead_letters{namespace=\"default\"} 0"),
            "{text}"
        );
        let running = "weft_queue_depth{namespace=\"default\",state=\"running\"} 2";
        assert!(text.contains(running), "{text}");
    }
}
