//! Which slot of a volume a unit holds.

use std::path::Path;

use weft_types::{AccessMode, UnitId, VolumeClass, VolumeSpec};

use crate::Error;
use crate::name::{directory, fnv64};
use crate::slot::{Record, Slot};

/// The most replicas of a node that have a volume of one name.
const MAX_SLOTS: usize = 10_000;

/// Whether several units may hold a volume at once.
pub(crate) fn is_shared(spec: &VolumeSpec) -> bool {
    spec.access_mode != AccessMode::ReadWriteOnce
}

fn record(class: VolumeClass, spec: &VolumeSpec) -> Record {
    Record {
        v: 1,
        holders: Default::default(),
        class,
        retain: spec.retain,
        size: spec.size.map(|size| size.0),
        fs_type: spec.fs_type.clone().unwrap_or_else(|| "ext4".to_owned()),
        source: spec.source.clone(),
        made_device: false,
    }
}

/// The slot that a unit holds from now on, beneath the directory of its workload.
pub(crate) fn take(
    dir: &Path,
    unit: UnitId,
    spec: &VolumeSpec,
    class: VolumeClass,
) -> Result<Slot, Error> {
    let volume = dir.join(directory(spec));
    let mut slot = match (class, &spec.source) {
        (VolumeClass::Local, _) if is_shared(spec) => shared(&volume.join("shared"), spec, class)?,
        (VolumeClass::Local, _) => own(&volume, unit, spec)?,
        (_, Some(source)) => {
            // Another source is another slot.
            let hash = fnv64(source.as_bytes());
            let slot = shared(&volume.join(format!("at-{hash:016x}")), spec, class)?;
            check_alone(&slot, unit, spec)?;
            slot
        }
        (_, None) => return Err(unsupported(spec, "`source` is missing")),
    };
    check_same(&slot, spec)?;
    let is_new = slot.record.holders.insert(unit.to_string());
    if is_new || slot.record.retain != spec.retain {
        slot.record.retain = spec.retain;
        slot.write()?;
    }
    Ok(slot)
}

fn shared(dir: &Path, spec: &VolumeSpec, class: VolumeClass) -> Result<Slot, Error> {
    match Slot::read(dir)? {
        Some(slot) => Ok(slot),
        None => Slot::make(dir, record(class, spec)),
    }
}

/// The slot that a unit holds, else the first that is free, else a new one.
fn own(volume: &Path, unit: UnitId, spec: &VolumeSpec) -> Result<Slot, Error> {
    let mut first_free = None;
    let mut first_unused = None;
    for number in 0..MAX_SLOTS {
        let dir = volume.join(number.to_string());
        match Slot::read(&dir)? {
            Some(slot) if slot.is_held_by(unit) => return Ok(slot),
            Some(slot) if slot.is_free() => _ = first_free.get_or_insert(slot),
            Some(_) => {}
            None => _ = first_unused.get_or_insert_with(|| dir.clone()),
        }
        if !dir.exists() {
            break;
        }
    }
    match (first_free, first_unused) {
        (Some(slot), _) => Ok(slot),
        (None, Some(dir)) => Slot::make(&dir, record(VolumeClass::Local, spec)),
        (None, None) => Err(unsupported(spec, "too many replicas on this node")),
    }
}

/// Refuses a second holder of what one unit may hold.
fn check_alone(slot: &Slot, unit: UnitId, spec: &VolumeSpec) -> Result<(), Error> {
    let mut holders = slot.record.holders.iter();
    let other = holders.find_map(|id| id.parse().ok().filter(|other| *other != unit));
    match other {
        Some(holder) if !is_shared(spec) => Err(Error::Held {
            name: directory(spec),
            holder,
        }),
        _ => Ok(()),
    }
}

/// A volume that is there keeps the size and the file system that it was made with.
fn check_same(slot: &Slot, spec: &VolumeSpec) -> Result<(), Error> {
    let wanted = record(slot.record.class, spec);
    let has_file_system = slot.record.size.is_some();
    if slot.record.size == wanted.size
        && (!has_file_system || slot.record.fs_type == wanted.fs_type)
    {
        return Ok(());
    }
    Err(unsupported(
        spec,
        "it is there already with another `size` or `fs_type`, and is not changed; give the volume another `name`",
    ))
}

/// Something that a volume cannot be.
pub(crate) fn unsupported(spec: &VolumeSpec, why: &str) -> Error {
    Error::Unsupported {
        target: spec.target.clone(),
        why: why.to_owned(),
    }
}
