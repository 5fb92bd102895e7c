//! A guest as clouds have it: Debian from a disk image by URL, with cloud-init, OpenSSH and the
//! guest agent. Emulated, it takes minutes to boot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use weft_types::{
    Bytes, CloudInit, ImageFormat, Login, NetworkSpec, Reason, UnitId, VmImage, VmSpec,
};
use weft_unit::{ExecOutput, ExecWanted, Phase, UnitRuntime};
use weft_vm::Vms;

use crate::support;
use crate::support::http::Server;
use crate::support::{
    Lab, blob, debian, fresh_id, port, printed, start, unit, until, until_ended, until_within,
};

/// How long the guest may take to boot or to end, on a machine where others build.
const BOOT: Duration = Duration::from_secs(900);
/// How long one command over SSH may take; the guest's programs are slow to start.
const COMMAND_SECONDS: &str = "180";
const PASSWORD: &str = "c0rrect horse";
const USER_DATA: &str = "#cloud-config
write_files:
  - {path: /etc/seeded, content: by user-data}
runcmd:
  - [sh, -c, 'echo once >> /var/ran']
  - [sh, -c, 'echo seed-was-run > /dev/console']
";

/// Somebody who logs in.
struct Client {
    dir: PathBuf,
    at: SocketAddr,
}

impl Client {
    /// Makes a key; its public half comes with it.
    fn with_key(dir: &Path) -> (PathBuf, String) {
        let key = dir.join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(&key)
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        let public = std::fs::read_to_string(key.with_extension("pub")).expect("the public half");
        (key, public.trim().to_owned())
    }

    fn ssh(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = Command::new("timeout");
        ssh.args([COMMAND_SECONDS, "ssh", "-F", "none", "-p"])
            .arg(self.at.port().to_string())
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=60"])
            .args(["-o", "IdentitiesOnly=yes"])
            .args(options)
            .arg(format!("weaver@{}", self.at.ip()))
            .arg(command);
        ssh
    }

