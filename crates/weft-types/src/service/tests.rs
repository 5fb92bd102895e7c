use crate::{SourceFormat, Workload, parse_workload};

fn service(rest: &str) -> Result<Workload, String> {
    let text = format!("apiVersion: weft/v1\nname: x\nrun: service\n{rest}");
    parse_workload(&text, SourceFormat::Yaml).map_err(|error| error.path)
}

fn container(rest: &str) -> Result<Workload, String> {
    service(&format!(
        "runtime: container\ncontainer: {{image: a:1, {rest}}}\n"
    ))
}

#[test]
fn ports_restarts_and_shares_have_a_short_form() {
    let workload =
        container("ports: ['80', 8080:81/http, {port: 9, target: 10}], restart: on-failure:5");
    let spec = workload.unwrap().container.unwrap();
    let ports: Vec<_> = spec
        .ports
        .iter()
        .map(|port| (port.port, port.target))
        .collect();
    assert_eq!(ports, [(80, 80), (8080, 81), (9, 10)]);
    assert_eq!(spec.restart.unwrap().max, Some(5));
    let json = serde_json::to_string(&spec.ports).unwrap();
    let again: Vec<crate::PortSpec> = serde_json::from_str(&json).unwrap();
    assert_eq!(again, spec.ports);
    let always = container("pull: always").unwrap().container.unwrap();
    assert_eq!(always.pull, crate::PullPolicy::Always);
    assert!(container("pull: sometimes").is_err());
    let no = container("restart: no").unwrap().container.unwrap();
    assert_eq!(no.restart.unwrap().policy, crate::RestartWhen::No);
    let scaled =
        service("runtime: container\ncontainer: {image: a}\nscaling: {cpu: 70%, memory: 80}\n");
    let scaling = scaled.unwrap().scaling.unwrap();
    assert_eq!(
        (scaling.cpu.unwrap().0, scaling.memory.unwrap().0),
        (70, 80)
    );
}

#[test]
fn a_budget_is_what_an_hour_may_cost_and_refuses_what_costs_more() {
    let of = |budget: &str| {
        service(&format!(
            "runtime: container\ncontainer: {{image: a}}\nbudget: {{{budget}}}\n"
        ))
        .map(|_| ())
    };
    assert_eq!(of("per_hour: $0.50, on_exceed: block"), Ok(()));
    for (budget, field) in [
        ("on_exceed: block", "budget.per_hour"),
        ("per_hour: 1, total: 2, on_exceed: block", "budget.total"),
        ("per_hour: 1", "budget.on_exceed"),
        ("per_hour: 1, on_exceed: stop", "budget.on_exceed"),
    ] {
        assert_eq!(of(budget), Err(field.to_owned()), "{budget}");
    }
    let job =
        "apiVersion: weft/v1\nruntime: process\nprocess: {command: [ls]}\nbudget: {per_hour: 1}\n";
    let refused = parse_workload(job, SourceFormat::Yaml).map_err(|error| error.path);
    assert_eq!(refused.map(|_| ()), Err("budget".to_owned()));
}

#[test]
fn company_is_of_other_services_and_of_services_only() {
    let of = |placement: &str| {
        service(&format!(
            "runtime: container\ncontainer: {{image: a}}\nplacement: {{{placement}}}\n"
        ))
        .map(|_| ())
    };
    assert_eq!(of("with: [cache], apart: [x, batch]"), Ok(()));
    assert_eq!(of("with: [x]"), Err("placement.with[0]".to_owned()));
    let both = of("with: [a, b], apart: [b]");
    assert_eq!(both, Err("placement.with[1]".to_owned()));
    let names: Vec<String> = (0..17).map(|number| format!("s{number}")).collect();
    let many = of(&format!("apart: [{}]", names.join(", ")));
    assert_eq!(many, Err("placement.apart".to_owned()));
    let job = "apiVersion: weft/v1\nname: x\nruntime: process\nprocess: {command: [ls]}\nplacement: {apart: [a]}\n";
    let refused = parse_workload(job, SourceFormat::Yaml).map_err(|error| error.path);
    assert_eq!(refused.map(|_| ()), Err("placement.apart".to_owned()));
}

