//! What a running program has of the host: its WASI context and its limits.

use wasmtime::ResourceLimiter;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxView, WasiView};

/// The most elements of one table.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// The state of one store.
pub(super) struct Host {
    wasi: WasiP1Ctx,
    max_memory_bytes: u64,
    /// Of all memories together; they never shrink.
    memory_bytes: u64,
}

/// A program wanted more memory than its limit.
#[derive(Debug, thiserror::Error)]
#[error("it needs more than its memory limit of {limit_bytes} bytes")]
pub(super) struct OutOfMemory {
    limit_bytes: u64,
}

impl Host {
    /// `max_memory_bytes` of 0 is no limit but the engine's, 4 GiB a memory.
    pub(super) fn new(wasi: WasiP1Ctx, max_memory_bytes: u64) -> Self {
        let max_memory_bytes = if max_memory_bytes == 0 {
            u64::MAX
        } else {
            max_memory_bytes
        };
        Self {
            wasi,
            max_memory_bytes,
            memory_bytes: 0,
        }
    }

    pub(super) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl ResourceLimiter for Host {
    /// Ends the program rather than refusing to grow: what a program does without memory is anyone's guess, and
    /// processes are killed as well.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown_bytes = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current) as u64);
        if grown_bytes > self.max_memory_bytes {
            return Err(OutOfMemory {
                limit_bytes: self.max_memory_bytes,
            }
            .into());
        }
        self.memory_bytes = grown_bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}
