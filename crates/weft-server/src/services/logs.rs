//! What the units of a service print: one stream a unit, merged by time as far as that can be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_api::{UnitLogView, rfc3339};
use weft_core::service::record::{Assignment, Intent};
use weft_proto::v1;
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{FieldError, Timestamp, UnitId, WorkloadId};

use super::cache::{Kept, Service};
use super::tunnels::{Tunnel, failure};
use super::{apply, find};
use crate::rest::problem::ApiError;
use crate::state::Server;

/// The most units whose output is merged.
const MAX_UNITS: usize = 128;
/// Lines that wait in each of the streams.
const MAX_WAITING_LINES: usize = 256;
/// How long a line waits for an earlier one of another unit, while units go on printing.
const MERGE_WAIT: Duration = Duration::from_millis(100);
/// After a stream broke off, the wait before it is opened again.
const REOPEN_DELAY: Duration = Duration::from_secs(1);
/// The longest line that is passed on, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this unit.
    pub unit: Option<String>,
    /// On with what is printed later, also by units to come.
    pub follow: bool,
    /// Only the last so many of each unit.
    pub tail: Option<u32>,
    /// Only those since, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Of the instance before the last restart.
    pub previous: bool,
}

/// A line of a unit.
struct Line {
    at_ms: u64,
    view: UnitLogView,
}

/// One unit's stream.
struct Source {
    lines: mpsc::Receiver<Line>,
    heads: VecDeque<Line>,
    is_over: bool,
}

/// Opens the output of a service.
///
/// # Errors
/// When the service has no such unit, or none of its nodes answers.
pub async fn open(
    server: Arc<Server>,
    service: &Service,
    wanted: Wanted,
) -> Result<mpsc::Receiver<UnitLogView>, ApiError> {
    let units = chosen(service, &wanted)?;
    let opened = futures::future::join_all(units.iter().map(|unit| {
        let server = &server;
        let wanted = &wanted;
        async move { (unit.clone(), open_one(server, &unit.value, wanted).await) }
    }))
    .await;
    let mut refusals = opened
        .iter()
        .filter_map(|(_, opened)| opened.as_ref().err());
    if let Some(error) = refusals.next().cloned()
        && opened.iter().all(|(_, opened)| opened.is_err())
    {
        return Err(error);
    }
    let mut merge = Merge {
        server: Arc::clone(&server),
        workload: service.record.value.id,
        wanted,
        sources: BTreeMap::new(),
        known: BTreeSet::new(),
    };
    for (unit, opened) in opened {
        merge.add(&unit.value, Some(opened));
    }
    let (sender, receiver) = mpsc::channel(MAX_WAITING_LINES);
    tokio::spawn(async move {
        tokio::select! {
            () = merge.run(&sender) => {}
            () = sender.closed() => {}
            () = server.stopping.cancelled() => {}
        }
    });
    Ok(receiver)
}

fn chosen(service: &Service, wanted: &Wanted) -> Result<Vec<Kept<Assignment>>, ApiError> {
    if wanted.unit.is_some() {
        return Ok(vec![find::unit(service, wanted.unit.as_deref())?]);
    }
    if service.units.is_empty() && !wanted.follow {
        // Says why there is none.
        find::unit(service, None)?;
    }
    if service.units.len() > MAX_UNITS {
        let name = apply::name_of(&service.record.value.spec);
        let message = format!(
            "{name:?} has {} units, more than {MAX_UNITS}; choose one",
            service.units.len()
        );
        return Err(FieldError::new("unit", message).into());
    }
    Ok(service.units.iter().map(|(kept, _)| kept.clone()).collect())
}

async fn open_one(server: &Server, unit: &Assignment, wanted: &Wanted) -> Result<Tunnel, ApiError> {
    let start = v1::LogsStart {
        since_ms: wanted.since_ms,
        tail: wanted.tail.unwrap_or_default(),
        tail_set: wanted.tail.is_some(),
        follow: wanted.follow,
        previous: wanted.previous,
    };
    let tunnels = &server.services.tunnels;
    tunnels.open(server, unit, What::Logs(start)).await
}

