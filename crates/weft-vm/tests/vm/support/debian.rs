//! A guest as clouds have it: Debian with its cloud kernel, cloud-init, OpenSSH and the guest
//! agent, on a disk with a boot loader. Made once of packages, without loop devices.
//!
//! It is smaller than Debian's own image and boots faster, for it is emulated: no documentation, no
//! timers, and of cloud-init only the modules that are tested. Its guest agent does not obey when
//! it is asked to power off, so that the power button has to.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ring::digest::{Context, SHA256, digest};

use super::guest::{io, run};

/// Where packages come from.
const MIRROR: &str = "http://deb.debian.org/debian/dists/bookworm/InRelease";
const PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,lz4,systemd-sysv,udev,dbus,\
     iproute2,openssh-server,sudo,cloud-init,qemu-guest-agent,grub-pc-bin";
/// The part of the disk before its only partition, which has the boot loader, in bytes.
const GAP: u64 = 1 << 20;
/// The partition, in bytes.
const PARTITION: u64 = 1 << 30;
const SECTOR: u64 = 512;

/// Before packages are unpacked: `$1` is the directory of the system.
const BEFORE: &str = r#"set -e
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
printf 'MODULES=list\nCOMPRESS=lz4\nRESUME=none\n' > "$1/etc/initramfs-tools/conf.d/guest"
printf 'virtio_pci\nvirtio_blk\next4\n' > "$1/usr/share/initramfs-tools/modules.d/guest"
printf 'LABEL=root / ext4 rw,noatime 0 0\n' > "$1/etc/fstab"
"#;

/// After packages are unpacked. The core of GRUB has its configuration in itself.
const AFTER: &str = r#"set -e
root="$1"
inside() { chroot "$root" "$@"; }
cat > "$root/etc/cloud/cloud.cfg.d/99-guest.cfg" <<'END'
datasource_list: [NoCloud, None]
ssh_genkeytypes: [ed25519]
cloud_init_modules: [write-files, set_hostname, update_hostname, users-groups, ssh]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules: [scripts-vendor, scripts-user, final-message]
END
mkdir -p "$root/etc/qemu"
printf '[general]\nblacklist=guest-shutdown\n' > "$root/etc/qemu/qemu-ga.conf"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname"
: > "$root/etc/machine-id"
inside systemctl enable systemd-networkd
inside systemctl mask apt-daily.timer apt-daily-upgrade.timer fstrim.timer e2scrub_all.timer \
    e2scrub_reap.service dpkg-db-backup.timer getty@tty1.service systemd-pstore.service
ln -s "$(basename "$root"/boot/vmlinuz-*)" "$root/boot/vmlinuz"
ln -s "$(basename "$root"/boot/initrd.img-*)" "$root/boot/initrd.img"
cat > "$root/boot/grub.cfg" <<'END'
linux /boot/vmlinuz root=LABEL=root ro console=ttyS0 no_timer_check net.ifnames=0 quiet loglevel=4 \
    edd=off mitigations=off nokaslr apparmor=0 cryptomgr.notests
initrd /boot/initrd.img
boot
END
inside grub-mkimage -O i386-pc -o /boot/core.img -p '(hd0,msdos1)/boot' -c /boot/grub.cfg \
    biosdisk part_msdos ext2 linux
cp "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/boot.img"
inside apt-get -y purge grub-pc-bin grub-common grub2-common
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
"#;

/// The disk of the guest.
#[derive(Clone, Debug)]
pub struct Disk {
    pub path: PathBuf,
    pub sha256: String,
}

/// The disk, or what this machine lacks to make it.
///
/// # Panics
/// When it can be made here but is not: that is a fault of the recipe.
pub fn disk() -> Result<&'static Disk, String> {
    static DISK: OnceLock<Result<Disk, String>> = OnceLock::new();
    DISK.get_or_init(make).as_ref().map_err(Clone::clone)
}

