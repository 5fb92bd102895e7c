//! What `weft run` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use weft_types::{Bytes, Deadline, Millicores, WorkloadName, parse_duration};

#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// A byte operation: counteq, crc32c, fnv64, xor, add; with =N for its immediate, as in counteq=10
    #[arg(long, value_name = "OP", conflicts_with_all = ["wasm", "command"])]
    pub op: Option<String>,
    /// A WebAssembly program (.wasm, or .wat text)
    #[arg(long, value_name = "FILE")]
    pub wasm: Option<PathBuf>,
    /// One task a file; globs; {} in the command stands for it
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = None)]
    pub each: Vec<String>,
    /// This many tasks; {index} in the command stands for the number
    #[arg(long, value_name = "N", conflicts_with = "each")]
    pub array: Option<u64>,
    /// A workload file instead of a command
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["op", "wasm", "each", "array"])]
    pub file: Option<PathBuf>,
    /// CPU for each task, as in 500m or 2
    #[arg(long)]
    pub cpu: Option<Millicores>,
    /// Memory for each task, as in 256Mi
    #[arg(long)]
    pub memory: Option<Bytes>,
    /// Disk for each task, as in 1Gi
    #[arg(long)]
    pub disk: Option<Bytes>,
    /// GPUs for each task, as in 1 or 2:H100
    #[arg(long, value_name = "N[:MODEL]")]
    pub gpu: Option<String>,
    /// Time limit of each attempt, as in 30s or 5m
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How many more times a failed task is tried
    #[arg(long)]
    pub retries: Option<u32>,
    /// What to optimise for: cheapest, balanced, fastest, binpack, spread
    #[arg(long)]
    pub strategy: Option<String>,
    /// Name of the job
    #[arg(long)]
    pub name: Option<WorkloadName>,
    /// Environment variable, NAME=VALUE; NAME alone passes this shell's
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// A label the node must have
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// How a process is contained: full or none
    #[arg(long, value_name = "MODE")]
    pub sandbox: Option<String>,
    /// Begin once this job has succeeded: its id, a unique prefix, or its name; may be repeated
    #[arg(long, value_name = "JOB")]
    pub after: Vec<String>,
    /// When the whole job must have ended, as in 30m or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub deadline: Option<Deadline>,
    /// Start a task that runs far longer than the others a second time on another node
    #[arg(long)]
    pub speculate: bool,
    /// Larger runs first, -100 to 100
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Print the id and return; the work goes on
    #[arg(short, long)]
    pub detach: bool,
    /// Where to put files that tasks write to $WEFT_OUT
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The command, or the arguments of the WebAssembly program
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}
