//! Whether KVM works here, found by booting something.
//!
//! `/dev/kvm` may be there and still be of no use: on some machines a guest under it never gets
//! anywhere. So a boot sector is run that counts to a hundred million and says so, which takes a
//! processor a fraction of a second and an emulation of one minutes.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use weft_unit::Missing;

use crate::record;
use crate::user::{self, User};

/// How long the boot sector may take. With TCG on a slow machine it is half a second.
const DEADLINE: Duration = Duration::from_secs(2);
/// Where what was found is kept for every agent of the machine, when that can be written.
const SHARED_DIR: &str = "/run/weft";
/// What QEMU exits with after the boot sector wrote 16 to the debugging port.
const EXIT_CODE: i32 = 16 << 1 | 1;
/// How often the boot sector counts.
const COUNT: u32 = 100_000_000;

pub(super) fn missing(why: &str) -> Missing {
    Missing {
        what: "KVM".to_owned(),
        why: why.to_owned(),
        fix: "enable virtualisation on the host, and let the group `kvm` use /dev/kvm; until then \
              machines are emulated, which is about ten times slower"
            .to_owned(),
    }
}

/// What was found, valid until the machine is booted again or has another QEMU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    version: String,
    /// Who tried it: root can what users without a name cannot.
    is_own_user: bool,
    why_not: Option<String>,
}

/// Finds out, once in this boot of the machine.
pub(super) async fn probe(program: &Path, version: &str, data_dir: &Path) -> Result<(), Missing> {
    if !Path::new("/dev/kvm").exists() {
        return Err(missing("there is no /dev/kvm"));
    }
    let is_shared = record::make_dir(Path::new(SHARED_DIR)).is_ok();
    let dir = if is_shared {
        Path::new(SHARED_DIR)
    } else {
        data_dir
    };
    let at = dir.join("kvm.json");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let user = User::named("kvm");
    let is_own_user = user.is_some();
    let is_current = |known: &Remembered| {
        (&*known.boot_id, &*known.version) == (&*boot_id, version)
            && known.is_own_user == is_own_user
    };
    let known = std::fs::read(&at).ok();
    let known = known.and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = known.filter(is_current) {
        return known.why_not.map_or(Ok(()), |why| Err(missing(&why)));
    }
    let why_not = boot(program, user, data_dir).await.err();
    let found = Remembered {
        boot_id,
        version: version.to_owned(),
        is_own_user,
        why_not: why_not.clone(),
    };
    // Not being able to remember costs another probe at the next start.
    if let Ok(text) = serde_json::to_vec(&found) {
        let _ = record::write_file(&at, &text);
    }
    why_not.map_or(Ok(()), |why| Err(missing(&why)))
}

/// Code in real mode: count down, write 16 to port 0xf4, halt.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    let [a, b, c, d] = COUNT.to_le_bytes();
    let code = [
        0x66, 0xb9, a, b, c, d, // mov ecx, COUNT
        0x66, 0x49, // dec ecx
        0x75, 0xfc, // jnz -4
        0xba, 0xf4, 0x00, // mov dx, 0xf4
        0xb0, 0x10, // mov al, 16
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp -3
    ];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

async fn boot(program: &Path, user: Option<User>, data_dir: &Path) -> Result<(), String> {
    let said = |e: std::io::Error| e.to_string();
    record::make_dir(data_dir).map_err(said)?;
    let image = data_dir.join(format!("kvm-probe-{}.img", std::process::id()));
    std::fs::write(&image, boot_sector()).map_err(said)?;
    let everybody = std::fs::Permissions::from_mode(0o444);
    let opened = File::open(&image).and_then(|file| {
        file.set_permissions(everybody)?;
        Ok(file)
    });
    // Known by its descriptor from here on.
    let removed = std::fs::remove_file(&image);
    let opened = opened.map_err(said)?;
    removed.map_err(said)?;
    let file = serde_json::json!({
        "driver": "raw", "node-name": "boot", "read-only": true,
        "file": {"driver": "file", "read-only": true, "filename": "/proc/self/fd/0"},
    });
    let mut command = std::process::Command::new(program);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "pc,usb=off", "-accel", "kvm", "-m", "size=32M"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-blockdev", &file.to_string()])
        .args(["-device", "virtio-blk-pci,drive=boot"])
        .env_clear()
        .current_dir("/")
        .stdin(opened);
    let group = user::kvm_group();
    // SAFETY: between fork and exec only system calls.
    unsafe { command.pre_exec(move || user.map_or(Ok(()), |user| user.enter(group))) };
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    let ended = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = ended
        .map_err(|_| format!("a boot sector under it does not end within {DEADLINE:?}"))?
        .map_err(said)?;
    if output.status.code() == Some(EXIT_CODE) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or("no message").to_owned();
    Err(format!("QEMU ends with {}: {last}", output.status))
}
