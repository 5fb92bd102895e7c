//! The console as the log of a machine.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use weft_types::Reason;
use weft_unit::{Error, LogStream, LogsWanted, Step};

use crate::{console, fail, record};

/// How often is looked for new lines.
const LOOK_INTERVAL: Duration = Duration::from_millis(150);
/// Lines that may be on their way to whoever reads them.
const CHANNEL_LINES: usize = 256;

/// The lines of a unit's console.
pub(crate) async fn stream(dir: PathBuf, wanted: LogsWanted) -> Result<LogStream, Error> {
    if record::read(&dir).is_none() {
        let detail = "there is no such machine here, and so no console";
        return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
    }
    let (sender, receiver) = mpsc::channel(CHANNEL_LINES);
    tokio::spawn(async move {
        if let Err(error) = send(&dir, wanted, &sender).await {
            tracing::warn!(%error, "a console is not read to its end");
        }
    });
    Ok(receiver)
}

async fn send(
    dir: &std::path::Path,
    wanted: LogsWanted,
    sender: &mpsc::Sender<weft_unit::LogLine>,
) -> Result<(), Error> {
    let mut after_ms = wanted.since_ms.unwrap_or(0);
    let mut tail = wanted.tail;
    loop {
        // Looked at before the lines are read: those that came before the end are among them.
        let goes_on = wanted.follow && is_active(dir);
        let at = dir.to_owned();
        let mut lines = fail::blocking(Step::Run, move || {
            console::read_after(&at, after_ms)
                .map_err(|e| fail::file(Step::Run, "reading the console in", &at, &e))
        })
        .await?;
        after_ms = lines.last().map_or(after_ms, |line| line.at_ms);
        if let Some(count) = tail.take() {
            lines.drain(..lines.len().saturating_sub(count));
        }
        for line in lines {
            if sender.send(line).await.is_err() {
                return Ok(());
            }
        }
        if !goes_on {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

fn is_active(dir: &std::path::Path) -> bool {
    let run = record::read(dir).and_then(|record| record.run);
    run.is_some_and(|run| run.ended.is_none())
}
