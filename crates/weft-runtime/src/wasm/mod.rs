//! WebAssembly programs with WASI: preview 1 modules and preview 2 command components.
//!
//! ```text
//! module bytes ──► modules (memory, then disk, else compile) ──► execute (a thread, a store, an instance)
//!                                                                   │ host: memory limit, WASI context
//!                                                                   │ watch: yields, disk limit
//!                                                                   └ ending: exit code, trap, limit
//! ```
//!
//! A program sees its working directory as `/`, `$WEFT_OUT` as `/out`, its standard streams, clocks and random
//! numbers, and nothing else: no other file, no network, no environment but its own.

mod cache;
mod ending;
mod engine;
mod execute;
mod host;
mod modules;
mod stdio;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_types::{Failure, Reason, RuntimeKind};

use crate::outcome::cancelled;
use crate::{Control, Error, Outcome, Probe, Runtime, TaskRun, WorkRoot};
use cache::CodeCache;
use engine::Ticker;
use modules::Modules;

/// How the WebAssembly runtime works.
#[derive(Clone, Debug)]
pub struct WasmOptions {
    /// Directory for compiled code, of this user alone. Made when it is not there.
    pub cache_dir: PathBuf,
    /// Instances that run at once, 1 to [`WasmOptions::MAX_RUNNING`]; further tasks wait. Each holds one of the
    /// threads that the executor has for blocking work, of which there must be more than this.
    pub max_running: u32,
}

impl WasmOptions {
    /// The most instances that may run at once.
    pub const MAX_RUNNING: u32 = 256;

    /// Defaults, with compiled code in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            max_running: 64,
        }
    }
}

/// Runs WebAssembly programs.
///
/// A time limit and cancellation act within some 10 ms also on a program that never yields. Memory is limited
/// exactly; disk is measured every quarter of a second and at the end, so that a fast writer may overshoot by what
/// it writes in that time.
#[derive(Clone)]
pub struct WasmRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    modules: Modules,
    ticker: Ticker,
    work: WorkRoot,
    running: Arc<Semaphore>,
}

impl WasmRuntime {
    /// A runtime whose programs work beneath `work`.
    ///
    /// # Errors
    /// When the machine does not allow the address space, or the cache directory is not ours alone.
    pub fn new(work: WorkRoot, options: WasmOptions) -> Result<Self, Error> {
        let max_running = options.max_running.clamp(1, WasmOptions::MAX_RUNNING);
        let engine = engine::build(max_running)?;
        let cache = CodeCache::open(options.cache_dir, &engine)?;
        Ok(Self {
            shared: Arc::new(Shared {
                ticker: Ticker::start(&engine)?,
                modules: Modules::new(engine, cache)?,
                work,
                running: Arc::new(Semaphore::new(max_running as usize)),
            }),
        })
    }
}

#[async_trait]
impl Runtime for WasmRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Wasm
    }

    async fn probe(&self) -> Probe {
        // An engine that started can run: there is nothing more to try.
        Probe {
            available: true,
            ..Probe::default()
        }
    }

    async fn run(&self, task: TaskRun, control: Control) -> Outcome {
        let permit = tokio::select! {
            permit = Arc::clone(&self.shared.running).acquire_owned() => permit,
            () = control.cancelled() => return finish(&control, Outcome::failed(cancelled())),
        };
        // Dropping this future must stop the program too, which runs on a thread of its own.
        let abandoned = CancellationToken::new();
        let _guard = abandoned.clone().drop_guard();
        let shared = Arc::clone(&self.shared);
        let own_control = control.clone();
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let _ticking = shared.ticker.tick();
            Handle::current().block_on(execute::run(&shared, &task, &own_control, &abandoned))
        });
        let outcome = running.await.unwrap_or_else(|error| {
            Outcome::failed(Failure::new(
                Reason::Internal,
                format!("the WebAssembly thread ended early: {error}"),
            ))
        });
        finish(&control, outcome)
    }
}

fn finish(control: &Control, mut outcome: Outcome) -> Outcome {
    (outcome.stdout, outcome.stderr) = control.output().finish();
    outcome
}