/// The streams of all units on their way into one.
struct Merge {
    server: Arc<Server>,
    workload: WorkloadId,
    wanted: Wanted,
    sources: BTreeMap<UnitId, Source>,
    known: BTreeSet<UnitId>,
}

impl Merge {
    fn add(&mut self, unit: &Assignment, opened: Option<Result<Tunnel, ApiError>>) {
        let (sender, lines) = mpsc::channel(MAX_WAITING_LINES);
        let feed = Feed {
            server: Arc::clone(&self.server),
            unit: unit.clone(),
            wanted: self.wanted.clone(),
            lines: sender,
            last_ms: 0,
        };
        tokio::spawn(feed.run(opened));
        self.known.insert(unit.unit);
        let source = Source {
            lines,
            heads: VecDeque::new(),
            is_over: false,
        };
        self.sources.insert(unit.unit, source);
    }

    /// Sends lines until every stream is over, or, when it follows, the service is gone.
    async fn run(&mut self, sender: &mpsc::Sender<UnitLogView>) {
        let mut news = self.server.services.workloads.subscribe();
        let mut waiting_since = Instant::now();
        loop {
            let lacking = self.take_ready();
            if self.wanted.follow && !self.join_new() {
                return self.drain(sender).await;
            }
            let has_line = self.sources.values().any(|source| !source.heads.is_empty());
            let is_late = self.wanted.follow && waiting_since.elapsed() >= MERGE_WAIT;
            if has_line && (!lacking || is_late) {
                if self.send_first(sender).await.is_none() {
                    return;
                }
                continue;
            }
            if !has_line {
                if !lacking && !self.wanted.follow {
                    return;
                }
                waiting_since = Instant::now();
            }
            let follows = self.wanted.follow;
            let wait = waiting_since + MERGE_WAIT;
            tokio::select! {
                () = self.more() => if !has_line { waiting_since = Instant::now() },
                () = tokio::time::sleep_until(wait), if has_line && follows => {}
                changed = news.changed(), if follows => if changed.is_err() { return },
            }
        }
    }

    /// Takes in what is there; tells whether a stream that is not over has no line.
    fn take_ready(&mut self) -> bool {
        let mut lacking = false;
        for source in self.sources.values_mut() {
            if source.heads.is_empty() && !source.is_over {
                match source.lines.try_recv() {
                    Ok(line) => source.heads.push_back(line),
                    Err(mpsc::error::TryRecvError::Empty) => lacking = true,
                    Err(mpsc::error::TryRecvError::Disconnected) => source.is_over = true,
                }
            }
        }
        self.sources
            .retain(|_, source| !source.is_over || !source.heads.is_empty());
        lacking
    }

    /// Resolves when a stream that has no line has one, or is over.
    async fn more(&mut self) {
        let mut lacking: Vec<&mut Source> = self
            .sources
            .values_mut()
            .filter(|source| source.heads.is_empty() && !source.is_over)
            .collect();
        poll_fn(|context| {
            let mut woken = Poll::Pending;
            for source in &mut lacking {
                if let Poll::Ready(line) = source.lines.poll_recv(context) {
                    source.is_over = line.is_none();
                    source.heads.extend(line);
                    woken = Poll::Ready(());
                }
            }
            woken
        })
        .await;
    }

    /// Adds units that are new; `false` when the service is gone.
    fn join_new(&mut self) -> bool {
        let units: Option<Vec<Kept<Assignment>>> = self.server.services.workloads.read(|tables| {
            tables.by_id(self.workload)?;
            Some(tables.units_of(self.workload).cloned().collect())
        });
        let Some(units) = units else {
            return false;
        };
        if self.wanted.unit.is_some() {
            return !self.sources.is_empty();
        }
        let room = MAX_UNITS.saturating_sub(self.sources.len());
        let fresh = units.into_iter().filter(|kept| {
            kept.value.intent == Intent::Run && !self.known.contains(&kept.value.unit)
        });
        for kept in fresh.take(room).collect::<Vec<_>>() {
            self.add(&kept.value, None);
        }
        true
    }

