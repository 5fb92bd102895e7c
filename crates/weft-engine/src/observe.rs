//! From what the engine tells of a container to how a unit is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum};
use weft_types::Reason;
use weft_unit::{Observed, Phase};

use crate::request::SOURCE;

/// A shell's way to tell that a signal ended something; engines tell no other.
const SIGNALLED: i32 = 128;
const LAST_CLASSIC_SIGNAL: i32 = 31;

/// A label of a container.
pub(crate) fn label<'a>(container: &'a ContainerInspectResponse, key: &str) -> Option<&'a str> {
    let labels = container.config.as_ref()?.labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

/// The status of a container.
pub(crate) fn status(container: &ContainerInspectResponse) -> Option<ContainerStateStatusEnum> {
    container.state.as_ref().and_then(|state| state.status)
}

/// Whether a container has processes.
pub(crate) fn is_alive(container: &ContainerInspectResponse) -> bool {
    use ContainerStateStatusEnum::{PAUSED, RESTARTING, RUNNING, STOPPING};
    matches!(
        status(container),
        Some(RUNNING | PAUSED | RESTARTING | STOPPING)
    )
}

/// How a unit is.
pub(crate) fn observed(container: &ContainerInspectResponse) -> Observed {
    let is_alive = is_alive(container);
    Observed {
        phase: phase(container.state.as_ref()),
        address: is_alive.then(|| address(container)).flatten(),
        published: published(container),
        source: label(container, SOURCE).map(str::to_owned),
        ..Observed::absent()
    }
}

fn phase(state: Option<&ContainerState>) -> Phase {
    use ContainerStateStatusEnum::{CREATED, EMPTY, PAUSED, RESTARTING, RUNNING, STOPPING};
    let Some(state) = state else {
        return Phase::Created;
    };
    match state.status.unwrap_or(EMPTY) {
        CREATED | EMPTY => Phase::Created,
        RUNNING | RESTARTING | STOPPING => Phase::Running {
            since_ms: millis(state.started_at.as_deref()),
        },
        PAUSED => Phase::Paused,
        _ => exited(state),
    }
}

fn exited(state: &ContainerState) -> Phase {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let signal = code
        .map(|code| code - SIGNALLED)
        .filter(|signal| (1..=LAST_CLASSIC_SIGNAL).contains(signal));
    let failed = code != Some(0);
    let is_oom = state.oom_killed == Some(true) && failed;
    let detail = match state.error.as_deref() {
        Some(error) if !error.is_empty() => error.to_owned(),
        _ if is_oom => "a process used more memory than the limit".to_owned(),
        _ => String::new(),
    };
    Phase::Exited {
        exit_code: code.filter(|_| signal.is_none()),
        signal,
        reason: is_oom.then_some(Reason::OomKilled),
        detail,
        at_ms: millis(state.finished_at.as_deref()),
    }
}

/// A time as engines write it, in milliseconds since the Unix epoch; 0 when there is none.
pub(crate) fn millis(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .and_then(|at| u64::try_from(at.as_millisecond()).ok())
        .unwrap_or(0)
}

fn address(container: &ContainerInspectResponse) -> Option<IpAddr> {
    let host = container.host_config.as_ref();
    if host.and_then(|host| host.network_mode.as_deref()) == Some("host") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let networks = container.network_settings.as_ref()?.networks.as_ref()?;
    networks.values().find_map(|network| {
        let four = network.ip_address.as_deref().and_then(parsed);
        four.or_else(|| network.global_ipv6_address.as_deref().and_then(parsed))
    })
}

fn parsed(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn published(container: &ContainerInspectResponse) -> BTreeMap<u16, SocketAddr> {
    let settings = container.network_settings.as_ref();
    let ports = settings.and_then(|settings| settings.ports.as_ref());
    let pairs = ports.into_iter().flatten().filter_map(|(key, bindings)| {
        let target = key.strip_suffix("/tcp")?.parse().ok()?;
        let binding = bindings.as_ref()?.first()?;
        let port = binding.host_port.as_ref()?.parse().ok()?;
        let ip = binding.host_ip.as_deref().and_then(parsed);
        let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        Some((target, SocketAddr::new(ip, port)))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Observed {
        observed(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn running_has_its_address_and_its_source() {
        let seen = of(
            r#"{"State": {"Status": "running", "StartedAt": "2026-01-02T03:04:05.678901234Z"},
                "Config": {"Labels": {"weft.source": "x@sha256:1"}},
                "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2"}},
                  "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4711"}], "81/tcp": null}}}"#,
        );
        let Phase::Running { since_ms } = seen.phase else {
            panic!("{seen:?}");
        };
        assert_eq!(since_ms % 100_000, 45_678);
        assert_eq!(seen.address, "10.0.0.2".parse().ok());
        assert_eq!(seen.published[&80], "127.0.0.1:4711".parse().unwrap());
        assert_eq!(seen.published.len(), 1);
        assert_eq!(seen.source.as_deref(), Some("x@sha256:1"));
    }

    #[test]
    fn ends_are_told_apart() {
        for (state, code, signal, reason) in [
            (r#""ExitCode": 3"#, Some(3), None, None),
            (r#""ExitCode": 137"#, None, Some(9), None),
            (
                r#""ExitCode": 137, "OOMKilled": true"#,
                None,
                Some(9),
                Some(Reason::OomKilled),
            ),
            (r#""ExitCode": 0, "OOMKilled": true"#, Some(0), None, None),
            (r#""ExitCode": 255"#, Some(255), None, None),
        ] {
            let json = format!(
                r#"{{"State": {{"Status": "exited", "FinishedAt": "2026-01-02T03:04:05Z", {state}}}}}"#
            );
            let Phase::Exited {
                exit_code,
                signal: told,
                reason: why,
                ..
            } = of(&json).phase
            else {
                panic!("{json}");
            };
            assert_eq!((exit_code, told, why), (code, signal, reason), "{state}");
        }
    }

    #[test]
    fn the_hosts_network_answers_on_loopback() {
        let seen = of(r#"{"State": {"Status": "running"}, "HostConfig": {"NetworkMode": "host"}}"#);
        assert_eq!(seen.address, "127.0.0.1".parse().ok());
    }
}
