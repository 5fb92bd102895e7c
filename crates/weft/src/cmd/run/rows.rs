//! One row a task, in order: what byte operations found, or what programs printed.

use std::path::{Component, Path, PathBuf};

use weft_api::ResultView;
use weft_types::{RuntimeKind, TaskState};

use crate::exit::Failed;
use crate::output::Output;

/// At most this many failures are told one by one.
const MAX_TOLD_FAILURES: u64 = 20;

/// What a task printed.
#[derive(Default)]
pub struct Printed {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Writes rows, and remembers what went wrong.
pub struct Rows<'a> {
    runtime: RuntimeKind,
    labels: Vec<String>,
    width: usize,
    output: &'a Output,
    bad: u64,
    total: u64,
    header_written: bool,
}

impl<'a> Rows<'a> {
    /// Rows for tasks with these files, or without files.
    pub fn new(runtime: RuntimeKind, paths: &[PathBuf], output: &'a Output) -> Self {
        let labels: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let width = labels
            .iter()
            .map(|label| label.chars().count())
            .max()
            .unwrap_or(0)
            .max("TASK".len());
        Self {
            runtime,
            labels,
            width,
            output,
            bad: 0,
            total: 0,
            header_written: false,
        }
    }

    /// Writes the row of a task.
    pub fn write(&mut self, result: &ResultView, printed: &Printed) -> Result<(), Failed> {
        self.total += 1;
        if result.state != TaskState::Completed {
            self.bad += 1;
        }
        if self.output.is_structured() {
            return self.output.stream_value(&self.with_path(result)?);
        }
        self.output.bytes(&printed.stdout)?;
        if !printed.stderr.is_empty() {
            use std::io::Write;
            let _ = std::io::stderr().write_all(&printed.stderr);
        }
        if result.state != TaskState::Completed {
            self.tell_failure(result);
        } else if self.runtime == RuntimeKind::Op {
            self.op_row(result)?;
        }
        Ok(())
    }

    /// How many failed, if any did.
    pub fn summary(&self) -> Option<String> {
        (self.bad > 0 && self.total > 1)
            .then(|| format!("{} of {} tasks failed", self.bad, self.total))
    }

    fn label(&self, task: u32) -> String {
        self.labels
            .get(task as usize)
            .cloned()
            .unwrap_or_else(|| task.to_string())
    }

    /// The local path is known here only; the cluster has the file's name.
    fn with_path(&self, result: &ResultView) -> Result<serde_json::Value, Failed> {
        let mut value =
            serde_json::to_value(result).map_err(|error| Failed::internal(error.to_string()))?;
        if let Some(path) = self.labels.get(result.task as usize) {
            value["file"] = path.clone().into();
        }
        Ok(value)
    }

    fn tell_failure(&self, result: &ResultView) {
        if self.bad > MAX_TOLD_FAILURES {
            return;
        }
        let why = match &result.why {
            Some(why) => format!("{}: {}", why.reason, why.detail),
            None => result.state.to_string(),
        };
        self.output
            .warn(&format!("{}: {why}", self.label(result.task)));
    }

    fn op_row(&mut self, result: &ResultView) -> Result<(), Failed> {
        let values = result
            .result
            .as_ref()
            .map(|json| op_values(json.get()))
            .unwrap_or_default();
        if !self.header_written {
            self.header_written = true;
            let title = if self.labels.is_empty() {
                "TASK"
            } else {
                "FILE"
            };
            let names: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
            self.output.line(&format!(
                "{title:width$}  {}",
                columns(&names),
                width = self.width
            ))?;
        }
        let values: Vec<&str> = values.iter().map(|(_, value)| value.as_str()).collect();
        let row = format!(
            "{:width$}  {}",
            self.label(result.task),
            columns(&values),
            width = self.width
        );
        self.output.line(row.trim_end())
    }
}

/// Wide enough for a 64-bit number in decimal.
const COLUMN_WIDTH: usize = 20;

fn columns(values: &[&str]) -> String {
    values
        .iter()
        .map(|value| format!("{value:<COLUMN_WIDTH$}"))
        .collect::<Vec<_>>()
        .join("  ")
        .trim_end()
        .to_owned()
}

/// Name and value of each column: one for each operation, and the number of bytes.
fn op_values(json: &str) -> Vec<(String, String)> {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(json) else {
        return Vec::new();
    };
    let results = match value.get("results").and_then(serde_json::Value::as_array) {
        Some(several) => several.clone(),
        None => vec![value],
    };
    let mut columns: Vec<(String, String)> = Vec::new();
    for result in &results {
        let name = result
            .get("op")
            .and_then(serde_json::Value::as_str)
            .unwrap_or("result")
            .to_uppercase();
        let found = ["count", "checksum", "hash", "result"]
            .iter()
            .find_map(|field| result.get(field));
        columns.push((name, found.map(plain).unwrap_or_default()));
    }
    if let Some(bytes) = results.first().and_then(|result| result.get("bytes")) {
        columns.push(("BYTES".to_owned(), plain(bytes)));
    }
    columns
}

fn plain(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A path beneath a directory; `None` when it would leave it.
pub fn beneath(dir: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then(|| dir.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_file_cannot_leave_the_output_directory() {
        for bad in ["../x", "/etc/passwd", "a/../../x"] {
            assert_eq!(beneath(Path::new("/out"), bad), None, "{bad}");
        }
        assert_eq!(
            beneath(Path::new("/out"), "a/b"),
            Some(PathBuf::from("/out/a/b"))
        );
    }

    #[test]
    fn an_operation_gives_its_value_and_its_bytes() {
        let values = op_values(r#"{"op":"fnv64","hash":"00ff","bytes":3}"#);
        assert_eq!(
            values,
            [
                ("FNV64".into(), "00ff".into()),
                ("BYTES".into(), "3".into())
            ]
        );
    }
}
