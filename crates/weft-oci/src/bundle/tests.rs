use weft_types::{Bytes, Millicores, Resources, UnitId, WorkloadId};
use weft_unit::{Secrets, UnitWork};

use super::*;

fn unit(spec: &ContainerSpec) -> Unit {
    Unit {
        id: UnitId {
            workload: WorkloadId(1),
            number: 1,
        },
        namespace: "default".parse().unwrap(),
        name: "web".parse().unwrap(),
        revision: 3,
        work: UnitWork::Container(Box::new(spec.clone())),
        resources: Resources {
            cpu: Millicores(250),
            memory: Bytes(64 << 20),
            ..Resources::default()
        },
        secrets: Secrets::default(),
        may_be_privileged: false,
    }
}

fn config(spec: &ContainerSpec) -> Value {
    let unit = unit(spec);
    let bundle = Bundle {
        unit: &unit,
        spec,
        image: &ImageConfig::default(),
        node: "node-1",
        hostname: "web",
        run: Path::new("/run/x"),
        binds: Vec::new(),
        cgroup: "/weft-1/u",
        limits_swap: true,
    };
    bundle.config().unwrap()
}

fn spec() -> ContainerSpec {
    ContainerSpec {
        command: vec!["sh".into()],
        ..ContainerSpec::default()
    }
}

#[test]
fn limits_are_those_of_the_unit() {
    let resources = &config(&spec())["linux"]["resources"];
    assert_eq!(resources["cpu"]["quota"], 25_000);
    assert_eq!(resources["memory"]["limit"], 64 << 20);
    assert_eq!(resources["memory"]["swap"], 64 << 20);
    assert_eq!(resources["pids"]["limit"], 4096);
}

#[test]
fn only_the_privileged_are_without_filter_masks_and_with_all_devices() {
    let plain = config(&spec());
    assert_eq!(plain["process"]["noNewPrivileges"], true);
    assert!(plain["linux"]["seccomp"]["syscalls"].is_array());
    assert_eq!(plain["linux"]["resources"]["devices"][0]["allow"], false);
    let privileged = config(&ContainerSpec {
        privileged: true,
        ..spec()
    });
    assert_eq!(privileged["process"]["noNewPrivileges"], false);
    assert!(privileged["linux"].get("seccomp").is_none());
    assert!(privileged["linux"].get("maskedPaths").is_none());
    assert_eq!(
        privileged["linux"]["resources"]["devices"][0]["allow"],
        true
    );
}

#[test]
fn the_labels_are_annotations() {
    let annotations = &config(&spec())["annotations"];
    assert_eq!(annotations["weft.node"], "node-1");
    assert_eq!(annotations["weft.revision"], "3");
    assert_eq!(annotations["weft.workload"], "default/web");
}
