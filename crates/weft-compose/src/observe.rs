//! How a unit is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HealthStatusEnum, PortMap,
};
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Observed, PartStatus, Phase, Step, Unit, labels};

use crate::compose::{Compose, storage};
use crate::engine::{Part, names};
use crate::state::Record;

/// What the engine gives as exit code of a process that `SIGKILL` ended.
const KILLED: i32 = 137;

impl Compose {
    /// How all parts of a unit are.
    pub(crate) async fn look(&self, id: UnitId) -> Result<Observed, Error> {
        let parts = self.engine.parts(Step::Run, id, false).await?;
        if parts.is_empty() {
            return Ok(Observed::absent());
        }
        let record = self.state.record(id).map_err(storage(Step::Run))?;
        if let Some(record) = &record {
            self.bound_once(id, record)?;
        }
        let mut seen = Vec::new();
        for (part, name) in parts.iter().zip(names(&parts)) {
            if let Some(found) = self.engine.inspect(Step::Run, &part.id).await? {
                seen.push((name, found));
            }
        }
        let mut observed = sum(&seen);
        add_missing(&mut observed, record.as_ref(), &parts);
        observed.phase = worst(&observed.parts);
        observed.source = record
            .and_then(|record| record.commit)
            .map(|commit| format!("git:{commit}"));
        Ok(observed)
    }

    /// A machine that was started again has groups without limits, made by the engine.
    fn bound_once(&self, id: UnitId, record: &Record) -> Result<(), Error> {
        let Some(groups) = &self.groups else {
            return Ok(());
        };
        if self.bounded.lock().contains(&id) || !groups.exists(id) {
            return Ok(());
        }
        self.apply_limits(id, record, Step::Run)
    }

    pub(crate) fn apply_limits(
        &self,
        id: UnitId,
        record: &Record,
        step: Step,
    ) -> Result<(), Error> {
        let Some(groups) = &self.groups else {
            return Ok(());
        };
        groups.apply(id, record.limits).map_err(|error| {
            let detail = format!("the unit's limits: {error}");
            Error::new(step, Reason::RuntimeError, detail)
        })?;
        self.bounded.lock().insert(id);
        Ok(())
    }

    /// Whether everything that a unit of this revision has is there and runs, or has ended well
    /// while others run.
    pub(crate) async fn is_up(
        &self,
        unit: &Unit,
        record: &Record,
        step: Step,
    ) -> Result<bool, Error> {
        let containers = self.engine.containers(step, Some(unit.id), false).await?;
        let revision = unit.revision.to_string();
        let is_current = containers.iter().all(|container| {
            let labels = container.labels.as_ref();
            labels.and_then(|labels| labels.get(labels::REVISION)) == Some(&revision)
        });
        let wanted: u64 = record.services.iter().map(|service| service.count).sum();
        if !is_current || containers.len() as u64 != wanted {
            return Ok(false);
        }
        let phase = self.look(unit.id).await?.phase;
        Ok(matches!(phase, Phase::Running { .. }))
    }
}

fn sum(seen: &[(String, ContainerInspectResponse)]) -> Observed {
    let mut observed = Observed::absent();
    for (name, container) in seen {
        let state = container.state.clone().unwrap_or_default();
        let healthy = health(&state);
        observed.healthy = match (observed.healthy, healthy) {
            (Some(all), Some(this)) => Some(all && this),
            (all, this) => all.or(this),
        };
        let ports = container
            .network_settings
            .as_ref()
            .and_then(|net| net.ports.as_ref());
        for (target, address) in ports.map(published).unwrap_or_default() {
            observed.published.entry(target).or_insert(address);
        }
        observed.parts.push(PartStatus {
            name: name.clone(),
            phase: phase(&state),
            healthy,
        });
    }
    observed
}

/// Services of which some container is not there yet.
fn add_missing(observed: &mut Observed, record: Option<&Record>, parts: &[Part]) {
    for service in record.iter().flat_map(|record| &record.services) {
        let there = parts
            .iter()
            .filter(|part| part.service == service.name)
            .count() as u64;
        if there < service.count {
            observed.parts.push(PartStatus {
                name: service.name.clone(),
                phase: Phase::Created,
                healthy: None,
            });
        }
    }
}

/// The state of the whole: what failed, else what is not there yet, else what stands still, else
/// what runs; ended when all has ended well.
fn worst(parts: &[PartStatus]) -> Phase {
    let rank = |phase: &Phase| match phase {
        Phase::Exited {
            reason: Some(Reason::OomKilled),
            ..
        } => (5, 0, 0),
        Phase::Exited {
            exit_code, at_ms, ..
        } => match exit_code.unwrap_or(i32::MAX) {
            0 => (0, 0, *at_ms),
            code => (4, i64::from(code), 0),
        },
        Phase::Absent | Phase::Created => (3, 0, 0),
        Phase::Paused => (2, 0, 0),
        Phase::Running { since_ms } => (1, 0, *since_ms),
    };
    let found = parts.iter().max_by_key(|part| rank(&part.phase));
    let Some(part) = found else {
        return Phase::Absent;
    };
    let mut phase = part.phase.clone();
    if let Phase::Exited { detail, .. } = &mut phase {
        *detail = format!("{}: {detail}", part.name);
    }
    phase
}

