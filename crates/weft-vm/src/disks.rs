//! Disks on storage pools.
//!
//! ```text
//!  POOL/weft-NODE/units/UNIT/root.qcow2       goes with its unit
//!  POOL/weft-NODE/disks/WORKLOAD/NAME.0.qcow2 a further disk, with
//!                                NAME.0.owner the unit that has it now
//! ```
//!
//! Further disks belong to the workload: a unit takes the first of its name that no other unit
//! has, so that what takes the place of a unit finds its data. Each replica has one of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use weft_types::{DiskSpec, ImageFormat, Reason, Retain, UnitId};
use weft_unit::{Error, Step};

use crate::fail;
use crate::machine::Disk;
use crate::options::DEFAULT_POOL;
use crate::record::{self, Record, make_dir, remove_file};
use crate::{Options, qemu};

/// How long `qemu-img` may take.
const TOOL_PATIENCE: Duration = Duration::from_secs(120);
/// Address space of `qemu-img` when it reads what others have made, in bytes.
const TOOL_MEMORY_BYTES: u64 = 2 << 30;
/// The most disks of one name that a workload has on a node.
const MAX_DISKS_OF_A_NAME: u32 = 10_000;
/// The largest owner's file that is read, in bytes.
const MAX_OWNER_BYTES: u64 = 256;

/// The pools of a node and the tool that makes disks.
#[derive(Clone, Debug)]
pub(crate) struct Disks {
    pools: Vec<(String, PathBuf)>,
    tool: Option<PathBuf>,
}

/// What an image is, as `qemu-img info` says.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageInfo {
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    format_specific: serde_json::Value,
}

impl Disks {
    pub(crate) fn new(options: &Options) -> Self {
        let within = format!("weft-{}", options.node);
        let pools = options.pool_names().into_iter();
        let pools = pools.filter_map(|name| Some((name.clone(), options.pool(&name)?)));
        let beside = options.qemu.as_ref().and_then(|qemu| {
            let path = qemu.parent()?.join("qemu-img");
            path.is_file().then_some(path)
        });
        let given = options.qemu_img.clone().or(beside);
        Self {
            pools: pools.map(|(name, dir)| (name, dir.join(&within))).collect(),
            tool: given.or_else(|| qemu::in_path("qemu-img")),
        }
    }

    pub(crate) fn has_tool(&self) -> bool {
        self.tool.is_some()
    }

    fn pool(&self, field: &str, name: Option<&str>) -> Result<&Path, Error> {
        let name = name.unwrap_or(DEFAULT_POOL);
        let found = self.pools.iter().find(|(pool, _)| pool == name);
        found.map(|(_, dir)| dir.as_path()).ok_or_else(|| {
            let message = format!("this node has no storage pool {name:?}; ask for `pool:{name}`");
            fail::refused(field, message)
        })
    }

    /// The root disk of a unit over its image, made unless it is there.
    pub(crate) async fn root(
        &self,
        unit: UnitId,
        pool: Option<&str>,
        base: (&Path, ImageFormat),
        size: Option<u64>,
    ) -> Result<Disk, Error> {
        let dir = self.pool("vm.root_pool", pool)?.join("units");
        let dir = dir.join(unit.to_string());
        let path = dir.join("root.qcow2");
        let disk = Disk {
            serial: "root".to_owned(),
            path: path.clone(),
            format: ImageFormat::Qcow2,
            base: Some((base.0.to_owned(), base.1)),
            is_read_only: false,
        };
        let has = self.virtual_size(base.0, base.1).await?;
        let size = size.unwrap_or(has);
        if size < has {
            let message = format!("{size} bytes, but the image has {has}; ask for more");
            return Err(fail::refused("vm.root_size", message));
        }
        if path.exists() {
            return Ok(disk);
        }
        make_dir(&dir).map_err(|e| fail::file(Step::Prepare, "making", &dir, &e))?;
        self.create(&path, size, Some(base)).await?;
        Ok(disk)
    }

    /// A further disk for a unit, with the data that another one has left.
    pub(crate) async fn further(&self, unit: UnitId, spec: &DiskSpec) -> Result<Disk, Error> {
        let dir = self.pool("vm.disks.pool", spec.pool.as_deref())?;
        let dir = dir.join("disks").join(unit.workload.to_string());
        make_dir(&dir).map_err(|e| fail::file(Step::Prepare, "making", &dir, &e))?;
        let claimed = claim(&dir, &spec.name, unit);
        let path = claimed.map_err(|e| fail::file(Step::Prepare, "claiming in", &dir, &e))?;
        if path.exists() {
            let has = self.virtual_size(&path, ImageFormat::Qcow2).await?;
            if has < spec.size.0 {
                self.tool_run(&[
                    "resize".as_ref(),
                    "-f".as_ref(),
                    "qcow2".as_ref(),
                    path.as_os_str(),
                    spec.size.0.to_string().as_ref(),
                ])
                .await?;
            }
        } else {
            self.create(&path, spec.size.0, None).await?;
        }
        Ok(Disk {
            serial: spec.name.clone(),
            path,
            format: ImageFormat::Qcow2,
            base: None,
            is_read_only: false,
        })
    }

