//! From text to a [`Workload`]: every refusal names the field and, for an unknown one, the nearest
//! known name.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::workload::{
    MAX_AFTER_JOBS, MAX_ATTEMPTS, MAX_INLINE_TASKS, MAX_TASKS_PER_JOB, Run, RuntimeKind, Workload,
};
use crate::{Deadline, TaskGraph, TaskGraphBuilder};

/// The largest workload file that is read, in bytes.
pub const MAX_WORKLOAD_FILE_BYTES: usize = 4 << 20;
/// The priority of a workload lies between minus and plus this.
const MAX_PRIORITY: i32 = 100;
const MAX_ARGS: usize = 4_096;

/// The notations of the workload file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceFormat {
    /// YAML 1.2 (which includes JSON).
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl SourceFormat {
    /// The notation of a file by its name; YAML when the extension says nothing.
    pub fn of_path(path: &str) -> Self {
        match path.rsplit('.').next() {
            Some("toml") => Self::Toml,
            Some("json") => Self::Json,
            _ => Self::Yaml,
        }
    }
}

/// A refused field.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct FieldError {
    /// Where, as in `resources.cpu` or `tasks[3].data`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl FieldError {
    /// A refusal of a field.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same refusal of a document that stands in a field of another.
    #[must_use]
    pub fn within(self, field: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self::new(format!("{field}{dot}{}", self.path), self.message)
    }
}

/// Reads a workload in one of the notations and checks it.
///
/// # Errors
/// The first field that is refused.
pub fn parse_workload(text: &str, format: SourceFormat) -> Result<Workload, FieldError> {
    if text.len() > MAX_WORKLOAD_FILE_BYTES {
        return Err(FieldError::new(
            "",
            format!("larger than {MAX_WORKLOAD_FILE_BYTES} bytes"),
        ));
    }
    let workload: Workload = match format {
        SourceFormat::Json => parse_json(text.as_bytes())?,
        SourceFormat::Yaml => described(serde_path_to_error::deserialize(
            serde_yaml_ng::Deserializer::from_str(text),
        ))?,
        SourceFormat::Toml => parse_toml(text)?,
    };
    if format != SourceFormat::Json && workload.api_version.is_none() {
        return Err(FieldError::new(
            "apiVersion",
            "missing; write `apiVersion: weft/v1`",
        ));
    }
    workload.check()?;
    Ok(workload)
}

/// Reads any JSON value with the same quality of error: the path and the nearest known name.
///
/// # Errors
/// The first field that is refused.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FieldError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = described(serde_path_to_error::deserialize(&mut deserializer))?;
    deserializer
        .end()
        .map_err(|error| FieldError::new("", error.to_string()))?;
    Ok(value)
}

/// Reads any TOML document with the same quality of error.
///
/// # Errors
/// The first field that is refused.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, FieldError> {
    let document =
        toml::Deserializer::parse(text).map_err(|error| FieldError::new("", error.to_string()))?;
    // The parser's own text quotes the line; path and name say the same in one.
    serde_path_to_error::deserialize(document).map_err(
        |error: serde_path_to_error::Error<toml::de::Error>| {
            refused(&error.path().to_string(), error.inner().message())
        },
    )
}

fn described<T, E: std::fmt::Display>(
    result: Result<T, serde_path_to_error::Error<E>>,
) -> Result<T, FieldError> {
    result.map_err(|error| refused(&error.path().to_string(), &error.inner().to_string()))
}

fn refused(path: &str, message: &str) -> FieldError {
    // `.` is the document, `?` a place that has no name yet, as at a broken-off end.
    let path = path.trim_end_matches(['?', '.']);
    // The YAML parser writes the path before its message as well.
    let message = match message.split_once(": ") {
        Some((prefix, rest)) if path.starts_with(prefix) => rest,
        _ => message,
    };
    FieldError::new(path, with_nearest_name(message))
}

