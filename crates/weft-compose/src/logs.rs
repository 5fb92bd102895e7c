//! What the parts of a unit print, merged.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use tokio::sync::mpsc;
use weft_types::{Reason, UnitId};
use weft_unit::{Error, LogLine, LogStream, LogsWanted, MAX_LOG_LINE_BYTES, Step};

use crate::engine::{Engine, names};

/// Lines that wait for a slow reader.
const WAITING_LINES: usize = 256;
/// The most lines that a tail is kept of.
const MAX_TAIL: usize = 5_000;
/// How long after its end a container is looked at, whether the engine has started it again.
const AGAIN: Duration = Duration::from_millis(300);

/// A line with the time that tells it from others.
struct Stamped {
    at_ns: i128,
    line: LogLine,
}

type Lines = Pin<Box<dyn Stream<Item = Stamped> + Send>>;

/// One container's output.
#[derive(Clone)]
struct Source {
    docker: Docker,
    container: String,
    part: String,
    /// Only what is later, in nanoseconds since the Unix epoch.
    after_ns: i128,
}

impl Source {
    fn lines(&self, follow: bool, tail: Option<usize>) -> Lines {
        let since = self.after_ns.max(0) / 1_000_000_000;
        let mut options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(follow)
            .since(i32::try_from(since).unwrap_or(0));
        if let Some(tail) = tail {
            options = options.tail(&tail.to_string());
        }
        let (part, after_ns) = (self.part.clone(), self.after_ns);
        let outputs = self.docker.logs(&self.container, Some(options.build()));
        let lines = outputs
            .take_while(|output| std::future::ready(output.is_ok()))
            .filter_map(|output| std::future::ready(output.ok()))
            .map(move |output| stamped(output, &part))
            .filter(move |stamped| std::future::ready(stamped.at_ns > after_ns));
        Box::pin(lines)
    }
}

/// Opens the output of all parts of a unit.
pub(crate) async fn open(
    engine: &Arc<Engine>,
    id: UnitId,
    wanted: LogsWanted,
) -> Result<LogStream, Error> {
    let parts = engine.parts(Step::Run, id, false).await?;
    if parts.is_empty() {
        let detail = format!("{id} has no containers on this node");
        return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
    }
    let docker = engine.docker(Step::Run).await?;
    let after_ns = wanted
        .since_ms
        .map_or(-1, |ms| i128::from(ms) * 1_000_000 + 999_999);
    let sources = parts.iter().zip(names(&parts)).map(|(part, name)| Source {
        docker: docker.clone(),
        container: part.id.clone(),
        part: name,
        after_ns,
    });
    let (to, lines) = mpsc::channel(WAITING_LINES);
    let sources = sources.collect();
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        tokio::select! {
            () = to.closed() => {}
            () = copy(&engine, sources, wanted, &to) => {}
        }
    });
    Ok(lines)
}

/// First what there is, in order; then what comes, as it comes.
async fn copy(
    engine: &Arc<Engine>,
    mut sources: Vec<Source>,
    wanted: LogsWanted,
    to: &mpsc::Sender<LogLine>,
) {
    if merge(&mut sources, wanted.tail, to).await.is_err() || !wanted.follow {
        return;
    }
    let followers = sources.into_iter().map(|source| follow(engine, source, to));
    futures::future::join_all(followers).await;
}

/// Sends the lines that there are, by their time.
async fn merge(
    sources: &mut [Source],
    tail: Option<usize>,
    to: &mpsc::Sender<LogLine>,
) -> Result<(), mpsc::error::SendError<LogLine>> {
    let tail = tail.map(|tail| tail.min(MAX_TAIL));
    let mut streams = Vec::new();
    for source in sources.iter() {
        let mut lines = source.lines(false, tail);
        let first = lines.next().await;
        streams.push((lines, first));
    }
    let mut last = VecDeque::new();
    loop {
        let at =
            |(_, head): &(Lines, Option<Stamped>)| head.as_ref().map(|head| Reverse(head.at_ns));
        let next = (0..streams.len()).max_by_key(|&index| at(&streams[index]));
        let Some(index) = next else { break };
        let (lines, head) = &mut streams[index];
        let Some(stamped) = head.take() else { break };
        *head = lines.next().await;
        sources[index].after_ns = sources[index].after_ns.max(stamped.at_ns);
        match tail {
            None => to.send(stamped.line).await?,
            Some(tail) => {
                last.push_back(stamped.line);
                if last.len() > tail {
                    last.pop_front();
                }
            }
        }
    }
    for line in last {
        to.send(line).await?;
    }
    Ok(())
}

/// Sends new lines of one container until it has ended for good.
async fn follow(engine: &Arc<Engine>, mut source: Source, to: &mpsc::Sender<LogLine>) {
    loop {
        let mut lines = source.lines(true, None);
        while let Some(stamped) = lines.next().await {
            source.after_ns = source.after_ns.max(stamped.at_ns);
            if to.send(stamped.line).await.is_err() {
                return;
            }
        }
        let seen = engine.inspect(Step::Run, &source.container).await;
        let state = seen.ok().flatten().and_then(|container| container.state);
        let goes_on = state
            .is_some_and(|state| state.running == Some(true) || state.restarting == Some(true));
        if !goes_on {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Takes the engine's time off a line.
fn stamped(output: LogOutput, part: &str) -> Stamped {
    let is_stderr = matches!(output, LogOutput::StdErr { .. });
    let message = output.into_bytes();
    let space = message.iter().position(|&byte| byte == b' ').unwrap_or(0);
    let time = std::str::from_utf8(&message[..space]).ok();
    let time = time.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let line = match time {
        Some(_) => message.slice(space + 1..),
        None => message,
    };
    let at_ns = time.map_or(i128::MAX, jiff::Timestamp::as_nanosecond);
    Stamped {
        at_ns,
        line: LogLine {
            at_ms: time
                .and_then(|time| time.as_millisecond().try_into().ok())
                .unwrap_or(0),
            is_stderr,
            part: part.to_owned(),
            line: without_end(&line),
        },
    }
}

fn without_end(line: &Bytes) -> Bytes {
    let mut end = line.len();
    for ending in [b'\n', b'\r'] {
        if end > 0 && line[end - 1] == ending {
            end -= 1;
        }
    }
    line.slice(..end.min(MAX_LOG_LINE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_taken_off_a_line() {
        let message = Bytes::from_static(b"1970-01-01T00:00:01.000000005Z a b\r\n");
        let read = stamped(LogOutput::StdErr { message }, "web");
        assert_eq!(read.at_ns, 1_000_000_005);
        assert_eq!((read.line.at_ms, read.line.is_stderr), (1_000, true));
        assert_eq!(read.line.line, "a b");
        let message = Bytes::from_static(b"1970-01-01T00:00:01Z \n");
        assert_eq!(stamped(LogOutput::StdOut { message }, "web").line.line, "");
    }
}
