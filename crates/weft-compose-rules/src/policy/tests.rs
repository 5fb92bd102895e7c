use super::*;
use crate::parse_yaml as parse;

const NONE: Rights = Rights { privileged: false };
const ALL: Rights = Rights { privileged: true };

fn both(text: &str, rights: Rights) -> Checked<Model> {
    let doc = parse(text).unwrap();
    check_raw(&doc, rights)?;
    check_model(&doc, rights)
}

fn service(line: &str) -> String {
    format!("services:\n  web:\n    image: a\n    {line}\n")
}

#[test]
fn what_reaches_the_node_needs_the_right() {
    for line in [
        "privileged: true",
        "annotations: {run.oci.hooks.stdout: /etc/cron.d/x}",
        "network_mode: host",
        "network_mode: container:other",
        "pid: host",
        "ipc: host",
        "cap_add: [SYS_ADMIN]",
        "devices: [/dev/sda]",
        "volumes: ['/etc:/etc']",
        "volumes: ['/etc:/etc:rw']",
        "volumes: [{type: bind, source: /etc, target: /etc}]",
        "volumes: ['/srv/p/x:/x:ro,rshared']",
        "volumes_from: ['container:other']",
        "security_opt: ['seccomp=unconfined']",
        "userns_mode: host",
        "uts: host",
        "oom_score_adj: -1000",
        "logging: {driver: syslog}",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
    ] {
        let refusal = both(&service(line), NONE).unwrap_err();
        assert!(refusal.needs_right, "{line}: {refusal}");
        assert!(refusal.field.starts_with("services.web."), "{refusal}");
        both(&service(line), ALL).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
    }
    for top in [
        "volumes: {v: {external: true}}",
        "volumes: {v: {driver_opts: {type: none, o: bind, device: /etc}}}",
        "volumes: {v: {driver: rexray}}",
        "networks: {n: {external: true}}",
        "networks: {n: {driver: macvlan}}",
        "secrets: {s: {external: true}}",
    ] {
        let text = format!("{}{top}\n", service(""));
        assert!(both(&text, NONE).unwrap_err().needs_right, "{top}");
        both(&text, ALL).unwrap_or_else(|refusal| panic!("{top}: {refusal}"));
    }
}

#[test]
fn what_breaks_replicas_or_is_unknown_is_refused_with_every_right() {
    for line in [
        "container_name: web",
        "cgroup_parent: /",
        "use_api_socket: true",
        "label_file: /etc/shadow",
        "build: https://example.org/x.git",
        "build: {context: /srv, dockerfile: ../../etc/shadow}",
        "build: {context: /srv, network: host}",
        "env_file: ${HOME}/x",
        "env_file: [{file: x}]",
        "runtime: mine",
        "scale: 65",
        "volumes: [{type: npipe, source: a, target: b}]",
    ] {
        let refusal = both(&service(line), ALL).unwrap_err();
        assert!(!refusal.needs_right, "{line}: {refusal}");
    }
    for text in [
        "include: [other.yaml]\nservices: {a: {image: a}}",
        "services: {a: {image: a}}\nvolumes: {v: {name: mine}}",
        "services: {a: {image: a}}\nnetworks: {n: {name: mine}}",
        "services: {a: {image: '-v'}}",
        "services: {-a: {image: a}}",
        "services: {a: [b]}",
        "services: {}",
        "web: {image: a}",
        "[a]",
    ] {
        assert!(both(text, ALL).is_err(), "{text}");
    }
}

#[test]
fn an_ordinary_application_passes_and_its_paths_are_collected() {
    let text = "
version: '3.8'
x-common: &common {restart: always, cap_drop: [ALL], security_opt: [no-new-privileges:true]}
services:
  web:
    <<: *common
    build: {context: /srv/p/web}
    ports: ['8080:80']
    volumes: ['/srv/p/html:/html:ro', 'data:/data', '/anonymous']
    depends_on: [redis]
    deploy: {replicas: 2, resources: {limits: {memory: 64M, cpus: '0.5'}}}
  redis:
    image: redis:7
    network_mode: service:web
volumes: {data: }
networks: {back: {internal: true}}
secrets: {token: {file: /srv/p/token}}
";
    let model = both(text, NONE).unwrap();
    assert_eq!(model.version.as_deref(), Some("3.8"));
    assert_eq!(model.containers(), 3);
    let web = &model.services["web"];
    assert_eq!((web.memory, web.cpu), (Some(64 << 20), Some(500)));
    assert_eq!(web.build.as_ref().unwrap().context, "/srv/p/web");
    let paths: Vec<_> = model.references.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(paths, ["/srv/p/html", "/srv/p/web", "/srv/p/token"]);
    assert!(model.volumes.contains_key("data") && model.networks.contains_key("back"));
}

#[test]
fn files_that_compose_would_read_are_told() {
    let text = "services:
  a: {image: a, env_file: [one.env, {path: two.env, required: false}]}
  b: {extends: {file: base.yaml, service: x}}
  c: {extends: a}
  d: {extends: {service: a}}
";
    let files = check_raw(&parse(text).unwrap(), NONE).unwrap();
    let seen: Vec<_> = files.iter().map(|r| (r.path.as_str(), r.purpose)).collect();
    assert_eq!(
        seen,
        [
            ("one.env", Use::File),
            ("two.env", Use::File),
            ("base.yaml", Use::Extends)
        ]
    );
}

fn written(text: &str, rights: Rights) -> Checked {
    check_written(&parse(text).unwrap(), rights)
}

#[test]
fn what_reaches_the_node_is_seen_as_it_is_written() {
    for line in [
        "privileged: true",
        "network_mode: host",
        "pid: host",
        "cap_add: [SYS_ADMIN]",
        "devices: [/dev/sda]",
        "security_opt: ['seccomp=unconfined']",
        "volumes: ['/var/run/docker.sock:/var/run/docker.sock']",
        "volumes: ['/etc:/etc:ro']",
        "volumes: [{type: bind, source: /etc, target: /etc}]",
        "volumes: [{type: bind, source: /etc, target: /etc, read_only: true}]",
    ] {
        let refusal = written(&service(line), NONE).unwrap_err();
        assert!(refusal.needs_right, "{line}: {refusal}");
        assert!(refusal.field.starts_with("services.web."), "{refusal}");
        written(&service(line), ALL).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
    }
    for line in [
        "env_file: a.env",
        "extends: {file: base.yaml, service: a}",
        "volumes: ['./html:/html:ro']",
        "container_name: web",
        "scale: '65'",
    ] {
        let refusal = written(&service(line), NONE).unwrap_err();
        assert!(!refusal.needs_right, "{line}: {refusal}");
    }
    let secret = "services: {a: {image: a}}\nsecrets: {s: {file: ./token}}";
    assert_eq!(written(secret, NONE).unwrap_err().field, "secrets.s.file");
}

#[test]
fn what_a_variable_decides_is_left_to_the_node() {
    for line in [
        "network_mode: '${MODE}'",
        "volumes: ['${DIR}:/x', {type: '${TYPE}', source: /etc, target: /x}, 'data:/data']",
        "deploy: {replicas: '${COUNT}', resources: {limits: {memory: '${MEMORY}'}}}",
        "security_opt: ['${OPT:-no-new-privileges}']",
        "build: {context: ., args: {A: '${A}'}}",
        "scale: '3'",
        "command: ['sh', '-c', 'echo $$HOME']",
    ] {
        written(&service(line), NONE).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
    }
    assert!(written(&service("privileged: '${YES}'"), NONE).is_err());
}
