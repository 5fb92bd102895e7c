//! Services as the API shows them.

use weft_api::{
    ReplicasView, RolloutPhase, RolloutView, UnitLoadView, UnitView, WhyView, WorkloadView, rfc3339,
};
use weft_core::service::Summary;
use weft_core::service::record::{Assignment, Intent, RolloutState, UnitStatus, WorkloadRecord};
use weft_types::{NodeState, Reason, Timestamp, WorkloadState};

use super::apply::name_of;
use super::cache::Service;
use super::ports::published;
use crate::outcome::why;
use crate::state::Server;

/// The most addresses that are told with a service.
const MAX_ADDRESSES: usize = 16;

/// How much of a service is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// For a list.
    Row,
    /// With what is wanted and every unit.
    Full,
}

/// A service.
pub fn view(server: &Server, service: &Service, detail: Detail) -> WorkloadView {
    let record = &service.record.value;
    let summary = server.services.summaries.of(record.id);
    let units: Vec<UnitView> = service
        .units
        .iter()
        .map(|(assignment, status)| {
            let status = status.as_ref().map(|kept| kept.value.as_ref());
            unit_view(server, &assignment.value, status)
        })
        .collect();
    let replicas = replicas(service, &units);
    let (state, waits) = state(service, summary.as_ref(), &units, replicas);
    let waits = waits.or_else(|| port_trouble(server, record));
    let retry = service.retry.as_ref().map(|kept| &kept.value);
    let worst = units.iter().find(|unit| unit.why.is_some());
    let text = |ms: u64| rfc3339(Timestamp(ms));
    WorkloadView {
        id: record.id.to_string(),
        name: name_of(&record.spec).to_owned(),
        namespace: record.spec.namespace.to_string(),
        runtime: record.spec.runtime.to_string(),
        state,
        why: waits,
        step: worst.and_then(|unit| unit.step.clone()),
        next_try_at: retry.map(|retry| text(retry.next_ms)),
        failures: retry.map_or(0, |retry| retry.failures),
        revision: record.revision,
        replicas,
        rollout: rollout(service),
        ports: published(&record.spec)
            .iter()
            .map(|(_, port)| port_text(port))
            .collect(),
        created_at: text(record.created_ms),
        changed_at: text(record.changed_ms),
        spec: (detail == Detail::Full).then(|| record.spec.clone()),
        addresses: addresses(&units),
        units: if detail == Detail::Full {
            units
        } else {
            Vec::new()
        },
    }
}

fn addresses(units: &[UnitView]) -> Vec<String> {
    let all = units.iter().filter_map(|unit| unit.address.clone());
    all.take(MAX_ADDRESSES).collect()
}

/// Why a published port is not served everywhere.
fn port_trouble(server: &Server, record: &WorkloadRecord) -> Option<WhyView> {
    let errors = server.services.port_errors.of(record.id);
    if errors.is_empty() {
        return None;
    }
    let mut view = why(Reason::NetworkError, &errors.join("; "));
    view.next = Some("free the port there, or publish another".to_owned());
    Some(view)
}

fn port_text(port: &weft_types::PortSpec) -> String {
    let protocol = match port.protocol {
        weft_types::Protocol::Tcp => "tcp",
        weft_types::Protocol::Http => "http",
    };
    format!("{}:{}/{protocol}", port.port, port.target)
}

/// How many replicas there should be now.
pub fn wanted(record: &WorkloadRecord, scaled: Option<u32>) -> u32 {
    if record.stopped || record.deleting {
        return 0;
    }
    let replicas = record.spec.replicas.unwrap_or_default();
    let scaled = scaled.filter(|_| record.spec.scaling.is_some());
    let wanted = record.scale.or(scaled).unwrap_or(replicas.target);
    wanted.clamp(replicas.min, replicas.max)
}

fn replicas(service: &Service, units: &[UnitView]) -> ReplicasView {
    let record = &service.record.value;
    let scaled = service.rollout.as_ref().and_then(|kept| kept.value.scaled);
    let count = |is: &dyn Fn(&UnitView) -> bool| {
        u32::try_from(units.iter().filter(|unit| is(unit)).count()).unwrap_or(u32::MAX)
    };
    let stays = |unit: &UnitView| unit.stopping.is_none();
    ReplicasView {
        wanted: wanted(record, scaled),
        existing: count(&|_| true),
        running: count(&|unit| unit.state == WorkloadState::Running),
        ready: count(&|unit| unit.ready && stays(unit)),
        updated: count(&|unit| unit.revision == record.revision && stays(unit)),
    }
}

