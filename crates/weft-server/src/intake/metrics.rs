//! Figures of the doors, by queue.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

/// Figures of the doors.
#[derive(Default)]
pub struct IntakeMetrics {
    taken: Family<QueueLabel, Counter>,
    acked: Family<QueueLabel, Counter>,
    rejected: Family<QueueLabel, Counter>,
    redelivered: Family<QueueLabel, Counter>,
    stale: Family<QueueLabel, Counter>,
    errors: Family<QueueLabel, Counter>,
    connected: Family<QueueLabel, Gauge>,
    in_flight: Family<QueueLabel, Gauge>,
    waiting: Family<QueueLabel, Gauge>,
}

impl IntakeMetrics {
    /// Names them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("intake_taken", "Jobs taken from a queue", &self.taken),
            (
                "intake_acked",
                "Jobs of a queue that ended with a result",
                &self.acked,
            ),
            (
                "intake_rejected",
                "Jobs of a queue that became dead letters",
                &self.rejected,
            ),
            (
                "intake_redelivered",
                "Jobs taken that had been delivered before",
                &self.redelivered,
            ),
            (
                "intake_stale",
                "Ends of jobs that somebody else had by then",
                &self.stale,
            ),
            (
                "intake_errors",
                "Calls of a queue that failed and are tried again",
                &self.errors,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
        let gauges = [
            (
                "intake_connected",
                "1 while a queue answers, else 0",
                &self.connected,
            ),
            (
                "intake_in_flight",
                "Jobs of a queue that were taken and have not ended",
                &self.in_flight,
            ),
            (
                "intake_waiting",
                "Jobs that wait in a queue, as last seen",
                &self.waiting,
            ),
        ];
        for (name, help, family) in gauges {
            registry.register(name, help, family.clone());
        }
    }

    /// The figures of one queue.
    pub(super) fn of(&self, queue: &'static str) -> QueueMetrics {
        let label = QueueLabel { queue };
        let counter = |family: &Family<QueueLabel, Counter>| family.get_or_create(&label).clone();
        let gauge = |family: &Family<QueueLabel, Gauge>| family.get_or_create(&label).clone();
        QueueMetrics {
            taken: counter(&self.taken),
            acked: counter(&self.acked),
            rejected: counter(&self.rejected),
            redelivered: counter(&self.redelivered),
            stale: counter(&self.stale),
            errors: counter(&self.errors),
            connected: gauge(&self.connected),
            in_flight: gauge(&self.in_flight),
            waiting: gauge(&self.waiting),
        }
    }
}

/// The figures of one queue.
pub(super) struct QueueMetrics {
    pub(super) taken: Counter,
    pub(super) acked: Counter,
    pub(super) rejected: Counter,
    pub(super) redelivered: Counter,
    pub(super) stale: Counter,
    pub(super) errors: Counter,
    pub(super) connected: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) waiting: Gauge,
}
