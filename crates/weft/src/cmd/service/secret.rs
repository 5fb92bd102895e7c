//! `weft secret`: values come from standard input or files, never from arguments.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use weft_api::{SecretRequest, SecretView};
use weft_client::Client;

use super::namespace;
use crate::args::{Global, SecretCommand};
use crate::exit::Failed;
use crate::output::Output;

/// The largest value, in bytes.
const MAX_VALUE_BYTES: u64 = 64 << 10;

/// Runs a `secret` command.
pub async fn secret(
    client: &Client,
    command: SecretCommand,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let namespace = namespace(global);
    match command {
        SecretCommand::Set {
            name,
            values,
            from_file,
            from_env_file,
        } => {
            let mut all = BTreeMap::new();
            from_standard_input(&values, &mut all)?;
            from_files(&from_file, &mut all)?;
            for path in &from_env_file {
                from_lines(&text(path)?, path, &mut all)?;
            }
            if all.is_empty() {
                return Err(Failed::usage("no values")
                    .with_next("weft secret set NAME KEY=- < FILE, or --from-file KEY=FILE"));
            }
            let request = SecretRequest { values: all };
            let view = client.set_secret(&name, &namespace, &request).await?;
            show(&view, output)
        }
        SecretCommand::Ls => {
            let secrets = client.secrets(global.namespace.as_ref()).await?;
            let columns = ["NAME", "NAMESPACE", "KEYS", "VERSION", "CHANGED"];
            output.list(&secrets, &columns, row, |secret| secret.name.clone())
        }
        SecretCommand::Show { name } => show(&client.secret(&name, &namespace).await?, output),
        SecretCommand::Rm { name } => {
            client.remove_secret(&name, &namespace).await?;
            output.note(&format!("forgot {name}"));
            Ok(())
        }
    }
}

fn row(secret: &SecretView) -> Vec<String> {
    vec![
        secret.name.clone(),
        secret.namespace.clone(),
        secret.keys.join(","),
        secret.version.to_string(),
        secret.changed_at.clone(),
    ]
}

fn show(secret: &SecretView, output: &Output) -> Result<(), Failed> {
    let fields = [
        ("name", secret.name.clone()),
        ("namespace", secret.namespace.clone()),
        ("keys", secret.keys.join(", ")),
        ("version", secret.version.to_string()),
        ("changed", secret.changed_at.clone()),
    ];
    output.one(secret, &fields, &secret.name)
}

fn from_standard_input(keys: &[String], all: &mut BTreeMap<String, String>) -> Result<(), Failed> {
    match keys {
        [] => Ok(()),
        [pair] => {
            let Some(key) = pair.strip_suffix("=-") else {
                return Err(Failed::usage(
                    "a value on the command line could be read by everybody on this machine",
                )
                .with_next("write KEY=- and give the value on standard input"));
            };
            let value = bounded(std::io::stdin(), "standard input")?;
            // What `echo` adds is hardly ever part of a secret.
            all.insert(key.to_owned(), value.trim_end_matches('\n').to_owned());
            Ok(())
        }
        _ => Err(Failed::usage("standard input has one value only")
            .with_next("give the others with --from-file KEY=FILE")),
    }
}

fn from_files(pairs: &[String], all: &mut BTreeMap<String, String>) -> Result<(), Failed> {
    for pair in pairs {
        let Some((key, path)) = pair.split_once('=') else {
            return Err(Failed::usage(format!(
                "--from-file {pair:?}: write KEY=FILE"
            )));
        };
        all.insert(key.to_owned(), text(Path::new(path))?);
    }
    Ok(())
}

fn from_lines(lines: &str, path: &Path, all: &mut BTreeMap<String, String>) -> Result<(), Failed> {
    for (number, line) in lines.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            // The line itself may be a secret: it is not repeated.
            let place = format!("{}:{}", path.display(), number + 1);
            return Err(Failed::usage(format!("{place}: not KEY=VALUE")));
        };
        all.insert(key.trim().to_owned(), value.to_owned());
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, Failed> {
    let file = std::fs::File::open(path)
        .map_err(|error| Failed::usage(format!("{}: {error}", path.display())))?;
    bounded(file, &path.display().to_string())
}

fn bounded(source: impl Read, name: &str) -> Result<String, Failed> {
    let mut value = String::new();
    let read = source.take(MAX_VALUE_BYTES + 1).read_to_string(&mut value);
    read.map_err(|error| Failed::usage(format!("{name}: {error}")))?;
    if value.len() as u64 > MAX_VALUE_BYTES {
        return Err(Failed::usage(format!(
            "{name}: more than {MAX_VALUE_BYTES} bytes"
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_keys_and_values_and_a_bad_one_is_not_repeated() {
        let mut all = BTreeMap::new();
        let path = Path::new("secrets.env");
        from_lines("# note\nA=1\n\nB=x=y\n", path, &mut all).unwrap();
        assert_eq!(all["A"], "1");
        assert_eq!(all["B"], "x=y");
        let failed = from_lines("hunter2", path, &mut all).unwrap_err();
        assert_eq!(failed.problem.detail, "secrets.env:1: not KEY=VALUE");
    }

    #[test]
    fn a_value_on_the_command_line_is_refused() {
        let mut all = BTreeMap::new();
        let failed = from_standard_input(&["key=hunter2".to_owned()], &mut all).unwrap_err();
        assert!(!failed.problem.detail.contains("hunter2"));
    }
}
