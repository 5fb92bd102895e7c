//! The `weft` binary: turns a person's wish into calls of the API, or runs a server or an agent.
//!
//! Architecture invariant: a command reads and changes a cluster through the REST API only.

mod args;
mod cluster;
mod cmd;
mod config;
mod context;
mod exit;
mod files;
mod output;
mod progress;
mod service;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use exit::Failed;

/// The allocator matters on the dispatch path: many small, short-lived buffers on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: these must stay small and single-threaded.
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|argument| argument.to_str()) {
        Some(weft_sandbox::spawner::ARGUMENT) => {
            let socket = args.next().and_then(|fd| fd.to_str()?.parse().ok());
            weft_sandbox::spawner::main(socket.unwrap_or(-1));
        }
        Some(weft_agent::MONITOR_ARGUMENT) => return weft_agent::watch_container(),
        Some(weft_agent::GUARD_ARGUMENT) => {
            return weft_agent::guard_exclusive_units(args.next().map(Into::into));
        }
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    init_logging(cli.global.quiet);
    let output = output::Output::new(&cli.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return exit::report(&Failed::internal(format!("no threads: {error}")), &output);
        }
    };
    let result = runtime.block_on(cmd::dispatch(cli, &output));
    // A blocking read of standard input must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failed) => exit::report(&failed, &output),
    }
}

/// Logs go to standard error; `WEFT_LOG` chooses how much, as in `WEFT_LOG=weft_server=debug`.
fn init_logging(quiet: bool) {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let default = if quiet { "error" } else { "warn" };
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}