/// Adds `did you mean` to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_nearest_name(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (true, Some(given)) = (unknown, quoted.next()) else {
        return message.to_owned();
    };
    let nearest = quoted
        .map(|known| (strsim::osa_distance(given, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len().max(given.len()) / 3);
    match nearest {
        Some((_, known)) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

impl Workload {
    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self) -> Result<(), FieldError> {
        if let Some(version) = &self.api_version
            && version != "weft/v1"
        {
            return Err(FieldError::new(
                "apiVersion",
                format!("{version:?} is not known; write weft/v1"),
            ));
        }
        self.check_runtime()?;
        self.check_kept_running()?;
        self.check_tasks()?;
        self.check_limits()
    }

    fn check_runtime(&self) -> Result<(), FieldError> {
        let parts = [
            (RuntimeKind::Op, self.op.is_some()),
            (RuntimeKind::Wasm, self.wasm.is_some()),
            (RuntimeKind::Process, self.process.is_some()),
            (RuntimeKind::Container, self.container.is_some()),
            (RuntimeKind::Compose, self.compose.is_some()),
            (RuntimeKind::Vm, self.vm.is_some()),
        ];
        for (kind, given) in parts {
            if given && kind != self.runtime {
                return Err(FieldError::new(
                    kind.as_str(),
                    format!("given, but `runtime` is {}", self.runtime),
                ));
            }
        }
        if self.run == Run::Service {
            return Ok(());
        }
        match self.runtime {
            RuntimeKind::Op if self.op.is_none() && !self.every_task_has_an_op() => Err(
                FieldError::new("op", "missing; write for example `op: {op: crc32c}`"),
            ),
            RuntimeKind::Op => Ok(()),
            RuntimeKind::Wasm => self.check_wasm(),
            RuntimeKind::Process => self.check_process(),
            other => Err(FieldError::new(
                "runtime",
                format!(
                    "{other} is not supported for jobs yet; use op, wasm or process, or write `run: service`"
                ),
            )),
        }
    }

    fn every_task_has_an_op(&self) -> bool {
        self.listed_tasks().next().is_some() && self.listed_tasks().all(|task| task.op.is_some())
    }

    fn check_wasm(&self) -> Result<(), FieldError> {
        let Some(wasm) = &self.wasm else {
            return Err(FieldError::new(
                "wasm",
                "missing; write `wasm: {module: PATH}`",
            ));
        };
        if wasm.module.is_none() && wasm.blob.is_none() {
            return Err(FieldError::new(
                "wasm.module",
                "missing; give the path of a module",
            ));
        }
        check_args("wasm.args", &wasm.args)?;
        check_env("wasm.env", &wasm.env)
    }

    fn check_process(&self) -> Result<(), FieldError> {
        let Some(process) = &self.process else {
            return Err(FieldError::new(
                "process",
                "missing; write `process: {command: [PROGRAM, ARG]}`",
            ));
        };
        if process.command.first().is_none_or(String::is_empty) {
            return Err(FieldError::new(
                "process.command",
                "empty; give a program to run",
            ));
        }
        check_args("process.command", &process.command)?;
        check_env("process.env", &process.env)
    }

    /// The tasks that are written out, under either name.
    pub fn listed_tasks(&self) -> impl Iterator<Item = &crate::TaskSpec> {
        self.tasks
            .iter()
            .chain(self.inputs.iter().flat_map(|inputs| &inputs.tasks))
    }

    fn check_tasks(&self) -> Result<(), FieldError> {
        let listed = self.listed_tasks().count();
        let inputs = self.inputs.as_ref();
        let array = inputs.and_then(|inputs| inputs.array);
        let files = inputs.is_some_and(|inputs| !inputs.files.is_empty());
        if usize::from(listed > 0) + usize::from(array.is_some()) + usize::from(files) > 1 {
            return Err(FieldError::new(
                "inputs",
                "give only one of `files`, `array` and `tasks`",
            ));
        }
        if listed > MAX_INLINE_TASKS {
            return Err(FieldError::new(
                "tasks",
                format!("more than {MAX_INLINE_TASKS}; stream them as NDJSON"),
            ));
        }
        if let Some(count) = array
            && !(1..=MAX_TASKS_PER_JOB).contains(&count)
        {
            return Err(FieldError::new(
                "inputs.array",
                format!("{count} is not between 1 and {MAX_TASKS_PER_JOB}"),
            ));
        }
        for (index, task) in self.listed_tasks().enumerate() {
            task.check(self.runtime).map_err(|error| {
                FieldError::new(format!("tasks[{index}].{}", error.path), error.message)
            })?;
        }
        self.task_graph().map(drop)
    }

    /// What the listed tasks wait for; `None` when none waits for another.
    ///
    /// # Errors
    /// A task that is not there, or a cycle, with the path of the field.
    pub fn task_graph(&self) -> Result<Option<TaskGraph>, FieldError> {
        let mut builder = TaskGraphBuilder::default();
        for task in self.listed_tasks() {
            builder.push(&task.after)?;
        }
        builder.finish()
    }

    fn check_limits(&self) -> Result<(), FieldError> {
        if !(1..=MAX_ATTEMPTS).contains(&self.retry.attempts) {
            return Err(FieldError::new(
                "retry.attempts",
                format!(
                    "{} is not between 1 and {MAX_ATTEMPTS}",
                    self.retry.attempts
                ),
            ));
        }
        if self.priority.abs() > MAX_PRIORITY {
            return Err(FieldError::new(
                "priority",
                format!(
                    "{} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}",
                    self.priority
                ),
            ));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(FieldError::new(
                "timeout",
                "zero; leave it out for no limit",
            ));
        }
        if self.after.len() > MAX_AFTER_JOBS {
            return Err(FieldError::new(
                "after",
                format!("more than {MAX_AFTER_JOBS} jobs"),
            ));
        }
        if self.deadline == Some(Deadline::In(Duration::ZERO)) {
            return Err(FieldError::new(
                "deadline",
                "zero; leave it out for no limit",
            ));
        }
        if self.budget.is_some() && self.run == Run::Job {
            return Err(FieldError::new(
                "budget",
                "only services can have one yet; leave it out",
            ));
        }
        if self.exclusive && self.run == Run::Job {
            return Err(FieldError::new(
                "exclusive",
                "only services can be exclusive yet; leave it out",
            ));
        }
        Ok(())
    }
}

impl crate::TaskSpec {
    /// Checks what types alone do not say; the path is relative to the task.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self, runtime: RuntimeKind) -> Result<(), FieldError> {
        self.input()
            .map_err(|(field, message)| FieldError::new(field, message))?;
        if self.op.is_some() && runtime != RuntimeKind::Op {
            return Err(FieldError::new(
                "op",
                format!("given, but `runtime` is {runtime}"),
            ));
        }
        if self.args.is_some() && runtime == RuntimeKind::Op {
            return Err(FieldError::new("args", "an op has no arguments"));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(FieldError::new(
                "timeout",
                "zero; leave it out for no limit",
            ));
        }
        if let Some(file) = &self.file {
            check_file_name(file)?;
        }
        check_args("args", self.args.as_deref().unwrap_or_default())?;
        check_env("env", &self.env)
    }
}

/// A file name becomes a path beneath the working directory: it must not leave it.
fn check_file_name(file: &str) -> Result<(), FieldError> {
    let plain = !file.is_empty()
        && file.len() <= 255
        && !file.contains(['/', '\0'])
        && file != "."
        && file != "..";
    if plain {
        Ok(())
    } else {
        Err(FieldError::new(
            "file",
            format!("{file:?} is not a plain file name"),
        ))
    }
}

pub(crate) fn check_args(path: &str, args: &[String]) -> Result<(), FieldError> {
    if args.len() > MAX_ARGS {
        return Err(FieldError::new(
            path,
            format!("more than {MAX_ARGS} arguments"),
        ));
    }
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(index) => Err(FieldError::new(
            format!("{path}[{index}]"),
            "contains a NUL character",
        )),
        None => Ok(()),
    }
}