    /// What a command prints, by the key; tried until the guest listens.
    fn says(&self, command: &str) -> String {
        let key = self.dir.join("key").display().to_string();
        let end = Instant::now() + BOOT;
        loop {
            let output = self
                .ssh(&["-i", &key, "-o", "BatchMode=yes"], command)
                .output()
                .expect("ssh runs");
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
            assert!(Instant::now() < end, "{command}: {output:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// A login by password alone.
    fn by_password(&self, password: &str) -> Output {
        use std::os::unix::fs::PermissionsExt;
        let script = self.dir.join("askpass");
        std::fs::write(&script, format!("#!/bin/sh\necho '{password}'\n")).expect("a script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).expect("a mode");
        let options = [
            "-o",
            "PubkeyAuthentication=no",
            "-o",
            "NumberOfPasswordPrompts=1",
        ];
        self.ssh(&options, "id -un")
            .env("SSH_ASKPASS", &script)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .output()
            .expect("ssh runs")
    }
}

/// What a command prints that the guest's agent runs.
async fn by_agent(vms: &Vms, id: UnitId, command: &[&str]) -> String {
    let wanted = ExecWanted {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        part: String::new(),
        tty: None,
    };
    let mut session = vms.exec(id, wanted).await.expect("the agent takes it");
    let mut text = Vec::new();
    while let Some(output) = session.output.recv().await {
        if let ExecOutput::Stdout(bytes) = output {
            text.extend_from_slice(&bytes);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn debian_spec(image: VmImage, key: String) -> VmSpec {
    let mut spec = support::spec("", "");
    (spec.kernel, spec.initrd, spec.cmdline) = (None, None, None);
    spec.image = Some(image);
    spec.root_size = Some(Bytes(2 << 30));
    spec.memory = Some(Bytes(512 << 20));
    spec.boot_timeout = BOOT;
    spec.networks = vec![NetworkSpec {
        ports: vec![port(22)],
        ..NetworkSpec::default()
    }];
    spec.cloud_init = Some(CloudInit {
        user_data: Some(USER_DATA.to_owned()),
        ..CloudInit::default()
    });
    spec.login = Some(Login {
        user: "weaver".to_owned(),
        ssh_keys: vec![key],
        password_secret: Some("login".to_owned()),
    });
    spec
}

async fn booted(vms: &Vms, id: UnitId) -> weft_unit::Observed {
    let begun = Instant::now();
    let has_booted = |seen: &weft_unit::Observed| {
        assert!(!matches!(seen.phase, Phase::Exited { .. }), "{seen:?}");
        seen.healthy == Some(true)
    };
    let seen = until_within(BOOT, vms, id, "it has booted", has_booted).await;
    eprintln!("booted within {:?}", begun.elapsed());
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn debian_boots_with_its_seed_reports_its_address_takes_the_login_and_is_shut_down() {
    let Some(lab) = Lab::new("debian") else {
        return;
    };
    if Command::new("ssh").arg("-V").output().is_err() {
        eprintln!("skipped: needs ssh (apt: openssh-client)");
        return;
    }
    let disk = match debian::disk() {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: needs {why}");
            return;
        }
    };
    let content = std::fs::read(&disk.path).expect("the disk");
    let server = Server::start(vec![("debian.qcow2", content)]).await;
    let (_, public) = Client::with_key(lab.dir.path());
    let image = VmImage {
        url: Some(server.url("debian.qcow2")),
        sha256: Some(disk.sha256.clone()),
        blob: None,
        format: ImageFormat::Qcow2,
    };
    let vms = lab.open().await;
    let mut unit = unit(fresh_id(), debian_spec(image, public));
    unit.secrets.login_password = Some(PASSWORD.to_owned());
    start(&vms, &unit).await.unwrap();
    let seen = booted(&vms, unit.id).await;
    assert_eq!(seen.address, Some("10.0.2.15".parse().unwrap()), "{seen:?}");
    let source = seen.source.clone().unwrap();
    assert_eq!(source, format!("sha256:{}", disk.sha256));

    let client = Client {
        dir: lab.dir.path().to_owned(),
        at: seen.published[&22],
    };
    let who = client.says("id -un; hostname; cat /etc/seeded; sudo -n id -u; cat /var/ran");
    assert_eq!(who, "weaver\nsmall-guest\nby user-data0\nonce", "{who}");
    let accepted = client.by_password(PASSWORD);
    assert_eq!(accepted.stdout, b"weaver\n", "{accepted:?}");
    let refused = client.by_password("wrong");
    assert!(!refused.status.success(), "{refused:?}");
    let console = printed(&vms, unit.id).await;
    for wanted in ["GRUB", "cloud-init", "seed-was-run"] {
        assert!(console.contains(wanted), "no {wanted}:\n{console}");
    }

    let told = by_agent(&vms, unit.id, &["cat", "/etc/seeded"]).await;
    assert_eq!(told, "by user-data");

    vms.set_paused(unit.id, true).await.unwrap();
    let stands_still = |seen: &weft_unit::Observed| seen.phase == Phase::Paused;
    until(&vms, unit.id, "it stands still", stands_still).await;
    vms.set_paused(unit.id, false).await.unwrap();
    until(&vms, unit.id, "it goes on", |seen| seen.is_running()).await;
    assert_eq!(client.says("echo kept | sudo tee /var/kept; sync"), "kept");

    let begun = Instant::now();
    vms.stop(unit.id, BOOT).await.unwrap();
    eprintln!("shut down within {:?}", begun.elapsed());
    assert_eq!(
        until_ended(&vms, unit.id).await,
        (None, "stopped".to_owned())
    );
    let console = printed(&vms, unit.id).await;
    assert!(console.contains("reboot: Power down"), "{console}");

    start(&vms, &unit).await.unwrap();
    let seen = booted(&vms, unit.id).await;
    let client = Client {
        at: seen.published[&22],
        ..client
    };
    let kept = client.says("cat /var/kept /var/ran");
    assert_eq!(kept, "kept\nonce", "the disk or the seed is another");
    vms.remove(unit.id, false).await.unwrap();
    assert_eq!(lab.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_without_a_boot_loader_is_a_failed_boot_with_what_the_firmware_says() {
    let Some(lab) = Lab::new("unbootable") else {
        return;
    };
    let base = lab.dir.path().join("zeros.raw");
    std::fs::write(&base, vec![0; 4 << 20]).unwrap();
    let hash = weft_types::BlobHash([4; 32]);
    let mut options = lab.options();
    options.artifacts = Some(std::sync::Arc::new(support::Files([(hash, base)].into())));
    let vms = Vms::open(options).await.unwrap();
    let mut spec = support::spec("", "");
    (spec.kernel, spec.initrd, spec.cmdline) = (None, None, None);
    spec.image = blob(hash);
    let unit = unit(fresh_id(), spec);
    start(&vms, &unit).await.unwrap();
    let (reason, detail) = until_ended(&vms, unit.id).await;
    assert_eq!(reason, Some(Reason::VmBootFailed), "{detail}");
    assert!(detail.contains("found nothing to boot from"), "{detail}");
    assert!(
        detail.contains("Boot failed: not a bootable disk"),
        "{detail}"
    );
    assert_eq!(lab.processes(""), [""; 0], "a failed machine runs on");
    vms.remove(unit.id, false).await.unwrap();
    assert_eq!(lab.leftovers(), [""; 0]);
}
