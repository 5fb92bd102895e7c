//! What the monitor mounts, in a mount namespace of its own.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::copy::copy_layers;
use super::request::Request;
use crate::Error;
use crate::cgroup::{Hierarchy, hierarchies, is_v2};
use crate::error::During;
use crate::files;
use crate::size;

const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// From here on nothing that is mounted is seen by others; what others unmount goes here too.
pub(super) fn enter() -> Result<(), Error> {
    // SAFETY: there is one thread, and nothing depends on what it shares with others.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .during(|| "make a mount namespace".into())?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).during(|| "keep mounts private".into())?;
    mount_cgroups()
}

/// The directory of the run, in memory.
pub(super) fn make_run(run: &Path) -> Result<(), Error> {
    tmpfs(run, c"mode=0700,size=64m")?;
    for part in ["root", "bundle", "rootfs", "files", "empty"] {
        files::make_dir(&run.join(part), 0o755)?;
    }
    Ok(())
}

fn tmpfs(at: &Path, options: &std::ffi::CStr) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(options))
        .during(|| format!("mount {}", at.display()))
}

/// Where `/sys` was mounted anew, as `ip netns exec` does, the runtimes find no control groups.
fn mount_cgroups() -> Result<(), Error> {
    let magic = rustix::fs::statfs(CGROUPS).map(|found| found.f_type);
    if magic == Ok(CGROUP2_MAGIC) {
        return Ok(());
    }
    let mut all = hierarchies()?;
    if is_v2(&all) && all.len() == 1 {
        return mount_hierarchy(&all[0], Path::new(CGROUPS));
    }
    // crun 1.8 refuses to work beside a version 2 that has controllers of its own.
    if !is_v2(&all) {
        let unified = Path::new(CGROUPS).join("unified");
        let _ = rustix::mount::unmount(&unified, UnmountFlags::DETACH);
        all.retain(|hierarchy| !hierarchy.controllers.is_empty());
    }
    if magic == Ok(TMPFS_MAGIC) {
        return Ok(());
    }
    tmpfs(Path::new(CGROUPS), c"mode=0755")?;
    for hierarchy in &all {
        let name = match hierarchy.controllers.as_str() {
            "" => "unified",
            name => name.strip_prefix("name=").unwrap_or(name),
        };
        let at = Path::new(CGROUPS).join(name);
        files::make_dir(&at, 0o755)?;
        mount_hierarchy(hierarchy, &at)?;
    }
    Ok(())
}

fn mount_hierarchy(hierarchy: &Hierarchy, at: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = match hierarchy.controllers.as_str() {
        name if name.starts_with("name=") => format!("none,{name}"),
        names => names.to_owned(),
    };
    let (kind, options) = match options.is_empty() {
        true => ("cgroup2", None),
        false => ("cgroup", std::ffi::CString::new(options).ok()),
    };
    rustix::mount::mount("cgroup", at, kind, flags, options.as_deref())
        .during(|| format!("mount {}", at.display()))
}

/// Mounts the root file system: the layers, and above them an empty one to write to.
pub(super) fn make_rootfs(request: &Request) -> Result<(), Error> {
    let rootfs = request.unit.run().join("rootfs");
    let layer = request.unit.layer();
    files::remove_tree(&layer)?;
    for part in ["upper", "work"] {
        files::make_dir(&layer.join(part), 0o755)?;
    }
    if !request.has_overlay {
        copy_layers(&request.layers_dir, &request.layers, &layer.join("upper"))?;
        let copied = size::beneath(&layer.join("upper")).unwrap_or(0);
        request.unit.write_base_bytes(copied)?;
        return rustix::mount::mount_bind(layer.join("upper"), &rootfs)
            .during(|| "bind the root file system".into());
    }
    // Names relative to here need no quoting and are short.
    let here = std::env::current_dir().during(|| "look where we are".into())?;
    std::env::set_current_dir(&request.layers_dir)
        .during(|| format!("go to {}", request.layers_dir.display()))?;
    let mounted = mount_overlay(request, &rootfs);
    std::env::set_current_dir(here).during(|| "go back".into())?;
    mounted
}

fn mount_overlay(request: &Request, rootfs: &Path) -> Result<(), Error> {
    let mut lower: Vec<&str> = request.layers.iter().map(String::as_str).rev().collect();
    let empty = request.unit.run().join("empty");
    let empty = empty.to_string_lossy();
    if lower.is_empty() {
        lower.push(&empty);
    }
    let layer = format!("../units/{}/layer", request.id);
    let mut options = format!(
        "lowerdir={},upperdir={layer}/upper,workdir={layer}/work",
        lower.join(":")
    );
    // The layer is thrown away at the next start: nothing is gained by writing it to the disk.
    options.push_str(",volatile");
    if overlay(rootfs, &options).is_ok() {
        return Ok(());
    }
    overlay(rootfs, options.trim_end_matches(",volatile"))
        .during(|| "mount the layers by overlayfs".into())
}

fn overlay(rootfs: &Path, options: &str) -> std::io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::empty();
    Ok(rustix::mount::mount(
        "overlay",
        rootfs,
        "overlay",
        flags,
        Some(options.as_c_str()),
    )?)
}
