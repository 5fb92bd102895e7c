//! The runtime port and its backends: `op`, `wasm`, `process`.
//!
//! A [`Runtime`] takes one [`TaskRun`], runs it to its end and tells the [`Outcome`]: the result or the reason
//! it failed, what it wrote and what it used. While it runs, its [`Control`] cancels it and lets others follow
//! its output. Byte operations have a second way in, [`OpRuntime::run_batch`], without any per-task machinery.
//!
//! ```text
//! TaskRun ──► Runtime::run ──► Outcome { failure, exit_code, stdout, stderr, files, usage }
//!                │  ▲
//!     OutputLog ◄┘  └─ Control::cancel
//! ```
//!
//! Architecture invariant: this crate runs what it is given on this machine. It knows no queues, attempts to
//! come, leases or servers, fetches nothing, and uploads nothing: inputs are here already, and files of the
//! outcome are left for the agent until the [`Outcome`] is dropped.

mod control;
mod error;
mod op;
mod out_files;
mod outcome;
mod output;
mod process;
mod registry;
mod remove;
mod runtime;
mod stdin;
mod task;
mod template;
#[cfg(test)]
mod testing;
#[cfg(feature = "wasm")]
mod wasm;
mod workdir;

pub use control::Control;
pub use error::Error;
pub use op::{OpOutcome, OpRuntime, OpTask};
pub use out_files::{MAX_OUT_DEPTH, MAX_OUT_FILES, MAX_OUT_FILES_BYTES, OutFile};
pub use outcome::{Outcome, Used};
pub use output::{Captured, MAX_INLINE_OUTPUT_BYTES, MAX_OUTPUT_BYTES, OutputLog, Piece, Stream};
pub use process::ProcessRuntime;
pub use registry::Runtimes;
pub use runtime::{Missing, Probe, Runtime};
pub use task::{Input, Module, ModuleSource, TaskRun, Work};
#[cfg(feature = "wasm")]
pub use wasm::{WasmOptions, WasmRuntime};
pub use workdir::{WorkDir, WorkRoot};
