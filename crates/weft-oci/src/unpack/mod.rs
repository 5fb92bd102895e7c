//! Layers: from an archive that nobody trusts to a directory that can be mounted.
//!
//! Everything is resolved beneath the directory of the layer by the kernel (`openat2`), no symbolic
//! link is ever followed, and what an archive may cost is bounded. Whiteouts become what overlayfs
//! understands, so that a layer is mounted as it lies.

mod beneath;
mod decode;
mod entry;
mod meter;
mod padded;

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::error::During;
use crate::image::{Compression, Digest};

use beneath::Tree;
use entry::{Extras, Kind, Member};
use meter::Meter;
use padded::Padded;

/// How much the archive of one layer may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes before compression.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// How many bytes may come out of one, once [`Limits::RATIO_FROM_BYTES`] have come out.
    pub ratio: u64,
}

impl Limits {
    /// Below this, a good compression is no bomb.
    pub const RATIO_FROM_BYTES: u64 = 256 << 20;
}

impl Default for Limits {
    /// 32 GiB, two million entries, 1 to 200.
    fn default() -> Self {
        Self {
            bytes: 32 << 30,
            entries: 2_000_000,
            ratio: 200,
        }
    }
}

/// What was unpacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unpacked {
    /// Digest of the archive before compression.
    pub diff_id: Digest,
    /// Its length, in bytes.
    pub bytes: u64,
    /// How many entries it had.
    pub entries: u64,
}

/// Unpacks the archive of a layer into an empty directory.
///
/// # Errors
/// [`Error::Corrupt`] with what is wrong with the archive, or what the file system says.
pub fn unpack_layer(
    archive: impl Read,
    compression: Compression,
    into: &Path,
    limits: Limits,
) -> Result<Unpacked, Error> {
    let root = rustix::fs::open(
        into,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during(|| format!("open {}", into.display()))?;
    let meter = Meter::new(archive, compression, limits);
    let mut archive = tar::Archive::new(Padded::new(meter));
    let mut tree = Tree::new(root);
    let entries = unpack_entries(&mut archive, &mut tree, limits)?;
    tree.finish()?;
    let mut meter = archive.into_inner().into_inner();
    io::copy(&mut meter, &mut io::sink()).map_err(|e| reading(&e))?;
    let (diff_id, bytes) = meter.finish();
    Ok(Unpacked {
        diff_id,
        bytes,
        entries,
    })
}

fn unpack_entries(
    archive: &mut tar::Archive<impl Read>,
    tree: &mut Tree,
    limits: Limits,
) -> Result<u64, Error> {
    let mut count = 0;
    let mut extras = Extras::default();
    for entry in archive.entries().map_err(|e| reading(&e))?.raw(true) {
        let mut entry = entry.map_err(|e| reading(&e))?;
        count += 1;
        if count > limits.entries {
            return Err(Error::Corrupt(format!(
                "the layer has more than {} entries",
                limits.entries
            )));
        }
        if extras.take(&mut entry)? {
            continue;
        }
        let member = Member::read(&entry, std::mem::take(&mut extras))?;
        place(tree, &member, &mut entry).map_err(|error| match error {
            Error::Corrupt(why) => Error::Corrupt(format!("layer entry {}: {why}", member.name())),
            other => other,
        })?;
    }
    Ok(count)
}

fn place(tree: &mut Tree, member: &Member, body: &mut impl Read) -> Result<(), Error> {
    let Some(name) = member.path.last() else {
        return match member.kind {
            Kind::Directory => tree.root(member),
            _ => Err(Error::Corrupt("takes the place of the root".into())),
        };
    };
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        return tree.whiteout(&member.path, hidden);
    }
    match &member.kind {
        Kind::Directory => tree.directory(member),
        Kind::File => tree.file(member, body),
        Kind::Symlink(target) => tree.symlink(member, target),
        Kind::Hardlink(target) => tree.hardlink(member, target),
        Kind::Fifo => tree.fifo(member),
        Kind::Whiteout => tree.whiteout(&member.path, name),
        Kind::Skipped => Ok(()),
    }
}

/// An archive that cannot be read on is broken; a disk that cannot be written is reported where it
/// is written.
pub(crate) fn reading(error: &io::Error) -> Error {
    Error::Corrupt(format!("the layer cannot be unpacked: {error}"))
}

#[cfg(test)]
mod tests;
