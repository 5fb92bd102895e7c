//! What a container printed.

use std::pin::Pin;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as Api;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use weft_unit::{LogLine, LogStream, LogsWanted, MAX_LOG_LINE_BYTES};

use crate::observe::millis;

/// How many lines wait for a slow reader.
const LINES: usize = 256;

type Pieces = Pin<Box<dyn Stream<Item = Result<LogOutput, Api>> + Send>>;

/// The lines of a container. Podman tells times in whole seconds (`in_seconds`): of the second of
/// `since_ms` all lines are given, rather than losing some.
pub(crate) fn lines(
    docker: &Docker,
    container: &str,
    wanted: &LogsWanted,
    in_seconds: bool,
) -> LogStream {
    let mut options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(wanted.follow);
    if let Some(since_ms) = wanted.since_ms {
        // In whole seconds; what is too early is left out when it is read.
        options = options.since(i32::try_from(since_ms / 1_000).unwrap_or(i32::MAX));
    }
    if let Some(tail) = wanted.tail {
        options = options.tail(&tail.to_string());
    }
    let pieces: Pieces = Box::pin(docker.logs(container, Some(options.build())));
    let (lines, stream) = mpsc::channel(LINES);
    let from_ms = wanted.since_ms.map(|since_ms| {
        if in_seconds {
            since_ms - since_ms % 1_000
        } else {
            since_ms.saturating_add(1)
        }
    });
    tokio::spawn(async move {
        tokio::select! {
            () = pass_on(pieces, &lines, from_ms) => {}
            () = lines.closed() => {}
        }
    });
    stream
}

async fn pass_on(mut pieces: Pieces, lines: &mpsc::Sender<LogLine>, from_ms: Option<u64>) {
    while let Some(piece) = pieces.next().await {
        let (is_stderr, message) = match piece {
            Ok(LogOutput::StdErr { message }) => (true, message),
            Ok(other) => (false, other.into_bytes()),
            Err(error) => {
                tracing::debug!(%error, "a log ended early");
                return;
            }
        };
        for line in split(is_stderr, &message) {
            let is_later = from_ms.is_none_or(|from_ms| line.at_ms >= from_ms);
            if is_later && lines.send(line).await.is_err() {
                return;
            }
        }
    }
}

/// A piece is a line with its time before it, or a part of a long one.
fn split(is_stderr: bool, message: &Bytes) -> Vec<LogLine> {
    let end = message.len() - usize::from(message.ends_with(b"\n"));
    let message = message.slice(..end);
    let space = message.iter().position(|byte| *byte == b' ');
    let (time, line) = match space {
        Some(space) => (message.slice(..space), message.slice(space + 1..)),
        None => (message.clone(), Bytes::new()),
    };
    let at_ms = millis(std::str::from_utf8(&time).ok());
    let line = if line.ends_with(b"\r") {
        line.slice(..line.len() - 1)
    } else {
        line
    };
    let whole = |line: Bytes| LogLine {
        at_ms,
        is_stderr,
        part: String::new(),
        line,
    };
    if line.is_empty() {
        return vec![whole(line)];
    }
    let starts = (0..line.len()).step_by(MAX_LOG_LINE_BYTES);
    starts
        .map(|start| {
            let end = (start + MAX_LOG_LINE_BYTES).min(line.len());
            whole(line.slice(start..end))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_time_and_a_bound() {
        let piece = Bytes::from("2026-01-02T03:04:05.678901234Z a line\r\n");
        let lines = split(true, &piece);
        assert_eq!(lines.len(), 1);
        assert_eq!(&lines[0].line[..], b"a line");
        assert!(lines[0].is_stderr && lines[0].at_ms % 1_000 == 678);

        let empty = split(false, &Bytes::from("2026-01-02T03:04:05Z \n"));
        assert!(empty.len() == 1 && empty[0].line.is_empty());

        let long = "x".repeat(MAX_LOG_LINE_BYTES + 1);
        let long = split(
            false,
            &Bytes::from(format!("2026-01-02T03:04:05Z {long}\n")),
        );
        assert_eq!(long.len(), 2);
        assert_eq!(long[1].line.len(), 1);
    }
}
