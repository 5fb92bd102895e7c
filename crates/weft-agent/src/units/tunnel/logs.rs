//! What a unit has printed and prints.

use std::sync::Arc;
use std::time::Duration;

use tonic::Streaming;
use weft_proto::v1;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::Reason;
use weft_unit::LogLine;

use super::{Failed, Tunnel, ended};
use crate::units::logs::Reader;

/// How often is looked whether a unit that prints nothing is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(
    tunnel: &Tunnel,
    start: &v1::LogsStart,
    incoming: &mut Streaming<v1::TunnelFrame>,
) -> Result<(), Failed> {
    if tunnel.shared.view(tunnel.unit).is_none() && !tunnel.shared.shelf.has(tunnel.unit) {
        let node = &tunnel.shared.node;
        let detail = format!("node {node} has no logs of {}", tunnel.unit);
        return Err((Reason::RuntimeError, detail));
    }
    tokio::select! {
        told = tell(tunnel, start) => told,
        // Nobody reads any more.
        () = ended(incoming), if start.follow => Ok(()),
    }
}

async fn tell(tunnel: &Tunnel, start: &v1::LogsStart) -> Result<(), Failed> {
    let (shared, unit) = (Arc::clone(&tunnel.shared), tunnel.unit);
    let book = blocking(move || Ok(shared.shelf.book(unit))).await?;
    let mut grown = book.subscribe();
    let wanted = start.into();
    let reader = blocking(move || Reader::open(book, wanted)).await?;
    let Some(mut reader) = reader else {
        let detail = format!("{} has had no instance before this one", tunnel.unit);
        return Err((Reason::RuntimeError, detail));
    };
    loop {
        let is_there = tunnel.shared.view(tunnel.unit).is_some();
        grown.mark_unchanged();
        let (back, lines) = blocking(move || {
            let lines = reader.next()?;
            Ok((reader, lines))
        })
        .await?;
        reader = back;
        if !lines.is_empty() {
            tunnel.send(Frame::Lines(to_proto(lines))).await?;
        } else if !start.follow || start.previous || !is_there {
            return Ok(());
        } else {
            let _ = tokio::time::timeout(LOOK_INTERVAL, grown.changed()).await;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failed> {
    let failed = |error: &dyn std::fmt::Display| (Reason::StorageError, error.to_string());
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

fn to_proto(lines: Vec<LogLine>) -> v1::LogLines {
    let lines = lines.into_iter().map(|line| v1::UnitLogLine {
        at_ms: line.at_ms,
        stderr: line.is_stderr,
        part: line.part,
        line: line.line,
    });
    v1::LogLines {
        lines: lines.collect(),
    }
}
