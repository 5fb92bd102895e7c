//! Volumes that are mounted: files with a file system of their own, and NFS.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{Program, Tools, run};
use crate::error::At;
use crate::slot::Slot;
use crate::{Error, mounts};

/// How long a file system may take to be made or mounted.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const NFS_LIMIT: Duration = Duration::from_secs(30);
/// No set-user-id programs and no devices out of a volume.
const OPTIONS: &str = "nosuid,nodev";

const MOUNT: Program = Program {
    name: "mount",
    package: "mount (util-linux)",
    what: "a volume with a file system",
};
const MOUNT_NFS: Program = Program {
    name: "mount.nfs",
    package: "nfs-common (Debian) or nfs-utils",
    what: "an nfs volume",
};

/// Makes a directory that containers of any user may write to. Those above it belong to root alone.
pub(crate) fn data_dir(dir: PathBuf) -> Result<PathBuf, Error> {
    if !dir.is_dir() {
        fs::create_dir_all(&dir).at(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).at(&dir)?;
    }
    Ok(dir)
}

/// Makes a file system on a file or a device.
pub(crate) fn make(tools: &Tools, fs_type: &str, on: &Path) -> Result<(), Error> {
    let (program, flags): (_, &[&str]) = match fs_type {
        "xfs" => ("mkfs.xfs", &["-q", "-f"]),
        _ => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
    };
    let package = match fs_type {
        "xfs" => "xfsprogs",
        _ => "e2fsprogs",
    };
    let program = tools.find(Program {
        name: program,
        package,
        what: "a volume with a size",
    })?;
    let mut command = Command::new(program);
    command.args(flags).arg(on);
    run(command, &format!("{}", on.display()), LIMIT).map(drop)
}

/// Mounts a file with a file system at `<slot>/mount`, makes it first where it is missing, and gives
/// the directory for data in it.
pub(crate) fn attach_image(tools: &Tools, slot: &Slot, size: u64) -> Result<PathBuf, Error> {
    let (image, point) = (slot.dir.join("image"), slot.dir.join("mount"));
    if !image.exists() {
        // Under another name until it is whole: a file with half a file system is never mounted.
        let new = slot.dir.join("image.new");
        let file = File::create(&new).at(&new)?;
        file.set_len(size).at(&new)?;
        make(tools, &slot.record.fs_type, &new)?;
        file.sync_all().at(&new)?;
        fs::rename(&new, &image).at(&image)?;
    }
    let options = format!("loop,{OPTIONS}");
    mount(tools, &slot.record.fs_type, &options, &image, &point)?;
    // Beneath the root of the file system, where there is a `lost+found`.
    data_dir(point.join("data"))
}

/// Mounts a block device as [`attach_image`] does a file.
pub(crate) fn attach_device(tools: &Tools, slot: &Slot, device: &Path) -> Result<PathBuf, Error> {
    let point = slot.dir.join("mount");
    mount(tools, &slot.record.fs_type, OPTIONS, device, &point)?;
    data_dir(point.join("data"))
}

/// Mounts an export.
pub(crate) fn attach_nfs(tools: &Tools, slot: &Slot, export: &str) -> Result<PathBuf, Error> {
    let point = slot.dir.join("mount");
    if mounts::is_mounted(&point)? {
        return Ok(point);
    }
    tools.find(MOUNT_NFS)?;
    fs::create_dir_all(&point).at(&point)?;
    let mut command = Command::new(tools.find(MOUNT)?);
    command
        .args(["-t", "nfs", "-o", &format!("{OPTIONS},retry=0"), "--"])
        .arg(export)
        .arg(&point);
    run(command, export, NFS_LIMIT)?;
    Ok(point)
}

fn mount(tools: &Tools, fs_type: &str, options: &str, what: &Path, at: &Path) -> Result<(), Error> {
    if mounts::is_mounted(at)? {
        return Ok(());
    }
    fs::create_dir_all(at).at(at)?;
    let mut command = Command::new(tools.find(MOUNT)?);
    command
        .args(["-t", fs_type, "-o", options, "--"])
        .arg(what)
        .arg(at);
    run(command, &format!("{}", at.display()), LIMIT).map(drop)
}
