//! One entry of an archive, with the extended headers before it.

use std::io::Read;

use tar::{Entry, EntryType, PaxExtensions};

use super::reading;
use crate::Error;

/// The largest extended header or long name, in bytes.
const MAX_EXTRA_BYTES: u64 = 1 << 20;
/// The longest path or link target, as the kernel has it.
const MAX_PATH_BYTES: usize = 4096;
/// The longest name, as file systems have it.
const MAX_NAME_BYTES: usize = 255;
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// What headers before an entry say about it.
#[derive(Default)]
pub(super) struct Extras {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    size: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Extras {
    /// Takes an entry that only describes the next one; `false` when it is no such entry.
    pub(super) fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<bool, Error> {
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => {}
            EntryType::XHeader => self.pax(&body(entry)?)?,
            EntryType::GNULongName => self.path = Some(terminated(body(entry)?)),
            EntryType::GNULongLink => self.link = Some(terminated(body(entry)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(|e| reading(&e))?;
            let key = record
                .key()
                .map_err(|_| corrupt("a header that is not text"))?;
            let value = record.value_bytes();
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "uid" => self.uid = Some(number(value)?),
                "gid" => self.gid = Some(number(value)?),
                "size" => self.size = Some(number(value)?),
                "mtime" => self.mtime = seconds(value),
                key if key.starts_with("GNU.sparse.") => return Err(corrupt("a sparse file")),
                key => {
                    if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                        self.xattrs.push((name.to_owned(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn body<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, Error> {
    let size = entry.size();
    if size > MAX_EXTRA_BYTES {
        return Err(corrupt(format!("a header of {size} bytes")));
    }
    let mut bytes = Vec::new();
    entry
        .take(MAX_EXTRA_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| reading(&e))?;
    Ok(bytes)
}

fn terminated(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn number(bytes: &[u8]) -> Result<u64, Error> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| corrupt("a header with a number that is none"))
}

/// Times before 1970 or with fractions lose what does not matter.
fn seconds(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes)
        .ok()?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// What an entry is.
pub(super) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<Vec<u8>>),
    Fifo,
    /// A character device 0:0, as overlayfs has whiteouts.
    Whiteout,
    /// A device directly in `/dev`, which a container gets anew anyway.
    Skipped,
}

/// An entry that becomes something.
pub(super) struct Member {
    pub(super) path: Vec<Vec<u8>>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

impl Member {
    pub(super) fn read<R: Read>(entry: &Entry<'_, R>, extras: Extras) -> Result<Self, Error> {
        let header = entry.header();
        let raw_path = match extras.path {
            Some(path) => path,
            None => header.path_bytes().into_owned(),
        };
        if extras.size.is_some_and(|size| size != entry.size()) {
            return Err(corrupt("a file of 8 GiB or more"));
        }
        let path = components(&raw_path)?;
        let link = || match extras.link {
            Some(link) => link,
            None => header.link_name_bytes().unwrap_or_default().into_owned(),
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link_target(link())?),
            EntryType::Link => Kind::Hardlink(components(&link())?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => device(header, &path)?,
            other => return Err(corrupt(format!("an entry of kind {other:?}"))),
        };
        let id = |extra: Option<u64>, own: std::io::Result<u64>| match extra {
            Some(id) => u32::try_from(id).map_err(|_| corrupt("an owner beyond 32 bits")),
            None => own
                .ok()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| corrupt("an owner that is not a number")),
        };
        Ok(Self {
            path,
            kind,
            mode: header.mode().map_err(|e| reading(&e))? & 0o7777,
            uid: id(extras.uid, header.uid())?,
            gid: id(extras.gid, header.gid())?,
            mtime: extras
                .mtime
                .or_else(|| i64::try_from(header.mtime().ok()?).ok())
                .unwrap_or(0),
            xattrs: extras.xattrs,
        })
    }

    /// Its path, for people.
    pub(super) fn name(&self) -> String {
        let text = String::from_utf8_lossy(&self.path.join(&b'/')).into_owned();
        format!("{:?}", text.chars().take(200).collect::<String>())
    }
}

/// Devices of an image are either covered by the container's own `/dev`, or an attempt at the
/// machine's disks.
fn device(header: &tar::Header, path: &[Vec<u8>]) -> Result<Kind, Error> {
    let number = |part: std::io::Result<Option<u32>>| part.ok().flatten();
    let is_null =
        number(header.device_major()) == Some(0) && number(header.device_minor()) == Some(0);
    match (header.entry_type(), path) {
        (EntryType::Char, _) if is_null => Ok(Kind::Whiteout),
        (EntryType::Char, [dev, name]) if dev == b"dev" && COVERED.contains(&name.as_slice()) => {
            Ok(Kind::Skipped)
        }
        _ => Err(corrupt(format!(
            "{:?} is a device, and images may not bring devices",
            String::from_utf8_lossy(&path.join(&b'/'))
        ))),
    }
}

/// What every container has in `/dev` of its own.
const COVERED: [&[u8]; 8] = [
    b"null", b"zero", b"full", b"random", b"urandom", b"tty", b"console", b"ptmx",
];

fn link_target(target: Vec<u8>) -> Result<Vec<u8>, Error> {
    if target.is_empty() || target.len() >= MAX_PATH_BYTES || target.contains(&0) {
        return Err(corrupt("a symbolic link with a target that is none"));
    }
    Ok(target)
}

/// The names of a path; the root is empty.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let shown = || {
        format!(
            "{:?}",
            String::from_utf8_lossy(&path[..path.len().min(200)])
        )
    };
    if path.len() >= MAX_PATH_BYTES {
        return Err(corrupt(format!("a path of {} bytes", path.len())));
    }
    if path.contains(&0) {
        return Err(corrupt(format!("{} has a zero byte", shown())));
    }
    // Some tools list the root of the layer as `/`.
    if path.first() == Some(&b'/') && path.iter().any(|&b| b != b'/') {
        return Err(corrupt(format!("{} is an absolute path", shown())));
    }
    let mut names = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(corrupt(format!("{} leaves the layer", shown()))),
            name if name.len() > MAX_NAME_BYTES => {
                return Err(corrupt(format!("{} has too long a name", shown())));
            }
            name => names.push(name.to_vec()),
        }
    }
    Ok(names)
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::Corrupt(format!("the layer has {}", why.into()))
}
