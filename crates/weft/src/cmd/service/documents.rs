//! Workload files: one document or several, from files, directories or standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use weft_types::{MAX_WORKLOAD_FILE_BYTES, Namespace, SourceFormat, Workload, parse_workload};

use crate::args::Global;
use crate::exit::Failed;

/// The most files and documents of one command.
const MAX_DOCUMENTS: usize = 1_000;

/// A workload, and where it was written.
pub struct Document {
    /// The file, and the number of the document when there are several in it.
    pub origin: String,
    /// The text, for keys that follow from the content.
    pub text: String,
    /// What it says.
    pub workload: Workload,
}

/// Reads every workload of some files.
///
/// # Errors
/// The first file that cannot be read, or the first field that is refused.
pub fn read(files: &[PathBuf], recursive: bool, global: &Global) -> Result<Vec<Document>, Failed> {
    let mut paths = Vec::new();
    for file in files {
        collect(file, recursive, true, &mut paths)?;
    }
    let mut documents = Vec::new();
    for path in paths {
        let text = content(&path)?;
        read_documents(&path, &text, global, &mut documents)?;
        if documents.len() > MAX_DOCUMENTS {
            return Err(Failed::usage(format!(
                "more than {MAX_DOCUMENTS} workloads"
            )));
        }
    }
    Ok(documents)
}

/// The files that a path stands for, in the order of their names.
fn collect(
    path: &Path,
    recursive: bool,
    is_given: bool,
    paths: &mut Vec<PathBuf>,
) -> Result<(), Failed> {
    if !path.is_dir() {
        let known = ["yaml", "yml", "json", "toml"];
        let extension = path.extension().and_then(|extension| extension.to_str());
        if is_given || extension.is_some_and(|extension| known.contains(&extension)) {
            paths.push(path.to_path_buf());
        }
        return Ok(());
    }
    let unreadable = |error: std::io::Error| Failed::usage(format!("{}: {error}", path.display()));
    let mut entries = std::fs::read_dir(path)
        .map_err(unreadable)?
        .take(MAX_DOCUMENTS)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    entries.sort();
    for entry in entries {
        if !entry.is_dir() || recursive {
            collect(&entry, recursive, false, paths)?;
        }
    }
    Ok(())
}

fn content(path: &Path) -> Result<String, Failed> {
    let mut text = String::new();
    let limit = MAX_WORKLOAD_FILE_BYTES as u64 + 1;
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| Failed::usage(format!("{}: {error}", path.display())))?;
    Ok(text)
}

fn read_documents(
    path: &Path,
    text: &str,
    global: &Global,
    documents: &mut Vec<Document>,
) -> Result<(), Failed> {
    let format = SourceFormat::of_path(&path.to_string_lossy());
    let parts = match format {
        SourceFormat::Yaml => split_yaml(text),
        _ => vec![text.to_owned()],
    };
    let several = parts.len() > 1;
    for (index, part) in parts.into_iter().enumerate() {
        let origin = if several {
            format!("{} (document {})", path.display(), index + 1)
        } else {
            path.display().to_string()
        };
        let mut workload = parse_workload(&part, format).map_err(|error| {
            let mut failed = Failed::from(error);
            failed.problem.detail = format!("{origin}: {}", failed.problem.detail);
            failed
        })?;
        in_namespace(&mut workload, &origin, global)?;
        documents.push(Document {
            origin,
            text: part,
            workload,
        });
    }
    Ok(())
}

/// The documents of a YAML stream; empty ones are left out. A text without any stays as it is, so
/// that its error is told.
fn split_yaml(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        let is_mark = line == "---" || line.starts_with("--- ");
        if is_mark {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(if is_mark {
                line.trim_start_matches("---")
            } else {
                line
            });
            part.push('\n');
        }
    }
    let says_something = |part: &String| {
        part.lines()
            .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    parts.retain(says_something);
    if parts.is_empty() {
        parts.push(text.to_owned());
    }
    parts
}

/// `-n` chooses the namespace of a file that names none, and must not contradict one that does.
fn in_namespace(workload: &mut Workload, origin: &str, global: &Global) -> Result<(), Failed> {
    let Some(wanted) = &global.namespace else {
        return Ok(());
    };
    if workload.namespace == Namespace::default() {
        workload.namespace = wanted.clone();
    } else if &workload.namespace != wanted {
        return Err(Failed::usage(format!(
            "{origin}: its namespace is {}, not {wanted}",
            workload.namespace
        ))
        .with_next("leave out --namespace, or change the file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_documents_is_split_and_empty_ones_are_left_out() {
        let parts = split_yaml("# head\n---\na: 1\n---\n\n--- # note\nb: |\n  --- no mark\n");
        assert_eq!(parts, ["\na: 1\n", " # note\nb: |\n  --- no mark\n"]);
        assert_eq!(split_yaml(""), [""]);
        assert_eq!(split_yaml("a: 1"), ["a: 1\n"]);
    }
}
