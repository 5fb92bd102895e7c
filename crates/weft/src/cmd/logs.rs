//! `weft logs`: what tasks and units print, merged and prefixed.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine;
use weft_api::LogLine;
use weft_client::Client;

use super::resolve_job;
use super::service::{find_service, service_logs};
use crate::args::{Global, LogsArgs};
use crate::exit::Failed;
use crate::output::Output;

/// The most bytes that `--tail` keeps for one stream of a task.
const MAX_TAIL_BYTES: usize = 16 << 20;

/// Which stream of which task.
type StreamKey = (u32, String);

/// Writes what a job's tasks printed or print.
pub async fn logs(
    client: &Client,
    args: &LogsArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    if let Some(service) = find_service(client, &args.id, global).await? {
        return service_logs(client, &service, args, output).await;
    }
    for_services_only(args)?;
    let id = resolve_job(client, &args.id).await?;
    let tasks = client.job(&id, None).await?.tasks.total;
    let prefix = args.prefix || (tasks > 1 && args.task.is_none());
    let mut lines = client.logs(&id, args.task, args.follow).await?;
    let mut kept: BTreeMap<StreamKey, Vec<u8>> = BTreeMap::new();
    while let Some(line) = lines.next().await? {
        if output.is_structured() {
            output.stream_value(&line)?;
        } else if args.tail.is_none() && !prefix {
            write_raw(&line)?;
        } else {
            let buffer = kept.entry((line.task, line.stream.clone())).or_default();
            buffer.extend_from_slice(&decode(&line)?);
            match args.tail {
                Some(count) => keep_tail(buffer, count),
                None => write_whole_lines(&(line.task, line.stream), buffer, prefix)?,
            }
        }
    }
    for (key, mut buffer) in kept {
        if !buffer.is_empty() && !buffer.ends_with(b"\n") {
            buffer.push(b'\n');
        }
        write_whole_lines(&key, &mut buffer, prefix)?;
    }
    Ok(())
}

fn for_services_only(args: &LogsArgs) -> Result<(), Failed> {
    let given = [
        ("--since", args.since.is_some()),
        ("--timestamps", args.timestamps),
        ("--previous", args.previous),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failed::usage(format!("{flag}: only services have it"))),
        None => Ok(()),
    }
}

/// Writes a piece to the stream it came from.
pub fn write_raw(line: &LogLine) -> Result<(), Failed> {
    write_to(&line.stream, &decode(line)?)
}

fn decode(line: &LogLine) -> Result<Vec<u8>, Failed> {
    base64::engine::general_purpose::STANDARD
        .decode(&line.data)
        .map_err(|error| Failed::internal(format!("a piece of output is not base64: {error}")))
}

fn write_to(stream: &str, bytes: &[u8]) -> Result<(), Failed> {
    let written = if stream == "stderr" {
        std::io::stderr().lock().write_all(bytes)
    } else {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    };
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Failed::internal(error.to_string())),
    }
}

/// Lines stay whole, so that several tasks can be told apart.
fn write_whole_lines(key: &StreamKey, buffer: &mut Vec<u8>, prefix: bool) -> Result<(), Failed> {
    let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else {
        return Ok(());
    };
    let rest = buffer.split_off(end + 1);
    let mut text = Vec::with_capacity(buffer.len());
    for line in buffer.split_inclusive(|byte| *byte == b'\n') {
        if prefix {
            text.extend_from_slice(format!("[{}] ", key.0).as_bytes());
        }
        text.extend_from_slice(line);
    }
    *buffer = rest;
    write_to(&key.1, &text)
}

fn keep_tail(buffer: &mut Vec<u8>, lines: usize) {
    let end = buffer
        .len()
        .saturating_sub(usize::from(buffer.ends_with(b"\n")));
    let start = buffer[..end]
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(lines.saturating_sub(1));
    let start = match start {
        _ if lines == 0 => buffer.len(),
        Some((position, _)) => position + 1,
        None => buffer.len().saturating_sub(MAX_TAIL_BYTES),
    };
    buffer.drain(..start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_counted_in_lines() {
        for (text, count, kept) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb", 1, "b"),
            ("a\n", 5, "a\n"),
            ("a\n", 0, ""),
        ] {
            let mut buffer = text.as_bytes().to_vec();
            keep_tail(&mut buffer, count);
            assert_eq!(buffer, kept.as_bytes(), "{text:?} {count}");
        }
    }
}
