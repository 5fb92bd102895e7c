//! Ceph's block devices, by its own `rbd`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::command::{Program, Tools, run};
use crate::file_system::{LIMIT, attach_device, make};
use crate::slot::Slot;
use crate::{Error, mounts};

const RBD: Program = Program {
    name: "rbd",
    package: "ceph-common, with /etc/ceph/ceph.conf and a keyring",
    what: "a ceph-rbd volume",
};
const BLKID: Program = Program {
    name: "blkid",
    package: "util-linux",
    what: "a ceph-rbd volume",
};

/// A line of `rbd device list`.
#[derive(Deserialize)]
struct Mapped {
    pool: String,
    name: String,
    device: PathBuf,
}

struct Rbd<'a> {
    program: PathBuf,
    source: &'a str,
}

impl Rbd<'_> {
    fn run(&self, args: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(&self.program);
        command.args(args);
        run(command, self.source, LIMIT)
    }

    fn exists(&self) -> bool {
        self.run(&["info", "--", self.source]).is_ok()
    }

    /// The device, when it is mapped on this node.
    fn mapped(&self) -> Result<Option<PathBuf>, Error> {
        let listed = self.run(&["device", "list", "--format", "json"])?;
        let all: Vec<Mapped> = serde_json::from_str(&listed).map_err(|e| Error::Failed {
            program: "rbd".to_owned(),
            what: "device list".to_owned(),
            said: e.to_string(),
        })?;
        let is_it = |mapped: &&Mapped| format!("{}/{}", mapped.pool, mapped.name) == self.source;
        Ok(all.iter().find(is_it).map(|mapped| mapped.device.clone()))
    }

    fn map(&self, is_exclusive: bool) -> Result<PathBuf, Error> {
        if let Some(device) = self.mapped()? {
            return Ok(device);
        }
        // An exclusive lock keeps other nodes from mapping what one replica may have.
        let exclusive: &[&str] = if is_exclusive { &["--exclusive"] } else { &[] };
        let args = [&["device", "map"], exclusive, &["--", self.source]].concat();
        Ok(PathBuf::from(self.run(&args)?))
    }
}

fn rbd<'a>(tools: &Tools, source: &'a str) -> Result<Rbd<'a>, Error> {
    Ok(Rbd {
        program: tools.find(RBD)?,
        source,
    })
}

/// Maps and mounts the device of a slot. One that is not there is made when there is a size, one
/// without a file system gets one.
pub(crate) fn attach(
    tools: &Tools,
    slot: &mut Slot,
    source: &str,
    is_exclusive: bool,
) -> Result<PathBuf, Error> {
    let rbd = rbd(tools, source)?;
    if !slot.record.made_device && !rbd.exists() {
        // Without a size, mapping says that it is not there.
        if slot.record.size.is_some() {
            slot.record.made_device = true;
            slot.write()?;
        }
    }
    if let (true, Some(size)) = (slot.record.made_device, slot.record.size)
        && !rbd.exists()
    {
        let mebibytes = format!("{}M", size.div_ceil(1 << 20).max(1));
        rbd.run(&["create", "--size", &mebibytes, "--", source])?;
    }
    let device = rbd.map(is_exclusive)?;
    if !has_file_system(tools, &device)? {
        make(tools, &slot.record.fs_type, &device)?;
    }
    attach_device(tools, slot, &device)
}

/// `blkid` ends with 2 when it finds nothing; anything unclear counts as a file system, since a
/// new one would delete it.
fn has_file_system(tools: &Tools, device: &Path) -> Result<bool, Error> {
    let mut command = Command::new(tools.find(BLKID)?);
    command
        .args(["-p", "-o", "value", "-s", "TYPE"])
        .arg(device);
    match run(command, &format!("{}", device.display()), LIMIT) {
        Ok(_) => Ok(true),
        Err(Error::Failed { said, .. }) if said.contains("exit status: 2") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Unmounts and unmaps the device of a slot, and removes it when it was made for the slot and its
/// data go.
pub(crate) fn detach(tools: &Tools, slot: &Slot, source: &str, deletes: bool) -> Result<(), Error> {
    mounts::unmount_all(&slot.dir.join("mount"))?;
    let rbd = match rbd(tools, source) {
        // Then it was never mapped either.
        Err(Error::Missing { .. }) => return Ok(()),
        other => other?,
    };
    if let Some(device) = rbd.mapped()? {
        rbd.run(&["device", "unmap", &format!("{}", device.display())])?;
    }
    if deletes && slot.record.made_device && rbd.exists() {
        rbd.run(&["rm", "--no-progress", "--", source])?;
    }
    Ok(())
}
