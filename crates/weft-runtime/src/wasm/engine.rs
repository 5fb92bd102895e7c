//! The engine's configuration, and the clock that interrupts programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::Error;

/// How often running programs give way, so that limits and cancellation are looked at.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Stack of a program; deeper recursion traps.
const MAX_WASM_STACK_BYTES: usize = 1 << 20;
/// Stack of a program and of the host functions it calls.
const ASYNC_STACK_BYTES: usize = 2 << 20;
/// A component consists of several modules.
const CORE_INSTANCES_PER_PROGRAM: u32 = 8;
const TABLE_ELEMENTS: usize = 100_000;

/// An engine for `max_running` programs at once: instances come from a pool, memory is initialised by copy on write,
/// programs can be interrupted.
pub(super) fn build(max_running: u32) -> Result<Engine, Error> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(max_running * CORE_INSTANCES_PER_PROGRAM)
        .total_component_instances(max_running)
        .total_memories(max_running * 2)
        .total_tables(max_running * CORE_INSTANCES_PER_PROGRAM)
        .total_stacks(max_running)
        .table_elements(TABLE_ELEMENTS);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(MAX_WASM_STACK_BYTES)
        .async_stack_size(ASYNC_STACK_BYTES);
    Engine::new(&config).map_err(|error| Error::Engine(format!("{error:#}")))
}

/// Advances the engine's epoch every [`TICK`] while a program runs, and sleeps otherwise.
pub(super) struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Default)]
struct State {
    running: AtomicUsize,
    stopped: AtomicBool,
}

/// Keeps the ticker ticking.
pub(super) struct Ticking<'a>(&'a Ticker);

impl Ticker {
    pub(super) fn start(engine: &Engine) -> Result<Self, Error> {
        let state = Arc::new(State::default());
        let engine = engine.clone();
        let ticking = Arc::clone(&state);
        let handle = thread::Builder::new()
            .name("weft-wasm-tick".to_owned())
            .spawn(move || ticking.tick(&engine))
            .map_err(Error::Thread)?;
        Ok(Self {
            state,
            thread: handle.thread().clone(),
        })
    }

    pub(super) fn tick(&self) -> Ticking<'_> {
        if self.state.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.unpark();
        }
        Ticking(self)
    }
}

impl State {
    fn tick(&self, engine: &Engine) {
        while !self.stopped.load(Ordering::Acquire) {
            if self.running.load(Ordering::Acquire) == 0 {
                thread::park();
            } else {
                thread::sleep(TICK);
                engine.increment_epoch();
            }
        }
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.state.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
