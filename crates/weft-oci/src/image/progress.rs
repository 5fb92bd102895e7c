//! How far a pull is, for people who wait.

use std::sync::atomic::{AtomicU64, Ordering};

use weft_unit::Progress;

/// After how many more bytes people are told.
const TELL_EVERY_BYTES: u64 = 1 << 20;

pub(super) struct Pulled {
    progress: Progress,
    layers: u64,
    bytes: u64,
    layers_done: AtomicU64,
    bytes_done: AtomicU64,
}

impl Pulled {
    pub(super) fn new(progress: &Progress, layers: u64, bytes: u64) -> Self {
        let pulled = Self {
            progress: progress.clone(),
            layers,
            bytes,
            layers_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
        };
        pulled.tell();
        pulled
    }

    pub(super) fn add_bytes(&self, more: u64) {
        let before = self.bytes_done.fetch_add(more, Ordering::Relaxed);
        if before / TELL_EVERY_BYTES != (before + more) / TELL_EVERY_BYTES {
            self.tell();
        }
    }

    pub(super) fn add_layer(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        self.progress.send_replace(format!(
            "pulling {} of {} layers, {} of {} MB",
            self.layers_done.load(Ordering::Relaxed),
            self.layers,
            megabytes(self.bytes_done.load(Ordering::Relaxed).min(self.bytes)),
            megabytes(self.bytes),
        ));
    }
}
