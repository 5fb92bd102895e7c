use std::collections::{BTreeMap, HashSet};

use weft_types::{Bytes, GpuRequest, Millicores, PortSpec};
use weft_unit::{Secrets, UnitWork};

use super::*;

fn unit() -> Unit {
    Unit {
        id: "wl-0000000000000-7".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        revision: 12,
        work: UnitWork::Container(Box::default()),
        resources: Resources {
            cpu: Millicores(1_500),
            memory: Bytes(64 << 20),
            disk: Bytes(1 << 30),
            gpu: None,
        },
        secrets: Secrets::default(),
        may_be_privileged: false,
    }
}

fn able(flavour: Flavour) -> Able {
    Able {
        flavour,
        version: "1".to_owned(),
        runtimes: BTreeMap::from([("kata".to_owned(), "kata-runtime".to_owned())]),
        disk_quota: false,
        rootless: false,
        missing: Vec::new(),
        root_dir: "/".into(),
    }
}

fn made(unit: &Unit, spec: &ContainerSpec, able: &Able) -> Result<ContainerCreateBody, Error> {
    made_with(unit, spec, able, false, &[])
}

fn made_with(
    unit: &Unit,
    spec: &ContainerSpec,
    able: &Able,
    publishes: bool,
    mounts: &[(String, Mounted)],
) -> Result<ContainerCreateBody, Error> {
    let around = Around {
        able,
        node: &"node-1".parse().unwrap(),
        publishes,
        source: "x@sha256:1",
        mounts,
        own_limits: [("nofile", Some(20_000)), ("nproc", None)],
    };
    create(unit, spec, &around)
}

#[test]
fn every_field_reaches_the_engine() {
    let mut unit = unit();
    unit.secrets.env = BTreeMap::from([("B".to_owned(), "secret".to_owned())]);
    let spec = ContainerSpec {
        image: "x:1".to_owned(),
        command: vec!["run".to_owned()],
        args: vec!["-v".to_owned()],
        env: BTreeMap::from([
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "0".to_owned()),
        ]),
        workdir: Some("/srv".to_owned()),
        user: Some("1:2".to_owned()),
        runtime_class: Some("kata".to_owned()),
        network: NetworkMode::None,
        swap: Some(Bytes(32 << 20)),
        pids: Some(99),
        stop_signal: Some("SIGINT".to_owned()),
        ..ContainerSpec::default()
    };
    let body = made(&unit, &spec, &able(Flavour::Docker)).unwrap();
    assert_eq!(body.entrypoint.unwrap(), ["run"]);
    assert_eq!(body.cmd.unwrap(), ["-v"]);
    assert_eq!(body.env.unwrap(), ["A=1", "B=secret"]);
    assert_eq!(body.working_dir.unwrap(), "/srv");
    assert_eq!(body.user.unwrap(), "1:2");
    assert_eq!(body.stop_signal.unwrap(), "SIGINT");
    assert_eq!(body.healthcheck.unwrap().test.unwrap(), ["NONE"]);
    let labels = body.labels.unwrap();
    assert_eq!(labels[labels::NODE], "node-1");
    assert_eq!(labels[labels::UNIT], unit.id.to_string());
    assert_eq!(labels[labels::REVISION], "12");
    assert_eq!(labels[labels::WORKLOAD], "shop/web");
    let host = body.host_config.unwrap();
    assert_eq!(host.runtime.unwrap(), "kata-runtime");
    assert_eq!(host.network_mode.unwrap(), "none");
    assert_eq!(host.pids_limit, Some(99));
    assert_eq!(host.cpu_quota, Some(150_000));
    assert_eq!(host.memory, Some(64 << 20));
    assert_eq!(host.memory_swap, Some(96 << 20));
    let restart = host.restart_policy.unwrap().name;
    assert_eq!(restart, Some(RestartPolicyNameEnum::NO));
    assert!(host.port_bindings.is_none() && body.exposed_ports.is_none());
}

