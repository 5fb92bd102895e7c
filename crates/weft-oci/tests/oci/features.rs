//! What a container gets of what its specification asks for.

use std::process::Command;

use weft_types::{NetworkMode, VolumeClass, VolumeSpec};
use weft_unit::{ExecOutput, ExecWanted, Observed, Phase, Unit, UnitRuntime};

use crate::agent::until;
use crate::ground::{Ground, spec, unit, with_ground};

const SLEEP: [&str; 3] = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"];

/// Runs a line of shell in a container and gives what it printed.
async fn shell(backend: &impl UnitRuntime, unit: &Unit, line: &str) -> String {
    let wanted = ExecWanted {
        command: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        ..ExecWanted::default()
    };
    let mut session = backend.exec(unit.id, wanted).await.expect("a session");
    let mut said = Vec::new();
    while let Some(output) = session.output.recv().await {
        let (ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) = output;
        said.extend_from_slice(&bytes);
    }
    String::from_utf8_lossy(&said).trim().to_owned()
}

pub fn users_variables_and_directories() {
    with_ground(&["crun"], async |ground: &Ground| {
        let node = ground.node("users");
        let backend = node.open();
        let mut unit = unit(&ground.image.tagged, &SLEEP);
        spec(&mut unit).user = Some("nobody".into());
        spec(&mut unit).workdir = Some("/var".into());
        spec(&mut unit).env.insert("COLOUR".into(), "green".into());
        backend.start(&unit).await.expect("started");
        assert_eq!(shell(&backend, &unit, "id -u; id -g").await, "65534\n65534");
        assert_eq!(
            shell(&backend, &unit, "pwd; echo $COLOUR").await,
            "/var\ngreen"
        );
        assert_eq!(shell(&backend, &unit, "hostname").await, "test-1");
        let resolved = shell(&backend, &unit, "cat /etc/hosts").await;
        assert!(resolved.contains("test-1"), "{resolved}");
        backend.remove(unit.id, false).await.expect("removed");

        spec(&mut unit).user = Some("who".into());
        let error = backend.start(&unit).await.expect_err("nobody knows them");
        assert_eq!(error.reason, weft_types::Reason::InvalidSpec, "{error}");
        backend.remove(unit.id, false).await.expect("removed");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

pub fn volumes_outlive_restarts() {
    with_ground(&["crun"], async |ground: &Ground| {
        let node = ground.node("volumes");
        let backend = node.open();
        let count = "echo x >> /data/n; echo x >> /n; cat /data/n /n | wc -l > /data/sum";
        let mut unit = unit(&ground.image.tagged, &["/bin/sh", "-c", count]);
        spec(&mut unit).volumes.push(VolumeSpec {
            target: "/data".into(),
            class: Some(VolumeClass::Local),
            ..VolumeSpec::default()
        });
        for _ in 0..2 {
            backend.start(&unit).await.expect("started");
            let ended = |seen: &Observed| matches!(seen.phase, Phase::Exited { .. });
            until(&backend, unit.id, ended).await;
        }
        spec(&mut unit).command = SLEEP.map(str::to_owned).to_vec();
        backend.start(&unit).await.expect("started");
        // Two lines in the volume, and one in a layer that was new each time.
        assert_eq!(shell(&backend, &unit, "cat /data/sum").await, "3");
        backend.remove(unit.id, false).await.expect("removed");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

pub fn networks_are_what_was_asked_for() {
    with_ground(&["crun", "ip"], async |ground: &Ground| {
        let node = ground.node("networks");
        let backend = node.open();
        let links = "ls /sys/class/net | tr '\\n' ' '";
        let mut unit = unit(&ground.image.tagged, &SLEEP);
        backend.start(&unit).await.expect("started");
        let seen = backend.observe(unit.id).await.expect("observed");
        let address = seen.address.expect("an address").to_string();
        assert!(
            shell(&backend, &unit, "ip -4 addr show eth0")
                .await
                .contains(&address)
        );
        let gateway = shell(&backend, &unit, "ip route | grep default | cut -d' ' -f3").await;
        let pinged = shell(&backend, &unit, &format!("ping -c1 -W2 {gateway}")).await;
        assert!(pinged.contains("1 packets received"), "{pinged}");
        backend.remove(unit.id, false).await.expect("removed");

        spec(&mut unit).network = NetworkMode::None;
        backend.start(&unit).await.expect("started");
        assert_eq!(shell(&backend, &unit, links).await.trim(), "lo");
        backend.remove(unit.id, false).await.expect("removed");

        spec(&mut unit).network = NetworkMode::Host;
        backend.start(&unit).await.expect("started");
        let inside = shell(&backend, &unit, "readlink /proc/self/ns/net").await;
        let ours = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        assert_eq!(inside, ours.display().to_string());
        backend.remove(unit.id, false).await.expect("removed");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

pub fn rights_are_few_unless_privileged() {
    with_ground(&["crun"], async |ground: &Ground| {
        let node = ground.node("rights");
        let backend = node.open();
        let mut unit = unit(&ground.image.tagged, &SLEEP);
        backend.start(&unit).await.expect("started");
        let status = shell(&backend, &unit, "cat /proc/self/status").await;
        assert!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
        assert!(status.contains("Seccomp:\t2"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let mounted = shell(&backend, &unit, "mount -t tmpfs x /tmp || echo refused").await;
        assert!(mounted.contains("refused"), "{mounted}");
        let unshared = shell(&backend, &unit, "unshare -U true || echo refused").await;
        assert!(unshared.contains("refused"), "{unshared}");
        let masked = shell(
            &backend,
            &unit,
            "cat /proc/kcore 2>/dev/null | head -c1 | wc -c",
        )
        .await;
        assert_eq!(masked, "0");
        backend.remove(unit.id, false).await.expect("removed");

        spec(&mut unit).privileged = true;
        backend.start(&unit).await.expect("started");
        let mounted = shell(&backend, &unit, "mount -t tmpfs x /tmp && echo allowed").await;
        assert_eq!(mounted, "allowed");
        backend.remove(unit.id, false).await.expect("removed");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

pub fn two_nodes_in_one_namespace_do_not_meet() {
    with_ground(&["crun", "ip"], async |ground: &Ground| {
        let nodes = [ground.node("one"), ground.node("two")];
        let mut units = Vec::new();
        for node in &nodes {
            let backend = node.open();
            let unit = unit(&ground.image.tagged, &SLEEP);
            backend.start(&unit).await.expect("started");
            units.push((backend, unit));
        }
        let mut addresses = Vec::new();
        for (backend, unit) in &units {
            let seen = backend.observe(unit.id).await.expect("observed");
            addresses.push(seen.address.expect("an address"));
        }
        assert_ne!(addresses[0], addresses[1]);
        units[0]
            .0
            .remove(units[0].1.id, false)
            .await
            .expect("removed");
        let other = addresses[1].to_string();
        let pinged = Command::new("ping").args(["-c1", "-W2", &other]).output();
        if let Ok(pinged) = pinged {
            assert!(pinged.status.success(), "{pinged:?}");
        }
        units[1]
            .0
            .remove(units[1].1.id, false)
            .await
            .expect("removed");
        for node in &nodes {
            assert_eq!(node.leftovers(), Vec::<String>::new());
        }
    });
}
