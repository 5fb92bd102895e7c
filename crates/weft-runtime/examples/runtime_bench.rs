//! How many tasks a second each runtime runs, without queue and network.
//!
//! `cargo run --release -p weft-runtime --example runtime_bench`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use weft_runtime::{
    Control, Input, Module, ModuleSource, OpRuntime, OpTask, ProcessRuntime, Runtime, TaskRun,
    WasmOptions, WasmRuntime, Work, WorkRoot,
};
use weft_sandbox::{Client, Options};
use weft_types::{BlobHash, JobId, Resources, SandboxMode};

/// Tasks under way at once.
const IN_FLIGHT: usize = 8;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(weft_sandbox::spawner::ARGUMENT) {
        let fd = arguments.next().and_then(|fd| fd.parse().ok()).unwrap_or(3);
        weft_sandbox::spawner::main(fd);
    }
    ops();
    let runtime = tokio::runtime::Runtime::new().expect("an executor");
    runtime.block_on(programs());
}

fn ops() {
    const TASKS: usize = 1_000_000;
    let program = serde_json::from_str(r#"{"op":"counteq","imm":42}"#).expect("a program");
    let input = Input::Bytes {
        bytes: Bytes::from_static(b"0123456789ab"),
        name: None,
    };
    let task = OpTask {
        program: &program,
        input: &input,
        timeout: Some(Duration::from_secs(60)),
        control: None,
    };
    let tasks = vec![task; 1_000];
    let start = Instant::now();
    for _ in 0..TASKS / tasks.len() {
        assert_eq!(OpRuntime.run_batch(&tasks).len(), tasks.len());
    }
    report("op, batches of 1000", TASKS, start.elapsed());
}

async fn programs() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let root = WorkRoot::open(dir.path().join("work")).expect("a work root");
    let exe = std::env::current_exe().expect("this program");
    let client = Client::start(exe, Options::new("runtime-bench"))
        .await
        .expect("a spawner");
    let process = Arc::new(ProcessRuntime::new(client.clone(), root.clone()));
    let command = |sandbox| Work::Process {
        command: vec!["true".to_owned()],
        sandbox,
    };
    many(
        "process, no sandbox",
        &process,
        command(SandboxMode::None),
        10_000,
    )
    .await;
    if client.capabilities().full_sandbox() {
        many(
            "process, full sandbox",
            &process,
            command(SandboxMode::Full),
            2_000,
        )
        .await;
    }
    let wasm =
        WasmRuntime::new(root, WasmOptions::new(dir.path().join("code"))).expect("an engine");
    let text = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let module = Module {
        hash: BlobHash([0; 32]),
        source: ModuleSource::Bytes(Bytes::from_static(text.as_bytes())),
    };
    let work = Work::Wasm {
        module,
        args: Vec::new(),
    };
    many("wasm, empty module", &Arc::new(wasm), work, 10_000).await;
}

async fn many<R: Runtime>(what: &str, runtime: &Arc<R>, work: Work, tasks: usize) {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for index in 0..tasks {
        if running.len() >= IN_FLIGHT {
            running.join_next().await;
        }
        let task = TaskRun {
            job: JobId(1),
            index: index as u32,
            attempt: 1,
            work: work.clone(),
            env: BTreeMap::new(),
            input: Input::None,
            timeout: Some(Duration::from_secs(60)),
            resources: Resources::default(),
        };
        let runtime = Arc::clone(runtime);
        running.spawn(async move {
            let outcome = runtime.run(task, Control::new()).await;
            assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no task panics");
    }
    report(what, tasks, start.elapsed());
}

fn report(what: &str, tasks: usize, elapsed: Duration) {
    let each_us = elapsed.as_secs_f64() * 1e6 / tasks as f64;
    println!(
        "{what}: {tasks} tasks, {each_us:.2} µs each, {:.0} tasks/s",
        1e6 / each_us
    );
}
