//! From the messages of the server to what a runtime takes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes as Buffer;
use prost::Message;
use weft_fetch::Part;
use weft_proto::v1;
use weft_proto::v1::task_payload::Input as WireInput;
use weft_runtime::{Input, Module, ModuleSource, TaskRun, Work};
use weft_types::{
    BlobHash, Bytes, Failure, GpuRequest, JobId, Millicores, Program, Reason, Resources,
    RuntimeKind, SandboxMode,
};

use crate::artifacts::{Artifacts, Fetched};

/// What the tasks of a job have in common.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) runtime: Option<RuntimeKind>,
    pub(crate) program: Option<Program>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    module: Option<BlobHash>,
    sandbox: SandboxMode,
    timeout: Option<Duration>,
    pub(crate) resources: Resources,
}

impl Job {
    /// Reads a header; what it cannot mean fails with its tasks.
    pub(crate) fn parse(id: JobId, spec: &[u8]) -> Self {
        let spec = v1::JobSpec::decode(spec).unwrap_or_default();
        let kinds = [RuntimeKind::Op, RuntimeKind::Wasm, RuntimeKind::Process];
        Self {
            id,
            runtime: kinds.into_iter().find(|kind| kind.as_str() == spec.runtime),
            program: Program::decode(&spec.program).ok(),
            module: BlobHash::from_slice(&spec.module).ok(),
            sandbox: if spec.sandbox == "none" {
                SandboxMode::None
            } else {
                SandboxMode::Full
            },
            timeout: millis(spec.timeout_ms),
            resources: Resources {
                cpu: Millicores(spec.cpu_millicores),
                memory: Bytes(spec.memory_bytes),
                disk: Bytes(spec.disk_bytes),
                gpu: (spec.gpus > 0).then(|| GpuRequest {
                    count: spec.gpus,
                    model: Some(spec.gpu_model).filter(|model| !model.is_empty()),
                }),
            },
            args: spec.args,
            env: spec.env,
        }
    }
}

fn millis(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// A byte program over bytes that are at hand: what the op threads take.
pub(crate) struct InlineOp {
    pub(crate) program: Option<Program>,
    pub(crate) input: Input,
    pub(crate) timeout: Option<Duration>,
}

/// The inline form of a task, if it has one; a malformed one fails on the other way.
pub(crate) fn inline_op(job: &Job, payload: &Buffer) -> Option<InlineOp> {
    if job.runtime != Some(RuntimeKind::Op) {
        return None;
    }
    if payload.is_empty() {
        return job.program.is_some().then_some(InlineOp {
            program: None,
            input: Input::None,
            timeout: job.timeout,
        });
    }
    let payload = v1::TaskPayload::decode(payload.clone()).ok()?;
    let input = match payload.input {
        None => Input::None,
        Some(WireInput::Data(bytes)) => Input::Bytes { bytes, name: None },
        Some(WireInput::Blob(_) | WireInput::Url(_)) => return None,
    };
    let input = input
        .slice(payload.offset.unwrap_or(0), payload.length)
        .ok()?;
    let program = if payload.program.is_empty() {
        None
    } else {
        Some(Program::decode(&payload.program).ok()?)
    };
    (program.is_some() || job.program.is_some()).then_some(InlineOp {
        program,
        input,
        timeout: millis(payload.timeout_ms).or(job.timeout),
    })
}

/// An attempt that can be run.
pub(crate) struct Prepared {
    pub(crate) run: TaskRun,
    /// What it reads; kept on the node until this is dropped.
    pub(crate) inputs: Vec<Fetched>,
}

/// Puts an attempt together, with its input fetched.
pub(crate) async fn prepare(
    job: &Job,
    index: u32,
    attempt: u32,
    payload: &Buffer,
    artifacts: &Artifacts,
) -> Result<Prepared, Failure> {
    let mut inputs = Vec::new();
    let malformed =
        |what: &str| Failure::new(Reason::InvalidSpec, format!("{what} cannot be understood"));
    let payload = v1::TaskPayload::decode(payload.clone()).map_err(|_| malformed("the task"))?;
    let name = Some(payload.file.clone()).filter(|file| !file.is_empty());
    let timeout = millis(payload.timeout_ms).or(job.timeout);
    let mut part = Part {
        offset: payload.offset.unwrap_or(0),
        length: payload.length,
    };
    let input = match payload.input.clone() {
        None => Input::None,
        Some(WireInput::Data(bytes)) => Input::Bytes { bytes, name },
        Some(WireInput::Blob(hash)) => {
            let hash = BlobHash::from_slice(&hash).map_err(|_| malformed("the input's hash"))?;
            let fetched = artifacts.fetch(&hash).await?;
            let path = fetched.path.clone();
            inputs.push(fetched);
            Input::File {
                path,
                name,
                offset: 0,
                length: None,
            }
        }
        Some(WireInput::Url(url)) => {
            let fetched = artifacts.fetch_url(&url, part, timeout).await?;
            let path = fetched.path.clone();
            inputs.push(fetched);
            // What was fetched is the part already.
            part = Part::default();
            Input::File {
                path,
                name,
                offset: 0,
                length: None,
            }
        }
    };
    let input = input.slice(part.offset, part.length)?;
    let mut env = job.env.clone();
    env.extend(payload.env.clone());
    let run = TaskRun {
        job: job.id,
        index,
        attempt,
        work: work(job, &payload, artifacts, &mut inputs).await?,
        env,
        input,
        timeout,
        resources: job.resources.clone(),
    };
    Ok(Prepared { run, inputs })
}

async fn work(
    job: &Job,
    payload: &v1::TaskPayload,
    artifacts: &Artifacts,
    inputs: &mut Vec<Fetched>,
) -> Result<Work, Failure> {
    let args = payload
        .args
        .as_ref()
        .map_or(&job.args, |args| &args.args)
        .clone();
    match job.runtime {
        Some(RuntimeKind::Op) => {
            let own = if payload.program.is_empty() {
                None
            } else {
                Program::decode(&payload.program).ok()
            };
            let program = own.or_else(|| job.program.clone());
            program
                .map(Work::Op)
                .ok_or_else(|| Failure::new(Reason::InvalidSpec, "the task has no byte program"))
        }
        Some(RuntimeKind::Process) => Ok(Work::Process {
            command: args,
            sandbox: job.sandbox,
        }),
        Some(RuntimeKind::Wasm) => {
            let hash = job
                .module
                .ok_or_else(|| Failure::new(Reason::InvalidSpec, "the job has no module"))?;
            let fetched = artifacts.fetch(&hash).await?;
            let source = ModuleSource::File(fetched.path.clone());
            inputs.push(fetched);
            Ok(Work::Wasm {
                module: Module { hash, source },
                args,
            })
        }
        _ => Err(Failure::new(
            Reason::RuntimeUnavailable,
            "this agent does not know the runtime of the job",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_payload_runs_the_jobs_program_inline_and_garbage_does_not() {
        let program: Program = Program::single(weft_ops::Step {
            op: weft_ops::Op::Xor,
            imm: 1,
            offset: None,
            length: None,
        });
        let spec = v1::JobSpec {
            runtime: "op".into(),
            program: program.encode().into(),
            ..Default::default()
        };
        let job = Job::parse(JobId(1), &spec.encode_to_vec());
        assert!(inline_op(&job, &Buffer::new()).is_some());
        assert!(inline_op(&job, &Buffer::from_static(&[0xff; 5])).is_none());
        let nothing = Job::parse(JobId(1), b"\xff\xff");
        assert!(nothing.runtime.is_none() && inline_op(&nothing, &Buffer::new()).is_none());
    }
}
