//! Figures of services.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use weft_types::WorkloadState;

use super::cache::Tables;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Figures of services.
pub struct ServiceMetrics {
    workloads: Gauge,
    units: Family<StateLabel, Gauge>,
    reconcile_s: Histogram,
    conflicts: Counter,
    rollouts_failed: Counter,
    units_lost: Counter,
}

impl Default for ServiceMetrics {
    fn default() -> Self {
        Self {
            workloads: Gauge::default(),
            units: Family::default(),
            // From 10 microseconds to about 10 seconds.
            reconcile_s: Histogram::new(exponential_buckets(0.000_01, 4.0, 11)),
            conflicts: Counter::default(),
            rollouts_failed: Counter::default(),
            units_lost: Counter::default(),
        }
    }
}

impl ServiceMetrics {
    /// Adds them to the others.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("services", "Services", self.workloads.clone());
        registry.register(
            "service_units",
            "Units of services, by state as their nodes report it",
            self.units.clone(),
        );
        registry.register_with_unit(
            "service_reconcile",
            "Time to plan one service",
            Unit::Seconds,
            self.reconcile_s.clone(),
        );
        registry.register(
            "service_plan_conflicts",
            "Plans of services that were made anew because something changed meanwhile",
            self.conflicts.clone(),
        );
        registry.register(
            "service_rollouts_failed",
            "Updates of services that failed, those that were rolled back included",
            self.rollouts_failed.clone(),
        );
        registry.register(
            "service_units_lost",
            "Units of services that were lost with their node",
            self.units_lost.clone(),
        );
    }

    /// A service was planned.
    pub fn reconcile(&self, took: Duration) {
        self.reconcile_s.observe(took.as_secs_f64());
    }

    /// A plan came too late.
    pub fn conflict(&self) {
        self.conflicts.inc();
    }

    /// The scheduler did something that is told.
    pub fn event(&self, kind: &str) {
        match kind {
            "service.rolled-back" | "service.update-failed" => self.rollouts_failed.inc(),
            "service.unit-lost" => self.units_lost.inc(),
            _ => 0,
        };
    }

    /// Counts services and units as they are now.
    pub fn count(&self, tables: &Tables) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.workloads.set(whole(tables.workloads().count()));
        let mut states: BTreeMap<WorkloadState, usize> = BTreeMap::new();
        for kept in tables.assignments() {
            let status = tables.status(kept.value.unit);
            let state = status.map_or(WorkloadState::Starting, |kept| kept.value.state);
            *states.entry(state).or_default() += 1;
        }
        for state in WorkloadState::ALL {
            let label = StateLabel {
                state: state.as_str(),
            };
            let count = states.get(state).copied().unwrap_or(0);
            self.units.get_or_create(&label).set(whole(count));
        }
    }
}
