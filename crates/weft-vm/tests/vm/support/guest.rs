//! A small guest: Debian's cloud kernel from its package, and an initial RAM disk made on the fly
//! of busybox, the kernel's own modules and the guest agent.
//!
//! Its `init` reads the NoCloud seed as cloud-init would, in a minimal way: host name, the
//! provisioned user with its password, and a script as user data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use weft_unit::conformance::images::is_installed;

const BUSYBOX: &str = "/bin/busybox";
/// Modules in the order in which they are loaded.
const MODULES: [&str; 16] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
    "cdrom",
    "isofs",
    "button",
    "evdev",
    "pvpanic",
    "pvpanic-mmio",
];

/// What the guest is made of.
#[derive(Clone, Debug)]
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /seed /run /var/run /tmp; mount -t devpts pts /dev/pts
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
for disk in /sys/block/vd*; do
    [ "$(cat $disk/serial)" = cidata ] && mount -t iso9660 -o ro /dev/${disk##*/} /seed
done
hostname "$(sed -n 's/^local-hostname: //p' /seed/meta-data)"
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",*$/\1/p" /seed/vendor-data; }
echo 'root:*:0:0:root:/:/bin/sh' > /etc/passwd
echo 'root:x:0:' > /etc/group
user=$(field name)
if [ -n "$user" ]; then
    echo "$user:$(field hashed_passwd):1000:1000::/:/bin/sh" >> /etc/passwd
    echo "$user:x:1000:" >> /etc/group
fi
ip link set lo up
for card in /sys/class/net/eth*; do
    card=${card##*/}
    ip link set $card up
    grep -q nonet /proc/cmdline || udhcpc -i $card -n -q -t 20 -T 1 -s /udhcpc >/dev/null 2>&1
    address=$(ip -4 addr show $card | sed -n 's/.*inet \([0-9.]*\).*/\1/p')
    grep -q mute /proc/cmdline || [ -z "$address" ] || echo "weft-address: $address"
done
acpid -d -c /etc/acpi >/dev/null 2>&1 &
telnetd -l /bin/login
if grep -q agent /proc/cmdline; then
    mkdir -p /dev/virtio-ports
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat $port/name)" = org.qemu.guest_agent.0 ] && agent=/dev/${port##*/}
    done
    /sbin/qemu-ga -m virtio-serial -p $agent >/dev/null 2>&1 &
fi
echo "host $(hostname) is up"
if grep -q '^#!' /seed/user-data; then
    setsid sh /seed/user-data &
    echo $! > /run/program; wait $!
    poweroff -f
fi
while :; do sleep 3600; done
"#;

/// What both the power button and the guest agent do.
const SHUTDOWN: &str = r#"#!/bin/sh
echo "asked to power off" > /dev/console
if [ -s /run/program ]; then
    pid=$(cat /run/program)
    kill -TERM $pid
    while kill -0 $pid 2>/dev/null; do sleep 0.1; done
fi
poweroff -f
"#;

const UDHCPC: &str = r#"#!/bin/sh
[ "$1" = bound ] && ip addr add $ip/${mask:-24} dev $interface
[ "$1" = bound ] && [ -n "$router" ] && ip route add default via $router
exit 0
"#;

pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {said}"))
}

pub fn io<T>(outcome: std::io::Result<T>) -> Result<T, String> {
    outcome.map_err(|e| e.to_string())
}

/// Fetches a package of Debian and unpacks it, once.
fn package(cache: &Path, name: &str) -> Result<PathBuf, String> {
    let at = cache.join(name);
    if at.exists() {
        return Ok(at);
    }
    let download = cache.join(format!("{name}.download"));
    let _ = fs::remove_dir_all(&download);
    io(fs::create_dir_all(&download))?;
    run(Command::new("apt-get")
        .args(["download", name])
        .current_dir(&download))?;
    let file = io(fs::read_dir(&download))?.flatten().next();
    let file = file
        .ok_or_else(|| format!("{name} was not downloaded"))?
        .path();
    let unpacked = download.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
    io(fs::rename(&unpacked, &at))?;
    io(fs::remove_dir_all(&download))?;
    Ok(at)
}

/// A file somewhere beneath a directory.
fn find(dir: &Path, is: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut below = Vec::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            below.push(entry.path());
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(is) {
            return Some(entry.path());
        }
    }
    below.iter().find_map(|dir| find(dir, is))
}