    /// Makes a disk under its name only once it is whole.
    async fn create(
        &self,
        path: &Path,
        size: u64,
        base: Option<(&Path, ImageFormat)>,
    ) -> Result<(), Error> {
        let temporary = path.with_extension("new");
        let size = size.to_string();
        let mut arguments = vec![
            "create".as_ref(),
            "-q".as_ref(),
            "-f".as_ref(),
            "qcow2".as_ref(),
        ];
        if let Some((base, format)) = &base {
            let format = match format {
                ImageFormat::Qcow2 => "qcow2",
                ImageFormat::Raw => "raw",
            };
            arguments.extend([
                "-F".as_ref(),
                format.as_ref(),
                "-b".as_ref(),
                base.as_os_str(),
            ]);
        }
        arguments.extend([temporary.as_os_str(), size.as_ref()]);
        self.tool_run(&arguments).await?;
        std::fs::rename(&temporary, path).map_err(|e| fail::file(Step::Prepare, "making", path, &e))
    }

    /// The size of the disk in an image, which must stand on nothing else: a file that it names
    /// could be any file of the node.
    pub(crate) async fn virtual_size(
        &self,
        path: &Path,
        format: ImageFormat,
    ) -> Result<u64, Error> {
        if format == ImageFormat::Raw {
            let meta = std::fs::metadata(path);
            let meta = meta.map_err(|e| fail::file(Step::Prepare, "reading", path, &e))?;
            return Ok(meta.len().next_multiple_of(512));
        }
        let output = self
            .tool_run(&[
                "info".as_ref(),
                "--output=json".as_ref(),
                "-f".as_ref(),
                "qcow2".as_ref(),
                path.as_os_str(),
            ])
            .await
            .map_err(|error| fail::refused("vm.image", error.detail))?;
        let info: ImageInfo = serde_json::from_slice(&output)
            .map_err(|e| fail::refused("vm.image", format!("`qemu-img info` is unclear: {e}")))?;
        if info.backing_filename.is_some() && !path.starts_with_any(&self.pools) {
            let message = "names a backing file; flatten it with `qemu-img convert`";
            return Err(fail::refused("vm.image", message));
        }
        let data_file = &info.format_specific["data"]["data-file"];
        if info.encrypted || !data_file.is_null() {
            let message = "is encrypted or keeps its data in another file; convert it";
            return Err(fail::refused("vm.image", message));
        }
        Ok(info.virtual_size)
    }

    async fn tool_run(&self, arguments: &[&std::ffi::OsStr]) -> Result<Vec<u8>, Error> {
        let unavailable = || {
            let detail = "qemu-img is not in PATH; install qemu-utils";
            Error::new(Step::Prepare, Reason::RuntimeUnavailable, detail)
        };
        let failed = |detail: String| Error::new(Step::Prepare, Reason::StorageError, detail);
        let tool = self.tool.as_ref().ok_or_else(unavailable)?;
        let mut command = std::process::Command::new(tool);
        command.args(arguments).env_clear();
        let bound = || {
            let limit = rustix::process::Rlimit {
                current: Some(TOOL_MEMORY_BYTES),
                maximum: Some(TOOL_MEMORY_BYTES),
            };
            rustix::process::setrlimit(rustix::process::Resource::As, limit)?;
            Ok(())
        };
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(bound) };
        let mut command = Command::from(command);
        command
            .kill_on_drop(true)
            .stdin(std::process::Stdio::null());
        let output = tokio::time::timeout(TOOL_PATIENCE, command.output())
            .await
            .map_err(|_| failed(format!("qemu-img takes longer than {TOOL_PATIENCE:?}")))?
            .map_err(|e| failed(format!("{}: {e}", tool.display())))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            text.lines().last().unwrap_or("qemu-img failed").to_owned(),
        ))
    }

    /// Removes the disks of a unit. Further ones are let go of, and stay when they are to be
    /// retained or `keep` says so.
    pub(crate) fn remove(&self, unit: UnitId, retained: &[String], keep: bool) -> io::Result<()> {
        for (_, pool) in &self.pools {
            let root = pool.join("units").join(unit.to_string());
            match std::fs::remove_dir_all(&root) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let dir = pool.join("disks").join(unit.workload.to_string());
            for (stem, owner) in owners(&dir)? {
                if owner != unit.to_string() {
                    continue;
                }
                let name = stem
                    .rsplit_once('.')
                    .map_or(stem.as_str(), |(name, _)| name);
                if !keep && !retained.iter().any(|kept| kept == name) {
                    remove_file(&dir.join(format!("{stem}.qcow2")))?;
                    remove_file(&dir.join(format!("{stem}.new")))?;
                }
                remove_file(&dir.join(format!("{stem}.owner")))?;
            }
            // Those that are empty go; `weft-NODE` too, with its last machine.
            for empty in [&dir, &pool.join("disks"), &pool.join("units"), pool] {
                let _ = std::fs::remove_dir(empty);
            }
        }
        Ok(())
    }
}

