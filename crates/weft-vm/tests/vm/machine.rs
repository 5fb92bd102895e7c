//! Machines on real QEMU, without KVM where there is none.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_types::{Bytes, DiskSpec, Login, NetworkSpec, Reason, Retain, VmNetworkMode};
use weft_unit::{Observed, Phase, UnitRuntime};

use crate::support;
use crate::support::{
    Lab, PATIENCE, fresh_id, nft, printed, spec, start, unit, until, until_booted, until_ended,
    until_printed,
};

/// Types on a telnet connection what is asked for, and tells everything that was printed.
async fn telnet(at: std::net::SocketAddr, typed: &[(&str, &str)], end: &str) -> String {
    let mut all = String::new();
    let talk = async {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        let mut seen = 0;
        let mut typed = typed.iter();
        let mut next = typed.next();
        let mut buffer = [0; 4096];
        loop {
            if all[seen..].contains(next.map_or(end, |(prompt, _)| prompt)) {
                let Some((_, answer)) = next else {
                    return;
                };
                seen = all.len();
                let line = format!("{answer}\r\n");
                stream.write_all(line.as_bytes()).await.expect("it reads");
                next = typed.next();
                continue;
            }
            match stream.read(&mut buffer).await {
                Ok(length @ 1..) => all.push_str(&String::from_utf8_lossy(&buffer[..length])),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, talk).await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloud_kernel_boots_with_its_seed_takes_the_login_and_is_shut_down() {
    let Some(lab) = Lab::new("login") else {
        return;
    };
    let vms = lab.open().await;
    let mut spec = spec("", "");
    spec.login = Some(Login {
        user: "weaver".to_owned(),
        ssh_keys: vec!["ssh-ed25519 AAAA weaver".to_owned()],
        password_secret: Some("login".to_owned()),
    });
    let mut unit = unit(fresh_id(), spec);
    let refused = start(&vms, &unit).await.unwrap_err();
    assert_eq!(
        refused.reason,
        Reason::InvalidSpec,
        "no password: {refused}"
    );
    unit.secrets.login_password = Some("c0rrect horse".to_owned());
    start(&vms, &unit).await.unwrap();
    let seen = until_booted(&vms, unit.id).await;
    assert_eq!(seen.address, Some("10.0.2.15".parse().unwrap()), "{seen:?}");
    assert!(seen.source.unwrap().starts_with("blake3:"));
    until_printed(&vms, unit.id, "host small-guest is up").await;

    let at = seen.published[&23];
    assert!(at.ip().is_loopback());
    let accepted = [
        ("login:", "weaver"),
        ("Password:", "c0rrect horse"),
        ("$", "echo in-as-$(id -un) on $(hostname)"),
    ];
    let text = telnet(at, &accepted, "in-as-weaver on small-guest").await;
    assert!(text.contains("in-as-weaver on small-guest"), "{text}");
    let wrong = [("login:", "weaver"), ("Password:", "wrong")];
    let text = telnet(at, &wrong, "incorrect").await;
    assert!(text.contains("Login incorrect"), "{text}");

    let line = lab.processes(&format!("guest={} ", unit.id)).pop().unwrap();
    assert!(line.contains("-sandbox on,"), "{line}");
    assert!(!line.contains("tcp:0.0.0.0"), "{line}");
    let data = lab.dir.path().join("data,with comma");
    let secret_in_files = std::process::Command::new("grep")
        .args(["-rlF", "c0rrect horse"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(secret_in_files.stdout.is_empty(), "{secret_in_files:?}");

    vms.set_paused(unit.id, true).await.unwrap();
    let stands_still = |seen: &Observed| seen.phase == Phase::Paused;
    until(&vms, unit.id, "it stands still", stands_still).await;
    vms.set_paused(unit.id, false).await.unwrap();
    until(&vms, unit.id, "it goes on", |seen| seen.is_running()).await;

    let begun = Instant::now();
    vms.stop(unit.id, PATIENCE).await.unwrap();
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    let (reason, detail) = until_ended(&vms, unit.id).await;
    assert_eq!((reason, detail.as_str()), (None, "stopped"));
    let text = printed(&vms, unit.id).await;
    assert!(text.contains("asked to power off"), "{text}");
    vms.remove(unit.id, false).await.unwrap();
    assert_eq!(lab.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_that_panics_is_a_failed_boot_with_the_end_of_its_console() {
    let Some(lab) = Lab::new("panic") else {
        return;
    };
    let vms = lab.open().await;
    let mut spec = spec("", "");
    spec.initrd = None;
    spec.cmdline = Some("console=ttyS0 no_timer_check panic=0".to_owned());
    let unit = unit(fresh_id(), spec);
    start(&vms, &unit).await.unwrap();
    let (reason, detail) = until_ended(&vms, unit.id).await;
    assert_eq!(reason, Some(Reason::VmBootFailed), "{detail}");
    assert!(detail.contains("its kernel panicked"), "{detail}");
    assert!(detail.contains("Unable to mount root fs"), "{detail}");
    assert_eq!(lab.processes(""), [""; 0], "a failed machine runs on");
    vms.remove(unit.id, false).await.unwrap();
    assert_eq!(lab.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guest_that_should_tell_its_address_must_and_another_must_run_steadily() {
    let Some(lab) = Lab::new("address") else {
        return;
    };
    let vms = lab.open().await;
    let timeout = Duration::from_secs(10);
    let mut silent = spec("", "mute");
    silent.boot_timeout = timeout;
    let steady = unit(fresh_id(), silent.clone());
    silent.cmdline = silent
        .cmdline
        .map(|line| format!("{line} expect=weft-address"));
    let failing = unit(fresh_id(), silent);
    start(&vms, &steady).await.unwrap();
    start(&vms, &failing).await.unwrap();
    let (reason, detail) = until_ended(&vms, failing.id).await;
    assert_eq!(reason, Some(Reason::VmBootFailed), "{detail}");
    assert!(detail.contains("told no address within 10s"), "{detail}");
    let seen = until_booted(&vms, steady.id).await;
    assert_eq!(seen.address, None);
    for unit in [steady, failing] {
        vms.remove(unit.id, false).await.unwrap();
    }
    assert_eq!(lab.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_has_a_user_of_its_own_and_does_not_reach_the_loopback_of_its_node() {
    let Some(lab) = Lab::new("apart") else {
        return;
    };
    let vms = lab.open().await;
    let probe = vms.probe().await.unwrap();
    let needed = "a loopback that machines cannot reach";
    if let Some(missing) = probe.missing.iter().find(|it| it.what == needed) {
        eprintln!("skipped: needs {missing}");
        return;
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "while :; do nc -w 5 10.0.2.2 {port} </dev/null && echo reached || echo kept away; \
         sleep 1; done"
    );
    let unit = unit(fresh_id(), spec(&script, ""));
    start(&vms, &unit).await.unwrap();
    until_printed(&vms, unit.id, "kept away").await;
    let reached = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(reached.is_err(), "a machine has connected");
    // The guest's program ends only when the connection does.
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });

    let pid = lab.pid(unit.id).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().skip(1).collect::<Vec<_>>()
    };
    let users: Vec<u32> = field("Uid:").iter().map(|id| id.parse().unwrap()).collect();
    assert!(users.iter().all(|user| user >> 24 == 0x71), "{users:?}");
    assert_eq!(field("Groups:"), [""; 0]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("Seccomp:"), ["2"]);
    let table = lab.table();
    // It was the rule that kept it away, and nothing else.
    nft(&["delete", "table", "inet", &table]);
    until_printed(&vms, unit.id, "reached").await;
    drop(vms);
    let vms = lab.open().await;
    assert!(
        nft(&["list", "tables"]).contains(&table),
        "the rule is gone"
    );
    vms.remove(unit.id, false).await.unwrap();
    assert_eq!(lab.leftovers(), [""; 0]);
    assert!(
        !nft(&["list", "tables"]).contains(&table),
        "the rule is left"
    );
}

fn has_disks() -> Vec<DiskSpec> {
    let disk = |name: &str, retain| DiskSpec {
        name: name.to_owned(),
        size: Bytes(8 << 20),
        pool: Some("fast".to_owned()),
        retain,
    };
    vec![
        disk("kept-data", Retain::Retain),
        disk("scratch", Retain::Delete),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_are_found_by_their_serials_and_go_or_stay_as_wanted() {
    let Some(lab) = Lab::new("disks") else {
        return;
    };
    let base = lab.dir.path().join("base.raw");
    let mut content = vec![0; 4 << 20];
    content[..8].copy_from_slice(b"original");
    std::fs::write(&base, &content).unwrap();
    let mut options = lab.options();
    let hash = weft_types::BlobHash([3; 32]);
    let mut files = std::collections::BTreeMap::from([(hash, base)]);
    files.insert(support::KERNEL, lab.guest.kernel.clone());
    files.insert(support::INITRD, lab.guest.initrd.clone());
    options.artifacts = Some(std::sync::Arc::new(support::Files(files)));
    let vms = weft_vm::Vms::open(options).await.unwrap();
    let script = "for disk in /sys/block/vd*; do d=/dev/${disk##*/}; s=$(cat $disk/serial); \
         echo disk $s $(cat $disk/size) holds $(head -c 8 $d | tr -d '\\0'); \
         [ $s = cidata ] || printf %s \"wrote-$s\" | head -c 8 | dd of=$d conv=fsync 2>/dev/null; \
         done; echo disks done; sleep 3600";
    let mut spec = spec(script, "");
    spec.vcpus = Some(2);
    spec.image = support::blob(hash);
    spec.root_size = Some(Bytes(6 << 20));
    spec.root_pool = Some("fast".to_owned());
    spec.disks = has_disks();
    let first = unit(fresh_id(), spec.clone());
    start(&vms, &first).await.unwrap();
    until_printed(&vms, first.id, "disks done").await;
    let text = printed(&vms, first.id).await;
    assert!(text.contains("disk root 12288 holds original"), "{text}");
    assert!(text.contains("disk kept-data 16384 holds\n"), "{text}");
    let stats = vms.stats(first.id).await.unwrap();
    assert!(stats.disk_bytes > 0 && stats.pids == 2, "{stats:?}");
    vms.remove(first.id, false).await.unwrap();
    let left = lab.leftovers();
    assert_eq!(left.len(), 1, "only the retained disk: {left:?}");

    let second = unit(fresh_id(), spec.clone());
    start(&vms, &second).await.unwrap();
    until_printed(&vms, second.id, "disks done").await;
    let text = printed(&vms, second.id).await;
    assert!(
        text.contains("holds original"),
        "the image was written: {text}"
    );
    assert!(
        text.contains("disk kept-data 16384 holds wrote-ke"),
        "{text}"
    );
    assert!(text.contains("disk scratch 16384 holds\n"), "{text}");
    // Stopped and started again, the root disk is the old one.
    vms.stop(second.id, Duration::ZERO).await.unwrap();
    start(&vms, &second).await.unwrap();
    until_printed(&vms, second.id, "disk root 12288 holds wrote-ro").await;
    vms.remove(second.id, true).await.unwrap();

    spec.root_size = Some(Bytes(1 << 20));
    let third = unit(fresh_id(), spec);
    let refused = start(&vms, &third).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidSpec);
    assert!(refused.detail.contains("vm.root_size"), "{refused}");
    vms.remove(third.id, false).await.unwrap();
}

/// A bridge with an address and a DHCP server, gone with the test.
struct Bridge {
    name: String,
    server: std::process::Child,
}

impl Bridge {
    fn make(lab: &Lab) -> Option<Self> {
        let name = format!("wvb{}", std::process::id());
        let ip = |arguments: &str| {
            let command = std::process::Command::new("ip")
                .args(arguments.split(' '))
                .status();
            command.is_ok_and(|status| status.success())
        };
        let made = ip(&format!("link add {name} type bridge"))
            && ip(&format!("addr add 198.18.77.1/24 dev {name}"))
            && ip(&format!("link set {name} up"));
        if !made {
            eprintln!("skipped: needs bridges (iproute2 and the kernel's bridge)");
            return None;
        }
        let config = lab.dir.path().join("udhcpd.conf");
        let leases = lab.dir.path().join("leases");
        std::fs::write(&leases, "").unwrap();
        let text = format!(
            "start 198.18.77.50\nend 198.18.77.60\ninterface {name}\nlease_file {}\n\
             option router 198.18.77.1\noption subnet 255.255.255.0\n",
            leases.display()
        );
        std::fs::write(&config, text).unwrap();
        let server = std::process::Command::new("/bin/busybox")
            .args(["udhcpd", "-f"])
            .arg(&config)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { name, server })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // The taps of a failed test's machines are on it.
        let taps = std::fs::read_dir(format!("/sys/class/net/{}/brif", self.name));
        let taps = taps.into_iter().flatten().flatten();
        let taps = taps.map(|tap| tap.file_name().to_string_lossy().into_owned());
        for interface in taps.chain([self.name.clone()]) {
            let _ = std::process::Command::new("ip")
                .args(["link", "del", &interface])
                .status();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridged_machine_is_reached_at_the_address_that_its_neighbours_see() {
    let Some(lab) = Lab::new("bridge") else {
        return;
    };
    let Some(bridge) = Bridge::make(&lab) else {
        return;
    };
    let vms = lab.open().await;
    let probe = vms.probe().await.unwrap();
    for capability in [format!("bridge:{}", bridge.name), "pool:fast".to_owned()] {
        assert!(probe.capabilities.contains(&capability), "{probe:?}");
    }
    let mut spec = spec(
        "ping -c 2 198.18.77.1 >/dev/null; echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp",
        "mute",
    );
    spec.networks = vec![NetworkSpec {
        mode: VmNetworkMode::Bridge,
        bridge: Some(bridge.name.clone()),
        ..NetworkSpec::default()
    }];
    let unit = unit(fresh_id(), spec.clone());
    start(&vms, &unit).await.unwrap();
    let seen = until_booted(&vms, unit.id).await;
    let address = seen.address.unwrap();
    let leased: std::ops::RangeInclusive<std::net::IpAddr> =
        "198.18.77.50".parse().unwrap()..="198.18.77.60".parse().unwrap();
    assert!(leased.contains(&address), "{address}");
    // Its address is seen before its server listens.
    let end = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect((address, 80)).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("hello"), "{answer}");
    let stats = vms.stats(unit.id).await.unwrap();
    assert!(stats.rx_bytes > 0 && stats.tx_bytes > 0, "{stats:?}");
    let taps = || {
        let all = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        let ours = all.filter(|entry| {
            let alias = std::fs::read_to_string(entry.path().join("ifalias"));
            alias.is_ok_and(|alias| alias.trim() == format!("weft {}", unit.id))
        });
        ours.count()
    };
    assert_eq!(taps(), 1);
    vms.stop(unit.id, Duration::ZERO).await.unwrap();
    assert_eq!(taps(), 0, "a machine that ended has a tap device");
    start(&vms, &unit).await.unwrap();
    until_booted(&vms, unit.id).await;
    vms.remove(unit.id, false).await.unwrap();
    assert_eq!(taps(), 0);
    spec.networks[0].bridge = Some("no-such-bridge".to_owned());
    let other = support::unit(fresh_id(), spec);
    let refused = start(&vms, &other).await.unwrap_err();
    assert!(
        refused.detail.contains("vm.networks[0].bridge"),
        "{refused}"
    );
    assert_eq!(lab.leftovers(), [""; 0]);
}