/// An archive in the format `newc` of cpio, which the kernel unpacks.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let length = content.len();
        let named = name.len() + 1;
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{length:08x}{:08x}{:08x}{:08x}{:08x}{named:08x}{:08x}",
            self.count, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn dir(&mut self, name: &str) {
        self.add(name, 0o040_755, b"");
    }

    fn program(&mut self, name: &str, content: &[u8]) {
        self.add(name, 0o100_755, content);
    }

    fn file(&mut self, name: &str, from: &Path) -> Result<(), String> {
        let content = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
        self.program(name, &content);
        Ok(())
    }
}

fn add_agent(archive: &mut Archive, cache: &Path) -> Result<(), String> {
    let program = package(cache, "qemu-guest-agent")?.join("usr/sbin/qemu-ga");
    archive.file("sbin/qemu-ga", &program)?;
    for line in run(Command::new("ldd").arg(&program))?.lines() {
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        if let Some(path) = path {
            let name = Path::new(path).file_name().unwrap_or_default();
            let place = if path.contains("ld-linux") {
                "lib64"
            } else {
                "lib"
            };
            archive.file(
                &format!("{place}/{}", name.to_string_lossy()),
                Path::new(path),
            )?;
        }
    }
    Ok(())
}

fn initrd(cache: &Path, modules: &Path) -> Result<Vec<u8>, String> {
    let mut archive = Archive::default();
    for dir in [
        "bin", "sbin", "lib", "lib64", "dev", "proc", "sys", "etc", "etc/acpi",
    ] {
        archive.dir(dir);
    }
    for dir in ["etc/acpi/PWRF", "modules", "root", "var"] {
        archive.dir(dir);
    }
    // Character device 5:1, for what is printed before there is a /dev.
    archive.file("bin/busybox", Path::new(BUSYBOX))?;
    for applet in run(Command::new(BUSYBOX).arg("--list"))?.lines() {
        if applet != "busybox" {
            archive.add(&format!("bin/{applet}"), 0o120_777, b"busybox");
        }
    }
    let mut order = String::new();
    for module in MODULES {
        let named = format!("{module}.ko");
        let path = find(modules, &|name| name == named);
        let path = path.ok_or_else(|| format!("no module {module} in the kernel's package"))?;
        archive.file(&format!("modules/{named}"), &path)?;
        order.push_str(&format!("{module}\n"));
    }
    archive.program("modules/order", order.as_bytes());
    archive.program("init", INIT.as_bytes());
    archive.program("udhcpc", UDHCPC.as_bytes());
    archive.program("sbin/shutdown", SHUTDOWN.as_bytes());
    archive.program("etc/acpi/PWRF/00000080", SHUTDOWN.as_bytes());
    archive.program("etc/nsswitch.conf", b"passwd: files\ngroup: files\n");
    add_agent(&mut archive, cache)?;
    archive.add("TRAILER!!!", 0, b"");
    Ok(archive.bytes)
}

fn make() -> Result<Guest, String> {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("busybox", "busybox-static"),
    ] {
        if !is_installed(program) {
            return Err(format!("{program} (apt: {package})"));
        }
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    io(fs::create_dir_all(&cache))?;
    let lock = io(fs::File::create(cache.join("lock")))?;
    io(lock.lock())?;
    let depends = run(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let name = depends
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-6"));
    let name = name.ok_or("linux-image-cloud-amd64 of apt")?;
    let unpacked = package(&cache, name)?;
    let kernel = find(&unpacked.join("boot"), &|name| name.starts_with("vmlinuz-"));
    let kernel = kernel.ok_or_else(|| format!("no kernel in {name}"))?;
    let bytes = initrd(&cache, &unpacked.join("lib/modules"))?;
    // By its content: another test program may be of another version of these sources.
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, &bytes));
    let initrd = cache.join(format!("initrd-{}", &hash[..16]));
    if !initrd.exists() {
        let partial = cache.join("initrd.partial");
        io(fs::write(&partial, &bytes))?;
        io(fs::rename(&partial, &initrd))?;
    }
    Ok(Guest { kernel, initrd })
}

/// The guest, or what this machine lacks to make it.
pub fn guest() -> Result<&'static Guest, String> {
    static GUEST: OnceLock<Result<Guest, String>> = OnceLock::new();
    GUEST.get_or_init(make).as_ref().map_err(Clone::clone)
}