#[test]
fn what_would_leave_its_place_is_refused() {
    for (spec, path) in [
        (
            "volumes: [{target: /../etc, class: local}]",
            "container.volumes[0].target",
        ),
        (
            "volumes: [{target: /, class: local}]",
            "container.volumes[0].target",
        ),
        (
            "volumes: [{target: /a, host: /a/../b}]",
            "container.volumes[0].host",
        ),
        (
            "volumes: [{target: /a, host: relative}]",
            "container.volumes[0].host",
        ),
        (
            "volumes: [{target: /a, class: local, sub_path: ../b}]",
            "container.volumes[0].sub_path",
        ),
        (
            "volumes: [{target: /a, class: local, sub_path: /b}]",
            "container.volumes[0].sub_path",
        ),
        (
            "volumes: [{target: /a, class: local, name: ../b}]",
            "container.volumes[0].name",
        ),
        (
            "volumes: [{target: /a, class: nfs}]",
            "container.volumes[0].source",
        ),
        (
            "volumes: [{target: /a, class: nfs, source: '-o x'}]",
            "container.volumes[0].source",
        ),
        ("volumes: [{target: /a}]", "container.volumes[0].host"),
        (
            "volumes: [{target: /a, class: local}, {target: /a/, class: local}]",
            "container.volumes[1].target",
        ),
        ("ports: ['80', '80:81']", "container.ports[1].port"),
        ("ports: ['0']", "container.ports[0]"),
        ("runtime_class: magic", "container.runtime_class"),
        ("healthcheck: {}", "container.healthcheck"),
        (
            "healthcheck: {tcp: 80, command: [x]}",
            "container.healthcheck",
        ),
        ("stop_signal: TERM", "container.stop_signal"),
        ("workdir: a/b", "container.workdir"),
    ] {
        assert_eq!(container(spec).map(|_| ()), Err(path.to_owned()), "{spec}");
    }
    for image in ["'-x'", "'a b'", "''", "\"a\\nb\""] {
        let spec = format!("runtime: container\ncontainer: {{image: {image}}}\n");
        assert_eq!(
            service(&spec).map(|_| ()),
            Err("container.image".to_owned()),
            "{image}"
        );
    }
}

#[test]
fn a_repository_is_a_url_and_never_an_option_or_a_command() {
    let git = |git: &str| service(&format!("runtime: compose\ncompose: {{git: {{{git}}}}}\n"));
    assert!(git("url: 'https://git.example/a.git', ref: main, path: deploy/compose.yaml").is_ok());
    for (spec, path) in [
        ("url: '--upload-pack=x'", "compose.git.url"),
        ("url: 'ext::sh -c x'", "compose.git.url"),
        ("url: 'file:///etc'", "compose.git.url"),
        ("url: '/srv/git'", "compose.git.url"),
        ("url: 'ssh://-oProxyCommand=x/y'", "compose.git.url"),
        ("url: 'https://a/b', ref: '--x'", "compose.git.ref"),
        ("url: 'https://a/b', ref: 'a..b'", "compose.git.ref"),
        ("url: 'https://a/b', path: '../x'", "compose.git.path"),
        ("url: 'https://a/b', path: '/x'", "compose.git.path"),
    ] {
        assert_eq!(git(spec).map(|_| ()), Err(path.to_owned()), "{spec}");
    }
}

#[test]
fn a_machine_needs_something_to_boot_and_a_hash_for_what_comes_by_url() {
    let vm = |vm: &str| service(&format!("runtime: vm\nvm: {{{vm}}}\n")).map(|_| ());
    let hash = "0".repeat(64);
    assert_eq!(
        vm(&format!("image: {{url: 'https://a/b', sha256: '{hash}'}}")),
        Ok(())
    );
    let image = format!("image: {{url: 'https://a/b', sha256: '{hash}'}}");
    for (spec, path) in [
        ("boot_timeout: 1m".to_owned(), "vm.image"),
        ("image: {url: 'https://a/b'}".to_owned(), "vm.image.sha256"),
        (
            "image: {url: 'file:///etc/passwd', sha256: x}".to_owned(),
            "vm.image.url",
        ),
        (
            format!("{image}, disks: [{{name: ../x, size: 1Gi}}]"),
            "vm.disks[0].name",
        ),
        (
            format!("{image}, networks: [{{mode: bridge}}]"),
            "vm.networks[0].bridge",
        ),
        (
            format!("{image}, networks: [{{address: 10.0.0.1}}]"),
            "vm.networks[0].address",
        ),
        (format!("{image}, login: {{user: Root}}"), "vm.login.user"),
        (format!("{image}, login: {{user: ops}}"), "vm.login"),
    ] {
        assert_eq!(vm(&spec), Err(path.to_owned()), "{spec}");
    }
}

#[test]
fn a_service_has_a_name_and_nothing_that_only_jobs_have() {
    let spec = "apiVersion: weft/v1\nrun: service\nruntime: container\ncontainer: {image: a}\n";
    let error = parse_workload(spec, SourceFormat::Yaml).unwrap_err();
    assert_eq!(error.path, "name");
    for (rest, path) in [
        ("tasks: [{}]", "tasks"),
        ("inputs: {array: 3}", "inputs"),
        ("timeout: 5m", "timeout"),
        ("replicas: {min: 3, max: 2}", "replicas.min"),
        ("replicas: {target: 3, max: 2}", "replicas.target"),
        ("replicas: {max: 0, target: 0}", "replicas.max"),
        ("exclusive: true\nreplicas: {max: 2}", "replicas.max"),
        ("scaling: {}", "scaling"),
        ("update: {max_surge: 0}", "update.max_surge"),
        ("stop_grace: 2h", "stop_grace"),
    ] {
        let spec = format!("runtime: container\ncontainer: {{image: a}}\n{rest}\n");
        assert_eq!(service(&spec).map(|_| ()), Err(path.to_owned()), "{rest}");
    }
    for (field, path) in [
        ("replicas: {target: 2}", "replicas"),
        ("stop_grace: 1s", "stop_grace"),
    ] {
        let job = format!("apiVersion: weft/v1\nruntime: op\nop: {{op: crc32c}}\n{field}\n");
        let error = parse_workload(&job, SourceFormat::Yaml).unwrap_err();
        assert_eq!(error.path, path);
    }
}
