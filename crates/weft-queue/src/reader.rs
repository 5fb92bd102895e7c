//! Reading back what is on disk.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::frame::{Found, HEAD_BYTES, frame_at};
use crate::index::Location;
use crate::record::{ENTRY_HEAD_BYTES, ResultEntry, entry, entry_body_len};
use crate::segment::SegmentNo;

/// Bodies of frames that were read last, for tasks that are handed out in batches.
const CACHED_BODIES: usize = 64;
/// Only bodies up to this size are kept, in bytes.
const MAX_CACHED_BYTES: usize = 4 << 20;
/// Results are read in windows of this size, since neighbours are usually wanted next.
const WINDOW_BYTES: usize = 64 << 10;
/// Windows that are kept.
const CACHED_WINDOWS: usize = 16;

/// Open files and what was read from them last.
pub(crate) struct Reader {
    dir: PathBuf,
    files: Mutex<HashMap<SegmentNo, Arc<File>>>,
    bodies: Mutex<VecDeque<(Location, Bytes)>>,
    windows: Mutex<VecDeque<(Location, Bytes)>>,
}

impl Reader {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            files: Mutex::default(),
            bodies: Mutex::default(),
            windows: Mutex::default(),
        }
    }

    fn file(&self, segment: SegmentNo) -> Option<Arc<File>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&segment) {
            return Some(Arc::clone(file));
        }
        let path = segment.path(&self.dir);
        let file = File::open(&path)
            .map_err(|error| tracing::error!(path = %path.display(), %error, "unreadable"))
            .ok()?;
        let file = Arc::new(file);
        files.insert(segment, Arc::clone(&file));
        Some(file)
    }

    pub(crate) fn forget(&self, segment: SegmentNo) {
        self.files.lock().remove(&segment);
        self.bodies.lock().retain(|(at, _)| at.segment != segment);
        self.windows.lock().retain(|(at, _)| at.segment != segment);
    }

    /// The body of the frame at a place, checked, and kept for the next who wants it.
    pub(crate) fn body(&self, at: Location) -> Option<Bytes> {
        if let Some((_, body)) = self.bodies.lock().iter().find(|(known, _)| *known == at) {
            return Some(body.clone());
        }
        let body = self.body_once(at)?;
        if body.len() <= MAX_CACHED_BYTES {
            let mut bodies = self.bodies.lock();
            if bodies.len() == CACHED_BODIES {
                bodies.pop_front();
            }
            bodies.push_back((at, body.clone()));
        }
        Some(body)
    }

    /// The body of the frame at a place, checked; does not push out what is kept.
    pub(crate) fn body_once(&self, at: Location) -> Option<Bytes> {
        let file = self.file(at.segment)?;
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, u64::from(at.offset)).ok()?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let mut frame = vec![0; HEAD_BYTES + length.min(crate::frame::MAX_BODY_BYTES)];
        file.read_exact_at(&mut frame, u64::from(at.offset)).ok()?;
        if !matches!(frame_at(&frame), Found::Frame(_)) {
            tracing::error!(
                segment = at.segment.0,
                offset = at.offset,
                "a record of the journal is damaged"
            );
            return None;
        }
        Some(Bytes::from(frame).slice(HEAD_BYTES..))
    }

    /// The result at a place, checked.
    pub(crate) fn result(&self, at: Location) -> Option<ResultEntry> {
        if let Some(entry) = self.cached(at).and_then(|bytes| entry(&bytes)) {
            return Some(entry);
        }
        // A window may have been read before the end of the log grew into it.
        self.windows.lock().retain(|(start, window)| {
            let end = u64::from(start.offset) + window.len() as u64;
            start.segment != at.segment || u64::from(at.offset) >= end || at.offset < start.offset
        });
        let entry = self.window(at).and_then(|bytes| entry(&bytes));
        if entry.is_none() {
            tracing::error!(
                segment = at.segment.0,
                offset = at.offset,
                "a result of the journal is damaged"
            );
        }
        entry
    }

    /// The bytes of a result, if a window has all of them.
    fn cached(&self, at: Location) -> Option<Bytes> {
        self.windows.lock().iter().find_map(|(start, window)| {
            let skip = (at.segment == start.segment)
                .then(|| at.offset.checked_sub(start.offset))?? as usize;
            let bytes = (skip < window.len()).then(|| window.slice(skip..))?;
            let head = bytes.first_chunk::<ENTRY_HEAD_BYTES>()?;
            (bytes.len() >= ENTRY_HEAD_BYTES + entry_body_len(head)).then_some(bytes)
        })
    }

    fn window(&self, at: Location) -> Option<Bytes> {
        let file = self.file(at.segment)?;
        let mut window = vec![0; WINDOW_BYTES];
        let mut filled = 0;
        while filled < window.len() {
            match file
                .read_at(&mut window[filled..], u64::from(at.offset) + filled as u64)
                .ok()?
            {
                0 => break,
                count => filled += count,
            }
        }
        window.truncate(filled);
        let whole = ENTRY_HEAD_BYTES + entry_body_len(window.first_chunk::<ENTRY_HEAD_BYTES>()?);
        if whole > window.len() {
            let mut large = vec![0; whole];
            file.read_exact_at(&mut large, u64::from(at.offset)).ok()?;
            return Some(large.into());
        }
        let window = Bytes::from(window);
        let mut windows = self.windows.lock();
        if windows.len() == CACHED_WINDOWS {
            windows.pop_front();
        }
        windows.push_back((at, window.clone()));
        Some(window)
    }
}
