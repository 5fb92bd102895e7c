//! Between messages and the shapes that all doors share.

use std::time::Duration;

use weft_api::{EventView, JobView, NodeView, OutputFileView, ResultView, Text, WhyView};
use weft_proto::api;
use weft_types::{FieldError, Money, TaskCounts, TaskSpec, parse_json};

use crate::rest::submit::at_task;

/// A task as REST has it.
///
/// # Errors
/// The field that is refused; `index` is the task's number.
pub fn task_spec(index: usize, task: api::Task) -> Result<TaskSpec, FieldError> {
    read_task(task).map_err(|error| at_task(index, error))
}

fn read_task(task: api::Task) -> Result<TaskSpec, FieldError> {
    use api::task::Input;
    use base64::Engine;
    let op = task.op.map(|json| parse_json(json.as_bytes())).transpose();
    let mut spec = TaskSpec {
        offset: task.offset,
        length: task.length,
        file: task.file,
        op: op.map_err(|error: FieldError| error.within("op"))?,
        args: task.args.map(|args| args.args),
        env: task.env,
        timeout: task.timeout_ms.map(Duration::from_millis),
        after: task.after,
        ..TaskSpec::default()
    };
    match task.input {
        None => {}
        Some(Input::Data(bytes)) => {
            spec.data = Some(base64::engine::general_purpose::STANDARD.encode(bytes));
        }
        Some(Input::Blob(hash)) => {
            let hash = hash.parse();
            spec.blob = Some(hash.map_err(|error| FieldError::new("blob", error))?);
        }
        Some(Input::DataUrl(url)) => spec.data_url = Some(url),
    }
    Ok(spec)
}

/// A job.
pub fn job(view: JobView) -> api::Job {
    api::Job {
        id: view.id.to_string(),
        name: view.name,
        namespace: view.namespace,
        runtime: view.runtime,
        state: view.state.to_string(),
        tasks: Some(counts(&view.tasks)),
        priority: view.priority,
        created_at: view.created_at,
        started_at: view.started_at,
        finished_at: view.finished_at,
        why: view.why.map(why),
    }
}

fn counts(counts: &TaskCounts) -> api::TaskCounts {
    api::TaskCounts {
        total: counts.total,
        queued: counts.queued,
        assigned: counts.assigned,
        running: counts.running,
        completed: counts.completed,
        failed: counts.failed,
        cancelled: counts.cancelled,
        dead: counts.dead,
    }
}

pub(super) fn why(view: WhyView) -> api::Why {
    api::Why {
        reason: view.reason.to_string(),
        class: word(&view.class),
        detail: view.detail,
        next: view.next,
    }
}

/// A word of the contract as it is in JSON.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A result.
pub fn result(view: ResultView) -> api::TaskResult {
    api::TaskResult {
        task: view.task,
        state: view.state.to_string(),
        file: view.file,
        result: view.result.map(|json| json.get().to_owned()),
        exit_code: view.exit_code,
        signal: view.signal,
        stdout: view.stdout.map(output),
        stderr: view.stderr.map(output),
        files: view.files.into_iter().map(file).collect(),
        why: view.why.map(why),
        node: view.node,
        attempts: view.attempts,
        run_us: view.run_us,
        peak_memory_bytes: view.peak_memory_bytes,
    }
}

fn output(text: Text) -> api::Output {
    use api::output::Content;
    let (content, truncated) = match text {
        Text::Inline { bytes, truncated } => (Content::Data(bytes.into()), truncated),
        Text::Blob { hash, truncated } => (Content::Blob(hash), truncated),
    };
    api::Output {
        content: Some(content),
        truncated,
    }
}

fn file(view: OutputFileView) -> api::ResultFile {
    api::ResultFile {
        path: view.path,
        blob: view.blob,
        size: view.size,
    }
}

/// A node.
pub fn node(view: NodeView) -> api::Node {
    let capacity = view.capacity;
    let usage = view.usage;
    api::Node {
        id: view.id,
        state: view.state.to_string(),
        detail: view.detail,
        hostname: view.hostname,
        version: view.version,
        capacity: Some(api::NodeCapacity {
            cpu_millicores: capacity.cpu.0,
            memory_bytes: capacity.memory.0,
            disk_bytes: capacity.disk.0,
            gpus: capacity.gpus,
            arch: capacity.arch,
            os: capacity.os,
            runtimes: capacity.runtimes.iter().map(ToString::to_string).collect(),
            labels: capacity.labels,
            capabilities: capacity.capabilities,
            price_per_hour: match capacity.price_per_hour {
                Money(0) => String::new(),
                price => price.to_string(),
            },
        }),
        usage: Some(api::NodeUsage {
            running: usage.running,
            held: usage.held,
            cpu_millicores: usage.cpu_millicores,
            memory_bytes: usage.memory_bytes,
            free_disk_bytes: usage.free_disk_bytes,
        }),
        certificate: view.certificate.map(|certificate| api::NodeCertificate {
            validity: certificate.validity.to_string(),
            expires_at: certificate.expires_at,
        }),
        epoch: view.epoch,
        joined_at: view.joined_at,
        last_seen_at: view.last_seen_at,
        missing: view.missing,
        approval_code: view.approval_code,
    }
}

/// An event.
pub fn event(view: EventView) -> api::Event {
    api::Event {
        seq: view.seq,
        source: view.source,
        r#type: view.kind,
        subject: view.subject,
        time: view.time,
        data: view.data.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_task_names_its_place() {
        let broken = [
            (
                api::Task {
                    op: Some(r#"{"op":"sum"}"#.to_owned()),
                    ..Default::default()
                },
                "tasks[7].op",
            ),
            (
                api::Task {
                    input: Some(api::task::Input::Blob("xyz".to_owned())),
                    ..Default::default()
                },
                "tasks[7].blob",
            ),
        ];
        for (task, path) in broken {
            let error = task_spec(7, task).expect_err("it is refused");
            assert!(error.path.starts_with(path), "{error}");
        }
    }

    #[test]
    fn bytes_arrive_as_they_were_sent() {
        let bytes: Vec<u8> = (0..=255).collect();
        let task = api::Task {
            input: Some(api::task::Input::Data(bytes.clone().into())),
            ..Default::default()
        };
        let spec = task_spec(0, task).expect("a good task");
        assert_eq!(spec.input(), Ok(weft_types::TaskInput::Inline(bytes)));
        assert_eq!(task_spec(0, api::Task::default()), Ok(TaskSpec::default()));
    }
}