pub(crate) fn check_env(
    path: &str,
    env: &std::collections::BTreeMap<String, String>,
) -> Result<(), FieldError> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(FieldError::new(
                format!("{path}.{name}"),
                "not a valid environment variable",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn yaml(text: &str) -> Result<Workload, FieldError> {
        parse_workload(text, SourceFormat::Yaml)
    }

    #[test]
    fn the_example_of_the_contract_is_understood() {
        let workload = yaml(
            "apiVersion: weft/v1\nname: wordcount\nrun: job\nruntime: wasm\n\
             wasm: { module: ./wc.wasm, args: ['-w'] }\ninputs: { files: ['books/*.txt'] }\n\
             resources: { cpu: 500m, memory: 256Mi, disk: 1Gi, gpu: { count: 1, model: 'H100|A100' } }\n\
             placement: { strategy: balanced, labels: { zone: a }, interruptible: allow, spread: node }\n\
             retry: { attempts: 3, backoff: 1s, max_backoff: 1m, on: [node-lost, runtime-error] }\n\
             timeout: 5m\nexclusive: false\n",
        );
        assert_eq!(workload.map(|w| w.resources().cpu.0), Ok(500));
    }

    #[test]
    fn toml_and_json_read_the_same() {
        let toml =
            "apiVersion = 'weft/v1'\nruntime = 'op'\nop = { op = 'crc32c' }\n[inputs]\narray = 3\n";
        let json =
            r#"{"apiVersion":"weft/v1","runtime":"op","op":{"op":"crc32c"},"inputs":{"array":3}}"#;
        let from_toml = parse_workload(toml, SourceFormat::Toml);
        assert!(from_toml.is_ok(), "{from_toml:?}");
        assert_eq!(from_toml, parse_workload(json, SourceFormat::Json));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path_and_the_nearest_name() {
        let error =
            yaml("apiVersion: weft/v1\nruntime: op\nop: {op: crc32c}\nresources: {memry: 1Gi}\n")
                .unwrap_err();
        assert_eq!(error.path, "resources.memry");
        assert!(error.message.contains("did you mean `memory`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_the_field() {
        let error =
            yaml("apiVersion: weft/v1\nruntime: op\nop: {op: crc32c}\nretry: {attempts: many}\n")
                .unwrap_err();
        assert_eq!(error.path, "retry.attempts");
    }

    #[test]
    fn dependencies_and_deadlines_are_read_and_a_cycle_names_its_field() {
        let head = "apiVersion: weft/v1\nruntime: op\nop: {op: crc32c}\n";
        let read = yaml(&format!(
            "{head}after: [job-1, prepare]\ndeadline: 30m\nspeculate: true\ntasks: [{{}}, {{after: [0]}}]\n"
        ))
        .unwrap();
        assert_eq!(read.after, ["job-1", "prepare"]);
        assert_eq!(read.deadline.unwrap().to_string(), "30m");
        assert!(read.speculate);
        let json = serde_json::to_string(&read).unwrap();
        assert_eq!(parse_json::<Workload>(json.as_bytes()), Ok(read));
        let error = yaml(&format!("{head}tasks: [{{after: [1]}}, {{after: [0]}}]\n")).unwrap_err();
        assert_eq!(error.path, "tasks[0].after");
        let error = yaml(&format!("{head}deadline: soon\n")).unwrap_err();
        assert_eq!(error.path, "deadline");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("apiVersion: weft/v1\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(yaml(&bomb).is_err());
    }

    #[test]
    fn a_file_name_cannot_leave_the_working_directory() {
        for file in ["../x", "/etc/passwd", "", "..", "a\0b"] {
            let task = crate::TaskSpec {
                file: Some(file.into()),
                ..Default::default()
            };
            assert_eq!(task.check(RuntimeKind::Process).unwrap_err().path, "file");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}") {
            for format in [SourceFormat::Yaml, SourceFormat::Toml, SourceFormat::Json] {
                let _ = parse_workload(&text, format);
            }
        }
    }
}
