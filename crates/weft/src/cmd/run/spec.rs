//! From flags to a workload.

use std::collections::BTreeMap;

use weft_types::{
    FieldError, GpuRequest, Inputs, ProcessSpec, Program, Reason, RuntimeKind, SourceFormat,
    WasmSpec, Workload, parse_json, parse_workload,
};

use crate::args::{Global, RunArgs, name_value};
use crate::exit::Failed;

/// The workload that the flags or the file describe, checked.
pub fn workload(args: &RunArgs, global: &Global) -> Result<Workload, Failed> {
    let mut workload = match &args.file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failed::usage(format!("{}: {error}", path.display())))?;
            parse_workload(&text, SourceFormat::of_path(&path.to_string_lossy()))
                .map_err(|error| prefixed(&path.display().to_string(), error))?
        }
        None => from_flags(args)?,
    };
    apply_flags(&mut workload, args)?;
    if let Some(namespace) = &global.namespace {
        workload.namespace = namespace.clone();
    }
    workload.check()?;
    Ok(workload)
}

/// The globs of the flag, or of the workload file.
pub fn globs(args: &RunArgs, workload: &Workload) -> Vec<String> {
    if !args.each.is_empty() {
        return args.each.clone();
    }
    workload
        .inputs
        .as_ref()
        .map(|inputs| inputs.files.clone())
        .unwrap_or_default()
}

/// A key that no other submission has.
pub fn idempotency_key() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness the key is left to the clock: it only has to differ between two runs.
    if getrandom::fill(&mut bytes).is_err() {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        bytes = nanos.to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn prefixed(file: &str, error: FieldError) -> FieldError {
    FieldError::new(error.path, format!("{} (in {file})", error.message))
}

fn from_flags(args: &RunArgs) -> Result<Workload, Failed> {
    let mut workload = Workload::new(match (&args.op, &args.wasm) {
        (Some(_), _) => RuntimeKind::Op,
        (_, Some(_)) => RuntimeKind::Wasm,
        _ => RuntimeKind::Process,
    });
    if let Some(op) = &args.op {
        workload.op = Some(program(op)?);
    } else if let Some(module) = &args.wasm {
        if !module.is_file() {
            return Err(Failed::usage(format!(
                "--wasm: {} is not a file",
                module.display()
            )));
        }
        workload.wasm = Some(WasmSpec {
            module: Some(module.to_string_lossy().into_owned()),
            args: args.command.clone(),
            env: environment(args)?,
            ..WasmSpec::default()
        });
    } else {
        if args.command.is_empty() {
            return Err(Failed::usage("nothing to run")
                .with_next("give a command after --, or --op OP, --wasm FILE or --file FILE"));
        }
        workload.process = Some(ProcessSpec {
            command: args.command.clone(),
            env: environment(args)?,
            ..ProcessSpec::default()
        });
    }
    Ok(workload)
}

/// `crc32c`, `counteq=10` or a program as JSON.
fn program(text: &str) -> Result<Program, Failed> {
    let json = if text.trim_start().starts_with('{') {
        text.to_owned()
    } else {
        match text.split_once('=') {
            Some((op, imm)) => {
                let imm: u8 = imm
                    .parse()
                    .map_err(|_| Failed::usage(format!("--op {text}: {imm:?} is not 0 to 255")))?;
                serde_json::json!({"op": op, "imm": imm}).to_string()
            }
            None => serde_json::json!({"op": text}).to_string(),
        }
    };
    parse_json(json.as_bytes()).map_err(|error| Failed::usage(format!("--op {text}: {error}")))
}

fn environment(args: &RunArgs) -> Result<BTreeMap<String, String>, Failed> {
    args.env
        .iter()
        .map(|text| match name_value(text) {
            Some(pair) => Ok(pair),
            None => match std::env::var(text) {
                Ok(value) => Ok((text.clone(), value)),
                Err(_) => Err(Failed::usage(format!(
                    "--env {text}: not set here; write NAME=VALUE"
                ))),
            },
        })
        .collect()
}

fn apply_flags(workload: &mut Workload, args: &RunArgs) -> Result<(), Failed> {
    if let Some(count) = args.array {
        workload.inputs = Some(Inputs {
            array: Some(count),
            ..Inputs::default()
        });
    }
    if !args.each.is_empty() {
        workload.inputs = Some(Inputs {
            files: args.each.clone(),
            ..Inputs::default()
        });
    }
    if args.cpu.is_some() || args.memory.is_some() || args.disk.is_some() || args.gpu.is_some() {
        let mut resources = workload.resources();
        resources.cpu = args.cpu.unwrap_or(resources.cpu);
        resources.memory = args.memory.unwrap_or(resources.memory);
        resources.disk = args.disk.unwrap_or(resources.disk);
        if let Some(gpu) = &args.gpu {
            resources.gpu = Some(gpu_request(gpu)?);
        }
        workload.resources = Some(resources);
    }
    if let Some(strategy) = &args.strategy {
        workload.placement.strategy = word("--strategy", strategy)?;
    }
    if let Some(mode) = &args.sandbox {
        let Some(process) = &mut workload.process else {
            return Err(Failed::usage(
                "--sandbox is for commands; ops and WebAssembly are contained anyway",
            ));
        };
        process.sandbox = word("--sandbox", mode)?;
    }
    for label in &args.label {
        let pair = name_value(label)
            .ok_or_else(|| Failed::usage(format!("--label {label}: write NAME=VALUE")))?;
        workload.placement.labels.insert(pair.0, pair.1);
    }
    if let Some(retries) = args.retries {
        workload.retry.attempts = retries.saturating_add(1);
        if workload.retry.on.is_empty() {
            workload.retry.on = retried_on_request();
        }
    }
    if args.name.is_some() {
        workload.name.clone_from(&args.name);
    }
    workload.timeout = args.timeout.or(workload.timeout);
    workload.after.extend(args.after.iter().cloned());
    workload.deadline = args.deadline.or(workload.deadline);
    workload.speculate |= args.speculate;
    workload.priority = args.priority.unwrap_or(workload.priority);
    Ok(())
}

/// What `--retries` tries again: whatever may go better the next time, a program that ended badly
/// included. A lost node is left out, since it would then use up an attempt.
fn retried_on_request() -> Vec<Reason> {
    let may_help = |reason: &Reason| {
        reason.is_retryable() || matches!(reason, Reason::NonzeroExit | Reason::Timeout)
    };
    let reasons = Reason::ALL.iter().copied().filter(may_help);
    reasons
        .filter(|reason| *reason != Reason::NodeLost)
        .collect()
}

/// A word of one of the contract's lists.
fn word<T: serde::de::DeserializeOwned>(flag: &str, text: &str) -> Result<T, Failed> {
    let json = serde_json::Value::from(text).to_string();
    parse_json(json.as_bytes()).map_err(|error| Failed::usage(format!("{flag} {text}: {error}")))
}

fn gpu_request(text: &str) -> Result<GpuRequest, Failed> {
    let (count, model) = match text.split_once(':') {
        Some((count, model)) => (count, Some(model.to_owned())),
        None => (text, None),
    };
    let count = count
        .parse()
        .map_err(|_| Failed::usage(format!("--gpu {text}: write N or N:MODEL")))?;
    Ok(GpuRequest { count, model })
}