    /// Sends what is left.
    async fn drain(&mut self, sender: &mpsc::Sender<UnitLogView>) {
        while self.sources.values().any(|source| !source.heads.is_empty()) {
            if self.send_first(sender).await.is_none() {
                return;
            }
        }
    }

    async fn send_first(&mut self, sender: &mpsc::Sender<UnitLogView>) -> Option<()> {
        let first = self
            .sources
            .values_mut()
            .filter(|source| !source.heads.is_empty())
            .min_by_key(|source| source.heads.front().map(|line| line.at_ms))?;
        let line = first.heads.pop_front()?;
        sender.send(line.view).await.ok()
    }
}

/// One unit's stream on its way in.
struct Feed {
    server: Arc<Server>,
    unit: Assignment,
    wanted: Wanted,
    lines: mpsc::Sender<Line>,
    last_ms: u64,
}

impl Feed {
    /// Reads to the end; when it follows, on after a stream that broke off, as long as the unit is
    /// assigned.
    async fn run(mut self, mut opened: Option<Result<Tunnel, ApiError>>) {
        let mut told = false;
        loop {
            let tunnel = match opened.take() {
                Some(opened) => opened,
                None => open_one(&self.server, &self.unit, &self.wanted).await,
            };
            match tunnel {
                Ok(tunnel) => {
                    told = false;
                    if self.read(tunnel).await.is_none() {
                        return;
                    }
                }
                Err(error) if !told => {
                    told = true;
                    let detail = error.problem().detail.clone();
                    if self.complain(&detail).await.is_none() {
                        return;
                    }
                }
                Err(_) => {}
            }
            let unit = self.unit.unit;
            let assigned = |tables: &super::cache::Tables| tables.assignment(unit).is_some();
            if !self.wanted.follow || !self.server.services.workloads.read(assigned) {
                return;
            }
            // Only what came after the last line that was passed on.
            self.wanted.since_ms = self.wanted.since_ms.max(self.last_ms.saturating_add(1));
            self.wanted.tail = None;
            tokio::select! {
                () = tokio::time::sleep(REOPEN_DELAY) => {}
                () = self.lines.closed() => return,
            }
        }
    }

    /// Passes on what comes; `None` when nobody wants it any more.
    async fn read(&mut self, tunnel: Tunnel) -> Option<()> {
        let Tunnel { mut reader, writer } = tunnel;
        let lines = self.lines.clone();
        loop {
            let frame = tokio::select! {
                frame = reader.next() => frame,
                () = lines.closed() => return None,
            };
            match frame {
                Some(Frame::Lines(batch)) => {
                    for line in batch.lines {
                        self.pass(line).await?;
                    }
                }
                Some(Frame::Error(error)) => {
                    let (reason, detail) = failure(&error);
                    return self.complain(&format!("{reason}: {detail}")).await;
                }
                Some(_) => {}
                None => break,
            }
        }
        drop(writer);
        Some(())
    }

    async fn pass(&mut self, line: v1::UnitLogLine) -> Option<()> {
        self.last_ms = self.last_ms.max(line.at_ms);
        let bytes = line.line.get(..MAX_LINE_BYTES).unwrap_or(&line.line);
        let view = UnitLogView {
            unit: self.unit.unit.number,
            part: line.part,
            at: rfc3339(Timestamp(line.at_ms)),
            stream: if line.stderr { "stderr" } else { "stdout" }.to_owned(),
            line: String::from_utf8_lossy(bytes).into_owned(),
        };
        let line = Line {
            at_ms: line.at_ms,
            view,
        };
        self.lines.send(line).await.ok()
    }

    /// Says in the stream itself that lines are missing.
    async fn complain(&mut self, detail: &str) -> Option<()> {
        let at_ms = self.server.clock.wall().as_millis();
        let view = UnitLogView {
            unit: self.unit.unit.number,
            part: String::new(),
            at: rfc3339(Timestamp(at_ms)),
            stream: "stderr".to_owned(),
            line: format!("[weft: lines of this unit are missing: {detail}]"),
        };
        self.lines.send(Line { at_ms, view }).await.ok()
    }
}