#[test]
fn what_is_not_asked_for_is_little() {
    let spec = ContainerSpec::default();
    let host = made(&unit(), &spec, &able(Flavour::Docker)).unwrap();
    let host = host.host_config.unwrap();
    assert_eq!(host.memory, host.memory_swap, "no swap");
    assert_eq!(host.pids_limit, Some(DEFAULT_PIDS));
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    let added: HashSet<String> = host.cap_add.unwrap().into_iter().collect();
    assert!(!added.contains("SYS_ADMIN") && !added.contains("NET_RAW"));
    assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.network_mode.unwrap(), "bridge");
    assert!(host.storage_opt.is_none() && host.ulimits.is_none());
}

#[test]
fn privileged_is_not_held_back() {
    let spec = ContainerSpec {
        privileged: true,
        ..ContainerSpec::default()
    };
    let host = made(&unit(), &spec, &able(Flavour::Docker)).unwrap();
    let host = host.host_config.unwrap();
    assert_eq!(host.privileged, Some(true));
    assert!(host.cap_drop.is_none() && host.security_opt.is_none());
}

#[test]
fn the_disk_limit_is_given_where_it_can_be_kept() {
    let mut able = able(Flavour::Docker);
    able.disk_quota = true;
    let host = made(&unit(), &ContainerSpec::default(), &able).unwrap();
    let options = host.host_config.unwrap().storage_opt.unwrap();
    assert_eq!(options["size"], (1u64 << 30).to_string());
}

#[test]
fn podman_is_told_no_more_than_it_may_give() {
    let host = made(&unit(), &ContainerSpec::default(), &able(Flavour::Podman)).unwrap();
    let limits = host.host_config.unwrap().ulimits.unwrap();
    let pairs: Vec<_> = limits
        .iter()
        .map(|one| (one.name.as_deref(), one.hard))
        .collect();
    let expected = [
        (Some("nofile"), Some(20_000)),
        (Some("nproc"), Some(PODMAN_LIMIT)),
    ];
    assert_eq!(pairs, expected);
}

#[test]
fn ports_are_published_on_loopback_where_addresses_cannot_be_reached() {
    let spec: ContainerSpec =
        serde_json::from_str(r#"{"image": "x", "ports": ["8080:80"], "healthcheck": {"tcp": 90}}"#)
            .unwrap();
    assert_eq!(spec.ports, ["8080:80".parse::<PortSpec>().unwrap()]);
    let body = made_with(&unit(), &spec, &able(Flavour::Docker), true, &[]).unwrap();
    let exposed: HashSet<String> = body.exposed_ports.unwrap().into_iter().collect();
    let expected = ["80/tcp", "90/tcp"].map(str::to_owned);
    assert_eq!(exposed, HashSet::from(expected));
    let bindings = body.host_config.unwrap().port_bindings.unwrap();
    for binding in bindings.values() {
        let binding = &binding.as_ref().unwrap()[0];
        assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    }
}

#[test]
fn volumes_are_bound_privately() {
    let mounted = Mounted {
        host_path: "/v/data".into(),
        read_only: true,
    };
    let mounts = [("/data".to_owned(), mounted)];
    let spec = ContainerSpec::default();
    let body = made_with(&unit(), &spec, &able(Flavour::Docker), false, &mounts).unwrap();
    let mount = body.host_config.unwrap().mounts.unwrap().remove(0);
    assert_eq!(mount.source.as_deref(), Some("/v/data"));
    assert_eq!(mount.target.as_deref(), Some("/data"));
    assert_eq!(mount.read_only, Some(true));
    let propagation = mount.bind_options.unwrap().propagation;
    assert_eq!(propagation, Some(MountBindOptionsPropagationEnum::RPRIVATE));
}

#[test]
fn what_the_engine_lacks_is_refused_by_name() {
    let spec = ContainerSpec {
        runtime_class: Some("runsc".to_owned()),
        ..ContainerSpec::default()
    };
    let error = made(&unit(), &spec, &able(Flavour::Docker)).unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable);
    assert!(error.detail.contains("runsc") && error.detail.contains("kata"));
    let mut unit = unit();
    unit.resources.gpu = Some(GpuRequest {
        count: 1,
        model: None,
    });
    let spec = ContainerSpec::default();
    assert!(made(&unit, &spec, &able(Flavour::Docker)).is_ok());
    let error = made(&unit, &spec, &able(Flavour::Podman)).unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable);
}