/// Where a service is in its life, and why it waits or failed.
fn state(
    service: &Service,
    summary: Option<&Summary>,
    units: &[UnitView],
    replicas: ReplicasView,
) -> (WorkloadState, Option<WhyView>) {
    let record = &service.record.value;
    let any = |state| units.iter().any(|unit| unit.state == state);
    let worst = || units.iter().find_map(|unit| unit.why.clone());
    if replicas.wanted == 0 && !record.deleting && units.is_empty() {
        return (WorkloadState::Stopped, None);
    }
    let waits = waits(service, summary).or_else(worst);
    if replicas.ready > 0 || (any(WorkloadState::Running) && waits.is_none()) {
        return (WorkloadState::Running, waits);
    }
    if any(WorkloadState::Failed) || (service.retry.is_some() && units.is_empty()) {
        return (WorkloadState::Failed, waits);
    }
    if any(WorkloadState::Running) {
        return (WorkloadState::Running, waits);
    }
    if any(WorkloadState::Starting) {
        return (WorkloadState::Starting, waits);
    }
    if any(WorkloadState::Unknown) {
        return (WorkloadState::Unknown, waits);
    }
    if units.is_empty() && waits.is_none() {
        return (WorkloadState::Placing, None);
    }
    let ended = units.iter().map(|unit| unit.state).max();
    (ended.unwrap_or(WorkloadState::Pending), waits)
}

/// Why it waits for a place, or for its next try.
fn waits(service: &Service, summary: Option<&Summary>) -> Option<WhyView> {
    if let Some(waiting) = summary.and_then(|summary| summary.waiting.as_ref()) {
        let mut view = why(waiting.reason, &waiting.detail);
        let id = service.record.value.id;
        let nearest = waiting.nearest.as_ref().map(ToString::to_string);
        view.next = Some(nearest.unwrap_or_else(|| format!("weft explain {id}")));
        return Some(view);
    }
    let retry = &service.retry.as_ref()?.value;
    Some(why(retry.reason, &retry.detail))
}

fn rollout(service: &Service) -> RolloutView {
    let Some(rollout) = service.rollout.as_ref().map(|kept| &kept.value) else {
        return RolloutView {
            state: RolloutPhase::Progressing,
            detail: None,
            good_revision: None,
        };
    };
    let record = &service.record.value;
    let is_older = rollout.revision != record.revision || rollout.restarts != record.restarts;
    let (state, detail) = match &rollout.state {
        _ if is_older => (RolloutPhase::Progressing, None),
        RolloutState::Progressing { .. } => (RolloutPhase::Progressing, None),
        RolloutState::Complete { .. } => (RolloutPhase::Complete, None),
        RolloutState::Failed {
            reason,
            detail,
            rolled_back,
            ..
        } => {
            let phase = if *rolled_back {
                RolloutPhase::RolledBack
            } else {
                RolloutPhase::Failed
            };
            (phase, Some(format!("{reason}: {detail}")))
        }
    };
    RolloutView {
        state,
        detail,
        good_revision: rollout.good.as_ref().map(|good| good.revision),
    }
}

/// One unit.
pub fn unit_view(
    server: &Server,
    assignment: &Assignment,
    status: Option<&UnitStatus>,
) -> UnitView {
    let unheard = server.liveness.state(&assignment.node) == Some(NodeState::Offline);
    let reported = status.map_or(WorkloadState::Starting, |status| status.state);
    let text = |ms: u64| rfc3339(Timestamp(ms));
    let stopping = (assignment.intent == Intent::Stop).then(|| assignment.why.clone());
    let failure = status.and_then(|status| {
        let reason = status.reason?;
        Some(why(reason, &status.detail))
    });
    let lost = unheard.then(|| why(Reason::NodeLost, "its node cannot be heard"));
    let busy = status.filter(|status| status.reason.is_none());
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    UnitView {
        id: assignment.unit.to_string(),
        number: assignment.unit.number,
        node: assignment.node.to_string(),
        revision: assignment.revision,
        state: if unheard {
            WorkloadState::Unknown
        } else {
            reported
        },
        ready: !unheard && status.is_some_and(|status| status.ready),
        stopping,
        why: lost.or(failure),
        step: status.and_then(|status| given(&status.step)),
        doing: busy.and_then(|status| given(&status.detail)),
        evidence: status.map(|s| s.evidence.clone()).unwrap_or_default(),
        exit_code: status.and_then(|status| status.exit_code),
        restarts: status.map_or(0, |status| status.restarts),
        next_try_at: status.and_then(|status| status.next_try_ms).map(text),
        address: status.and_then(|status| status.address.clone()),
        source: status.and_then(|status| status.source.clone()),
        parts: status.map(|s| s.parts.clone()).unwrap_or_default(),
        load: server
            .services
            .loads
            .of(assignment.unit, server.clock.steady())
            .map(|load| UnitLoadView {
                cpu_millicores: load.cpu_millicores,
                memory_bytes: load.memory_bytes,
                disk_bytes: load.disk_bytes,
                rx_bytes: load.rx_bytes,
                tx_bytes: load.tx_bytes,
                requests_per_1000s: load.requests_per_1000s,
            }),
        since: text(status.map_or(assignment.created_ms, |status| status.since_ms)),
    }
}
