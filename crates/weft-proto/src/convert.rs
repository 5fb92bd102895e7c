//! Conversions between messages and the types of `weft-types`.

use bytes::Bytes as Buffer;
use weft_types::{
    Bytes, Millicores, Money, NodeCapacity, RuntimeKind, SandboxMode, TaskInput, TaskSpec, Workload,
};

use crate::v1;

/// A message that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidMessage {
    /// The field of the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl std::fmt::Display for InvalidMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

impl std::error::Error for InvalidMessage {}

/// Most GPUs, labels, capabilities or runtimes a node may report, each.
const MAX_CAPACITY_ENTRIES: usize = 1_024;

/// A node's capacity from its message.
///
/// # Errors
/// When a list is longer than any real node's.
pub fn capacity_from_proto(message: &v1::Capacity) -> Result<NodeCapacity, InvalidMessage> {
    let lengths = [
        ("gpus", message.gpus.len()),
        ("labels", message.labels.len()),
        ("capabilities", message.capabilities.len()),
        ("runtimes", message.runtimes.len()),
    ];
    for (field, length) in lengths {
        if length > MAX_CAPACITY_ENTRIES {
            return Err(InvalidMessage {
                field,
                detail: format!("{length} entries, more than {MAX_CAPACITY_ENTRIES}"),
            });
        }
    }
    let micros = message.price_per_hour_micros;
    let price = i64::try_from(micros).ok().map(Money);
    let price_per_hour = price
        .filter(|price| *price <= Money::MAX_PRICE_PER_HOUR)
        .ok_or_else(|| InvalidMessage {
            field: "price_per_hour_micros",
            detail: format!("{micros} is more than {}", Money::MAX_PRICE_PER_HOUR.0),
        })?;
    Ok(NodeCapacity {
        cpu: Millicores(message.cpu_millicores),
        memory: Bytes(message.memory_bytes),
        disk: Bytes(message.disk_bytes),
        gpus: message.gpus.clone(),
        arch: message.arch.clone(),
        os: message.os.clone(),
        // A newer agent may know runtimes that this server does not: they are passed over.
        runtimes: message
            .runtimes
            .iter()
            .filter_map(|name| runtime_from_word(name))
            .collect(),
        labels: message.labels.clone(),
        capabilities: message.capabilities.clone(),
        price_per_hour,
    })
}

/// The message of a node's capacity; the caller adds host name and limits.
pub fn capacity_to_proto(capacity: &NodeCapacity) -> v1::Capacity {
    v1::Capacity {
        cpu_millicores: capacity.cpu.0,
        memory_bytes: capacity.memory.0,
        disk_bytes: capacity.disk.0,
        gpus: capacity.gpus.clone(),
        arch: capacity.arch.clone(),
        os: capacity.os.clone(),
        runtimes: capacity
            .runtimes
            .iter()
            .map(|kind| kind.as_str().to_owned())
            .collect(),
        labels: capacity.labels.clone(),
        capabilities: capacity.capabilities.clone(),
        price_per_hour_micros: capacity.price_per_hour.0.try_into().unwrap_or(0),
        ..v1::Capacity::default()
    }
}

fn runtime_from_word(word: &str) -> Option<RuntimeKind> {
    [
        RuntimeKind::Op,
        RuntimeKind::Wasm,
        RuntimeKind::Process,
        RuntimeKind::Container,
        RuntimeKind::Compose,
        RuntimeKind::Vm,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == word)
}

/// The part of a checked workload that agents and the journal need.
pub fn job_spec(workload: &Workload, name: &str, workload_json: Vec<u8>) -> v1::JobSpec {
    let resources = workload.resources();
    let mut spec = v1::JobSpec {
        name: name.to_owned(),
        namespace: workload.namespace.to_string(),
        runtime: workload.runtime.as_str().to_owned(),
        program: workload
            .op
            .as_ref()
            .map(|program| program.encode().into())
            .unwrap_or_default(),
        timeout_ms: workload.timeout.map_or(0, millis),
        cpu_millicores: resources.cpu.0,
        memory_bytes: resources.memory.0,
        disk_bytes: resources.disk.0,
        gpus: resources.gpu.as_ref().map_or(0, |gpu| gpu.count),
        gpu_model: resources.gpu.and_then(|gpu| gpu.model).unwrap_or_default(),
        workload_json: workload_json.into(),
        ..v1::JobSpec::default()
    };
    if let Some(process) = &workload.process {
        spec.args.clone_from(&process.command);
        spec.env.clone_from(&process.env);
        spec.sandbox = match process.sandbox {
            SandboxMode::Full => "full".to_owned(),
            SandboxMode::None => "none".to_owned(),
        };
    }
    if let Some(wasm) = &workload.wasm {
        spec.args.clone_from(&wasm.args);
        spec.env.clone_from(&wasm.env);
        spec.module = wasm
            .blob
            .map(|hash| Buffer::copy_from_slice(hash.as_bytes()))
            .unwrap_or_default();
    }
    spec
}

/// The message of a checked task.
///
/// # Errors
/// When the task's input does not decode; [`TaskSpec::check`] has found that before.
pub fn task_payload(task: &TaskSpec) -> Result<v1::TaskPayload, InvalidMessage> {
    use v1::task_payload::Input;
    let input = match task
        .input()
        .map_err(|(field, detail)| InvalidMessage { field, detail })?
    {
        TaskInput::None => None,
        TaskInput::Inline(data) => Some(Input::Data(data.into())),
        TaskInput::Blob(hash) => Some(Input::Blob(Buffer::copy_from_slice(hash.as_bytes()))),
        TaskInput::Url(url) => Some(Input::Url(url)),
    };
    Ok(v1::TaskPayload {
        input,
        file: task.file.clone().unwrap_or_default(),
        program: task
            .op
            .as_ref()
            .map(|program| program.encode().into())
            .unwrap_or_default(),
        offset: task.offset,
        length: task.length,
        args: task.args.clone().map(|args| v1::TaskArgs { args }),
        env: task.env.clone(),
        timeout_ms: task.timeout.map_or(0, millis),
        after: task.after.clone(),
    })
}

fn millis(span: std::time::Duration) -> u64 {
    span.as_millis().try_into().unwrap_or(u64::MAX)
}