fn make() -> Result<Disk, String> {
    let recipe = format!("{PACKAGES}\n{BEFORE}\n{AFTER}\n{GAP} {PARTITION}");
    let hash = hex::encode(digest(&SHA256, recipe.as_bytes()));
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let cache = tmp.join(format!("weft-guest-{}", &hash[..16]));
    io(fs::create_dir_all(&cache))?;
    let lock = io(File::create(cache.join("lock")))?;
    io(lock.lock())?;
    let path = cache.join("disk.qcow2");
    if !path.exists() {
        needs()?;
        build(&cache, &path).unwrap_or_else(|error| panic!("the guest is not made: {error}"));
    }
    let sha256 = io(sha256(&path))?;
    Ok(Disk { path, sha256 })
}

fn needs() -> Result<(), String> {
    let tools = [
        ("mmdebstrap", "mmdebstrap"),
        ("mke2fs", "e2fsprogs"),
        ("qemu-img", "qemu-utils"),
        ("curl", "curl"),
    ];
    for (tool, package) in tools {
        if Command::new(tool).arg("--version").output().is_err() {
            return Err(format!("{tool} (apt: {package})"));
        }
    }
    let mut asked = Command::new("curl");
    asked.args(["-fsS", "--max-time", "30", "-o", "/dev/null", MIRROR]);
    run(&mut asked).map_err(|error| format!("Debian's mirror: {error}"))?;
    Ok(())
}

fn build(cache: &Path, path: &Path) -> Result<(), String> {
    let work = cache.join("work");
    let _ = fs::remove_dir_all(&work);
    io(fs::create_dir_all(&work))?;
    let (root, raw) = (work.join("root"), work.join("disk.raw"));
    let hook = |name: &str, text: &str| {
        let script = work.join(name);
        io(fs::write(&script, text)).map(|()| format!("sh '{}' \"$1\"", script.display()))
    };
    run(Command::new("mmdebstrap")
        .args(["--variant=minbase", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .args(
            ["doc", "man", "locale"].map(|of| format!("--dpkgopt=path-exclude=/usr/share/{of}/*")),
        )
        .arg(format!("--essential-hook={}", hook("before", BEFORE)?))
        .arg(format!("--customize-hook={}", hook("after", AFTER)?))
        .arg("bookworm")
        .arg(&root))?;
    let mut disk = io(File::create(&raw))?;
    io(disk.set_len(GAP + PARTITION))?;
    // GRUB of Debian 12 reads no file system with checksums of its metadata.
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-m", "0"])
        .args([
            "-O",
            "^metadata_csum,^64bit",
            "-E",
            &format!("offset={GAP}"),
        ])
        .arg("-d")
        .arg(&root)
        .arg(&raw)
        .arg(format!("{}k", PARTITION >> 10)))?;
    let boot = io(fs::read(root.join("boot/boot.img")))?;
    let core = io(fs::read(root.join("boot/core.img")))?;
    io(disk.write_all(&boot_sector(&boot)?))?;
    if core.len() as u64 > GAP - SECTOR {
        return Err("the core of GRUB is too large".to_owned());
    }
    io(disk.seek(SeekFrom::Start(SECTOR)))?;
    io(disk.write_all(&core))?;
    let whole = work.join("disk.qcow2");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .args([&raw, &whole]))?;
    io(fs::rename(&whole, path))?;
    io(fs::remove_dir_all(&work))
}

/// The code of GRUB, which reads its core from the next sector on, and a table of one partition.
fn boot_sector(code: &[u8]) -> Result<Vec<u8>, String> {
    let code = code
        .get(..440)
        .ok_or("the boot code of GRUB is too short")?;
    let mut sector = code.to_vec();
    sector.resize(446, 0);
    let (begin, count) = (GAP / SECTOR, PARTITION / SECTOR);
    // Bootable, of type Linux, addressed by sector alone.
    sector.extend([0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    for number in [begin, count] {
        let number = u32::try_from(number).map_err(|e| e.to_string())?;
        sector.extend(number.to_le_bytes());
    }
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    Ok(sector)
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Context::new(&SHA256));
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(hex::encode(hash.finish()));
        }
        hash.update(&buffer[..length]);
    }
}
