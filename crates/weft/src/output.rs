//! How results are written: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use weft_api::Problem;

use crate::args::{Format, Global};
use crate::exit::Failed;

/// Where and how a command writes.
pub struct Output {
    /// The chosen format.
    pub format: Format,
    quiet: bool,
    colour: bool,
}

impl Output {
    /// From the global flags.
    pub fn new(global: &Global) -> Self {
        let forced = std::env::var_os("FORCE_COLOR").is_some();
        let refused = global.no_color || std::env::var_os("NO_COLOR").is_some();
        Self {
            format: global.output,
            quiet: global.quiet,
            colour: !refused && (forced || io::stderr().is_terminal()),
        }
    }

    /// Whether values are written for programs.
    pub fn is_structured(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Whether animation is welcome: a person is watching.
    pub fn is_interactive(&self) -> bool {
        !self.quiet && io::stderr().is_terminal() && std::env::var_os("CI").is_none()
    }

    /// A list: a table for people, with its columns by `row`; `name` is the short form.
    pub fn list<T: Serialize>(
        &self,
        items: &[T],
        columns: &[&str],
        row: impl Fn(&T) -> Vec<String>,
        name: impl Fn(&T) -> String,
    ) -> Result<(), Failed> {
        match self.format {
            Format::Json | Format::Yaml => self.value(&items),
            Format::Name => items.iter().try_for_each(|item| self.line(&name(item))),
            Format::Table | Format::Wide => {
                if items.is_empty() {
                    self.note("nothing yet");
                    return Ok(());
                }
                let mut table = Table::new();
                table
                    .load_style(NOTHING)
                    .set_content_arrangement(ContentArrangement::Disabled);
                table.set_header(columns.to_vec());
                for item in items {
                    table.add_row(row(item));
                }
                self.line(&trim_lines(&table.to_string()))
            }
        }
    }

    /// One value: its fields for people.
    pub fn one<T: Serialize>(
        &self,
        item: &T,
        fields: &[(&str, String)],
        name: &str,
    ) -> Result<(), Failed> {
        match self.format {
            Format::Json | Format::Yaml => self.value(item),
            Format::Name => self.line(name),
            Format::Table | Format::Wide => {
                let width = fields
                    .iter()
                    .map(|(label, _)| label.len())
                    .max()
                    .unwrap_or(0);
                for (label, text) in fields.iter().filter(|(_, text)| !text.is_empty()) {
                    self.line(&format!(
                        "{label:width$}  {}",
                        text.replace('\n', &format!("\n{:width$}  ", ""))
                    ))?;
                }
                Ok(())
            }
        }
    }

    /// A value for programs.
    pub fn value<T: Serialize>(&self, value: &T) -> Result<(), Failed> {
        let text = match self.format {
            Format::Yaml => {
                serde_yaml_ng::to_string(value).map_err(|e| Failed::internal(e.to_string()))?
            }
            _ => {
                serde_json::to_string_pretty(value).map_err(|e| Failed::internal(e.to_string()))?
            }
        };
        self.line(text.trim_end())
    }

    /// One value of a stream: a line of NDJSON, or a YAML document.
    pub fn stream_value<T: Serialize>(&self, value: &T) -> Result<(), Failed> {
        let text = match self.format {
            Format::Yaml => {
                let text =
                    serde_yaml_ng::to_string(value).map_err(|e| Failed::internal(e.to_string()))?;
                format!("---\n{}", text.trim_end())
            }
            _ => serde_json::to_string(value).map_err(|e| Failed::internal(e.to_string()))?,
        };
        self.line(&text)
    }

    /// A line of data.
    pub fn line(&self, text: &str) -> Result<(), Failed> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").map_err(broken_output)
    }

    /// Bytes of data as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failed> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(broken_output)
    }

    /// Something a person may want to know; not said with `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", self.dim(text));
        }
    }

    /// Something that went wrong with a part of the work.
    pub fn warn(&self, text: &str) {
        eprintln!("{}", self.paint("33", text));
    }

    /// A failure of the command.
    pub fn problem(&self, problem: &Problem) {
        let mut text = format!("{} {}", self.paint("31", "error:"), problem.detail);
        for field in problem
            .errors
            .iter()
            .filter(|field| !problem.detail.contains(&field.message))
        {
            text.push_str(&format!("\n  {}: {}", field.path, field.message));
        }
        if let Some(next) = &problem.next {
            text.push_str(&format!("\n{}", self.dim(&format!("next: {next}"))));
        }
        eprintln!("{text}");
        if self.is_structured() {
            let _ = self.value(problem);
        }
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A reader that has seen enough, such as `head`, ends the command without complaint.
fn broken_output(error: io::Error) -> Failed {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failed::internal(format!("standard output: {error}"))
}

fn trim_lines(text: &str) -> String {
    text.lines()
        .map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()))
        .collect::<Vec<_>>()
        .join("\n")
}
