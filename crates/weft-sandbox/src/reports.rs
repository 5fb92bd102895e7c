//! What the inits of sandboxes tell the spawner: a cell of shared memory a slot.
//!
//! Cheaper than a pipe a task, and out of the program's reach: executing a program leaves the mapping behind, and the
//! init, which keeps it, cannot be traced from inside.

use crate::{SpawnFailure, Stage};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// One init's report.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Cell {
    /// [`NOTHING`], [`ENDED`] or [`FAILED`] plus a stage.
    kind: AtomicU32,
    value: AtomicI32,
}

const NOTHING: u32 = 0;
const ENDED: u32 = 1;
const FAILED: u32 = 2;

/// What a cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The init ended without a word: it was killed.
    Nothing,
    /// The program ended with this wait status.
    Ended(libc::c_int),
    /// The program was not started.
    Failed(SpawnFailure),
}

impl Cell {
    /// The program ended.
    pub(crate) fn ended(&self, status: libc::c_int) {
        self.tell(ENDED, status);
    }

    /// The program could not be started.
    pub(crate) fn failed(&self, failure: SpawnFailure) {
        self.tell(FAILED + failure.stage as u32, failure.errno);
    }

    fn tell(&self, kind: u32, value: i32) {
        self.value.store(value, Ordering::Relaxed);
        self.kind.store(kind, Ordering::Release);
    }

    /// Reads and clears the cell.
    pub(crate) fn take(&self) -> Told {
        let kind = self.kind.swap(NOTHING, Ordering::Acquire);
        let value = self.value.load(Ordering::Relaxed);
        match kind {
            NOTHING => Told::Nothing,
            ENDED => Told::Ended(value),
            kind => {
                let stage = u8::try_from(kind - FAILED)
                    .ok()
                    .and_then(Stage::from_code)
                    .unwrap_or(Stage::Clone);
                Told::Failed(SpawnFailure {
                    stage,
                    errno: value,
                })
            }
        }
    }
}

/// The cells of all slots.
#[derive(Debug)]
pub(crate) struct Reports {
    cells: NonNull<Cell>,
    count: usize,
}

impl Reports {
    /// Maps memory that children made by copying still share.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn map(count: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                count * size_of::<Cell>(),
                protection,
                MapFlags::SHARED,
            )
        }?;
        let cells = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { cells, count })
    }

    /// The cell of a slot, if there are that many.
    pub(crate) fn cell(&self, slot: u32) -> Option<&Cell> {
        let index = slot as usize;
        // SAFETY: the mapping holds `count` cells, is zeroed (a valid cell) and lives as long as the process.
        (index < self.count).then(|| unsafe { self.cells.add(index).as_ref() })
    }
}