fn phase(state: &ContainerState) -> Phase {
    use ContainerStateStatusEnum as S;
    match state.status {
        Some(S::RUNNING | S::STOPPING) => Phase::Running {
            since_ms: millis(state.started_at.as_deref()),
        },
        Some(S::PAUSED) => Phase::Paused,
        Some(S::EXITED | S::DEAD | S::REMOVING) => exited(state),
        // The engine itself starts it again, as its file says.
        Some(S::RESTARTING | S::CREATED | S::EMPTY) | None => Phase::Created,
    }
}

fn exited(state: &ContainerState) -> Phase {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    // The kernel tells every group beneath a limit of it; only what was killed went by it.
    let is_oom = state.oom_killed == Some(true) && code == Some(KILLED);
    let signal = code
        .filter(|code| (129..=192).contains(code))
        .map(|code| code - 128);
    let detail = match state.error.as_deref().unwrap_or_default() {
        "" if is_oom => "used more memory than its limit".to_owned(),
        "" => format!("ended with {}", code.unwrap_or_default()),
        said => said.to_owned(),
    };
    Phase::Exited {
        exit_code: code,
        signal,
        reason: is_oom.then_some(Reason::OomKilled),
        detail,
        at_ms: millis(state.finished_at.as_deref()),
    }
}

/// What a health check says: not yet, as long as it has not said anything.
fn health(state: &ContainerState) -> Option<bool> {
    use ContainerStateStatusEnum as S;
    if state.status == Some(S::RESTARTING) {
        return Some(false);
    }
    match state.health.as_ref()?.status? {
        HealthStatusEnum::HEALTHY => Some(true),
        HealthStatusEnum::STARTING | HealthStatusEnum::UNHEALTHY => Some(false),
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
    }
}

/// Milliseconds since the Unix epoch; 0 for what the engine does not know.
pub(crate) fn millis(time: Option<&str>) -> u64 {
    let parsed = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    parsed
        .and_then(|time| time.as_millisecond().try_into().ok())
        .unwrap_or(0)
}

/// Where TCP ports of a container answer on this node.
fn published(ports: &PortMap) -> BTreeMap<u16, SocketAddr> {
    let mut found = BTreeMap::new();
    for (target, bindings) in ports {
        let Some((target, "tcp")) = target.split_once('/') else {
            continue;
        };
        let first = bindings.iter().flatten().next();
        let address = first.and_then(|binding| {
            let port = binding.host_port.as_ref()?.parse().ok()?;
            let ip = match binding.host_ip.as_deref().unwrap_or_default() {
                "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                ip => ip.parse().ok()?,
            };
            Some(SocketAddr::new(reachable(ip), port))
        });
        if let (Ok(target), Some(address)) = (target.parse(), address) {
            found.insert(target, address);
        }
    }
    found
}

/// An address for a connection, of one that is listened at.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, phase: Phase) -> PartStatus {
        PartStatus {
            name: name.into(),
            phase,
            healthy: None,
        }
    }

    fn ended(code: i64, oom: bool) -> Phase {
        exited(&ContainerState {
            exit_code: Some(code),
            oom_killed: Some(oom),
            ..ContainerState::default()
        })
    }

    #[test]
    fn a_unit_is_as_its_worst_part() {
        let runs = |since_ms| part("web", Phase::Running { since_ms });
        let done = part("migrate", ended(0, false));
        assert_eq!(
            worst(&[done.clone(), runs(5), runs(9)]),
            Phase::Running { since_ms: 9 }
        );
        assert_eq!(worst(&[runs(1), part("x", Phase::Created)]), Phase::Created);
        let failed = worst(&[
            runs(1),
            part("a", ended(1, false)),
            part("b", ended(3, false)),
            done.clone(),
        ]);
        assert!(
            matches!(
                failed,
                Phase::Exited {
                    exit_code: Some(3),
                    ..
                }
            ),
            "{failed:?}"
        );
        let oom = worst(&[part("a", ended(255, false)), part("b", ended(137, true))]);
        assert!(
            matches!(
                oom,
                Phase::Exited {
                    reason: Some(Reason::OomKilled),
                    ..
                }
            ),
            "{oom:?}"
        );
        assert!(matches!(
            worst(&[done]),
            Phase::Exited {
                exit_code: Some(0),
                ..
            }
        ));
        assert_eq!(worst(&[]), Phase::Absent);
    }

    #[test]
    fn only_what_was_killed_went_by_its_memory() {
        assert!(matches!(ended(0, true), Phase::Exited { reason: None, .. }));
        let killed = ended(137, false);
        assert!(matches!(
            killed,
            Phase::Exited {
                reason: None,
                signal: Some(9),
                ..
            }
        ));
    }

    #[test]
    fn times_of_the_engine_are_read() {
        assert_eq!(millis(Some("1970-01-01T00:00:01.5Z")), 1_500);
        assert_eq!(millis(Some("0001-01-01T00:00:00Z")), 0);
        assert_eq!(millis(None), 0);
    }
}