/// Whether a path lies in one of our pools, where backing files are those that we have set.
trait InPools {
    fn starts_with_any(&self, pools: &[(String, PathBuf)]) -> bool;
}

impl InPools for Path {
    fn starts_with_any(&self, pools: &[(String, PathBuf)]) -> bool {
        pools.iter().any(|(_, pool)| self.starts_with(pool))
    }
}

/// Names of further disks that stay when their unit goes.
pub(crate) fn retained(specs: &[DiskSpec]) -> Vec<String> {
    let kept = specs.iter().filter(|disk| disk.retain == Retain::Retain);
    kept.map(|disk| disk.name.clone()).collect()
}

/// The disks that have an owner, without their endings, and the owner.
fn owners(dir: &Path) -> io::Result<Vec<(String, String)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".owner") {
            let mut owner = String::new();
            let file = File::open(dir.join(&name))?;
            file.take(MAX_OWNER_BYTES).read_to_string(&mut owner)?;
            all.push((stem.to_owned(), owner.trim().to_owned()));
        }
    }
    Ok(all)
}

/// Takes the first disk of a name that nobody has, or the one that the unit has already.
fn claim(dir: &Path, name: &str, unit: UnitId) -> io::Result<PathBuf> {
    let ours = unit.to_string();
    let is_of_name = |stem: &str| stem.rsplit_once('.').is_some_and(|(of, _)| of == name);
    let had = owners(dir)?;
    let had = had
        .iter()
        .find(|(stem, owner)| is_of_name(stem) && *owner == ours);
    if let Some((stem, _)) = had {
        return Ok(dir.join(format!("{stem}.qcow2")));
    }
    for index in 0..MAX_DISKS_OF_A_NAME {
        let stem = format!("{name}.{index}");
        // Written whole before it has its name: two units that want it at once see one owner.
        let temporary = dir.join(format!("{stem}.{ours}"));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(ours.as_bytes())?;
        let linked = std::fs::hard_link(&temporary, dir.join(format!("{stem}.owner")));
        remove_file(&temporary)?;
        match linked {
            Ok(()) => return Ok(dir.join(format!("{stem}.qcow2"))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many disks of this name"))
}

/// Which images the units in a directory of units stand on.
pub(crate) fn images_in_use(nodes: &Path) -> Vec<String> {
    let entries = |dir: &Path| {
        let read = std::fs::read_dir(dir).into_iter().flatten().flatten();
        read.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let units = entries(nodes).into_iter().flat_map(|node| entries(&node));
    let records = units.filter_map(|unit| record::read(&unit));
    records.flat_map(|record: Record| record.images).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::WorkloadId;

    fn unit(number: u32) -> UnitId {
        UnitId {
            workload: WorkloadId(9),
            number,
        }
    }

    #[test]
    fn a_disk_goes_from_unit_to_unit_and_replicas_have_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks {
            pools: vec![("p".to_owned(), dir.path().to_owned())],
            tool: None,
        };
        let at = dir.path().join("disks").join(unit(1).workload.to_string());
        make_dir(&at).unwrap();
        let first = claim(&at, "data", unit(1)).unwrap();
        assert_eq!(claim(&at, "data", unit(1)).unwrap(), first);
        let second = claim(&at, "data", unit(2)).unwrap();
        assert_ne!(first, second);
        for path in [&first, &second] {
            std::fs::write(path, "x").unwrap();
        }
        disks.remove(unit(1), &[], true).unwrap();
        assert_eq!(claim(&at, "data", unit(3)).unwrap(), first);
        disks.remove(unit(3), &["data".to_owned()], false).unwrap();
        assert!(first.exists(), "retained");
        disks.remove(unit(2), &[], false).unwrap();
        assert!(!second.exists(), "not retained");
    }
}
