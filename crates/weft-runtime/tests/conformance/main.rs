//! What every runtime that runs programs must do, tried on each of them: processes without and in the full sandbox,
//! and WebAssembly.
//!
//! This binary is also the spawner (`__spawner`) of the process runtime.

mod behaviour;
mod limits;
mod process;
mod runner;
mod subject;
#[cfg(feature = "wasm")]
mod wasm;
#[cfg(feature = "wasm")]
mod wasm_programs;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next() {
        Some(first) if first == weft_sandbox::spawner::ARGUMENT => {
            let fd = arguments.next().and_then(|fd| fd.parse().ok()).unwrap_or(3);
            weft_sandbox::spawner::main(fd)
        }
        _ => runner::run(),
    }
}
