//! `weft top`: nodes and jobs as they are now.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_api::{BreakerState, JobView, NodeView, rfc3339};
use weft_client::Client;
use weft_types::{NodeState, Timestamp};

use crate::args::{Format, Global, TopArgs};
use crate::exit::Failed;
use crate::output::Output;

/// The shortest time between two looks.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// How many of the newest jobs are looked through for some that have not ended.
const LOOKED_AT_JOBS: usize = 1_000;
/// Of another screen, so that what was on the terminal comes back at the end; the cursor hidden.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left; then what is right of a line, and what is below the last.
const HOME: &str = "\x1b[H";
const CLEAR_RIGHT: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// One look at the cluster.
#[derive(Debug, Serialize)]
struct Top {
    /// When, by the clock of this machine.
    at: String,
    nodes: Vec<NodeRow>,
    jobs: Vec<JobRow>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    id: String,
    state: NodeState,
    /// CPU in use, measured, in percent of what the node offers.
    load_percent: u64,
    memory_percent: u64,
    running: u32,
    /// Tasks that were handed to it and have not started.
    queued: u32,
    /// Attempts it ended a second since the look before.
    per_second: f64,
    breaker: BreakerState,
}

#[derive(Debug, Serialize)]
struct JobRow {
    #[serde(flatten)]
    job: JobView,
    /// Tasks that became final a second since the look before.
    per_second: f64,
    /// Seconds until all are, at this rate; absent when nothing moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_s: Option<u64>,
}

/// Counters of the look before, to make rates of.
struct Before {
    at: Instant,
    nodes: BTreeMap<String, u64>,
    jobs: BTreeMap<String, u64>,
}

/// Shows nodes and jobs: again and again on a terminal, else once.
pub async fn top(
    client: &Client,
    args: &TopArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let interval = args.interval.max(MIN_INTERVAL);
    let watched = !args.once
        && matches!(output.format, Format::Table | Format::Wide)
        && std::io::stdout().is_terminal();
    let (_, mut before) = look(client, args, global, None).await?;
    tokio::time::sleep(interval).await;
    if !watched {
        let (top, _) = look(client, args, global, Some(&before)).await?;
        return once(&top, output);
    }
    let screen = Screen::enter()?;
    let ended = tokio::signal::ctrl_c();
    tokio::pin!(ended);
    loop {
        let (top, now) = look(client, args, global, Some(&before)).await?;
        before = now;
        screen.draw(&text(&top))?;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = &mut ended => return Ok(()),
        }
    }
}

fn once(top: &Top, output: &Output) -> Result<(), Failed> {
    match output.format {
        Format::Json | Format::Yaml => output.value(top),
        Format::Name => top.nodes.iter().try_for_each(|node| output.line(&node.id)),
        Format::Table | Format::Wide => text(top).iter().try_for_each(|line| output.line(line)),
    }
}

async fn look(
    client: &Client,
    args: &TopArgs,
    global: &Global,
    before: Option<&Before>,
) -> Result<(Top, Before), Failed> {
    let (nodes, jobs) = tokio::try_join!(client.nodes(), client.jobs(LOOKED_AT_JOBS))?;
    let at = Instant::now();
    let seconds = before.map_or(0.0, |before| (at - before.at).as_secs_f64());
    let in_namespace = |job: &JobView| {
        let wanted = global.namespace.as_ref();
        wanted.is_none_or(|wanted| wanted.as_str() == job.namespace)
    };
    let jobs: Vec<JobView> = jobs.into_iter().filter(in_namespace).collect();
    let now = Before {
        at,
        nodes: nodes
            .iter()
            .map(|n| (n.id.clone(), n.usage.ended))
            .collect(),
        jobs: jobs
            .iter()
            .map(|job| (job.id.to_string(), job.tasks.finished()))
            .collect(),
    };
    let rate_of_node = |node: &NodeView| {
        let known = before.and_then(|before| before.nodes.get(&node.id));
        rate(known.copied(), node.usage.ended, seconds)
    };
    let rate_of_job = |job: &JobView| {
        let known = before.and_then(|before| before.jobs.get(&job.id.to_string()));
        rate(known.copied(), job.tasks.finished(), seconds)
    };
    // What goes on first, then what has just ended.
    let (open, ended): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| !job.state.is_final());
    let top = Top {
        at: rfc3339(wall()),
        nodes: nodes.iter().map(|n| node_row(n, rate_of_node(n))).collect(),
        jobs: open
            .into_iter()
            .chain(ended)
            .take(args.jobs)
            .map(|job| {
                let per_second = rate_of_job(&job);
                job_row(job, per_second)
            })
            .collect(),
    };
    Ok((top, now))
}

fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_millis() as u64))
}

/// How fast a counter grows; one that is new or began again has no rate yet.
fn rate(before: Option<u64>, now: u64, seconds: f64) -> f64 {
    match before.and_then(|before| now.checked_sub(before)) {
        Some(grown) if seconds > 0.0 => (grown as f64 / seconds * 10.0).round() / 10.0,
        _ => 0.0,
    }
}

fn percent(used: u64, of: u64) -> u64 {
    (used.saturating_mul(100)).checked_div(of).unwrap_or(0)
}

fn node_row(node: &NodeView, per_second: f64) -> NodeRow {
    let (usage, capacity) = (&node.usage, &node.capacity);
    NodeRow {
        id: node.id.clone(),
        state: node.state,
        load_percent: percent(usage.cpu_millicores, capacity.cpu.0),
        memory_percent: percent(usage.memory_bytes, capacity.memory.0),
        running: usage.running,
        queued: usage.held.saturating_sub(usage.running),
        per_second,
        breaker: node.breaker,
    }
}

fn job_row(job: JobView, per_second: f64) -> JobRow {
    let left = job.tasks.total - job.tasks.finished().min(job.tasks.total);
    let moves = per_second > 0.0 && !job.state.is_final();
    JobRow {
        per_second,
        left_s: moves.then(|| (left as f64 / per_second).ceil() as u64),
        job,
    }
}

/// The lines of the screen.
fn text(top: &Top) -> Vec<String> {
    let running: u32 = top.nodes.iter().map(|node| node.running).sum();
    let rate: f64 = top.nodes.iter().map(|node| node.per_second).sum();
    let mut lines = vec![
        format!(
            "{}  {} nodes, {running} tasks running, {rate:.1} attempts/s",
            top.at,
            top.nodes.len()
        ),
        String::new(),
        format!(
            "{:<24} {:<9} {:>5} {:>5} {:>8} {:>8} {:>9}  {}",
            "NODE", "STATE", "CPU", "MEM", "RUNNING", "QUEUED", "RATE", "BREAKER"
        ),
    ];
    lines.extend(top.nodes.iter().map(|node| {
        format!(
            "{:<24} {:<9} {:>4}% {:>4}% {:>8} {:>8} {:>7.1}/s  {}",
            node.id,
            node.state.to_string(),
            node.load_percent,
            node.memory_percent,
            node.running,
            node.queued,
            node.per_second,
            node.breaker.as_str()
        )
    }));
    lines.push(String::new());
    lines.push(format!(
        "{:<18} {:<20} {:<10} {:>17} {:>8} {:>8} {:>7} {:>9} {:>8}",
        "JOB", "NAME", "STATE", "DONE", "RUNNING", "QUEUED", "BAD", "RATE", "LEFT"
    ));
    lines.extend(top.jobs.iter().map(job_line));
    lines
}

fn job_line(row: &JobRow) -> String {
    let (job, tasks) = (&row.job, &row.job.tasks);
    let name: String = job.name.chars().take(20).collect();
    let left = row.left_s.map(|seconds| format!("{seconds} s"));
    format!(
        "{:<18} {name:<20} {:<10} {:>17} {:>8} {:>8} {:>7} {:>7.1}/s {:>8}",
        job.id.to_string(),
        job.state.to_string(),
        format!("{}/{}", tasks.finished(), tasks.total),
        tasks.running + tasks.assigned,
        tasks.queued,
        tasks.failed + tasks.dead,
        row.per_second,
        left.unwrap_or_default()
    )
}

/// The terminal while it shows the table; as it was when this goes.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Failed> {
        write(ENTER)?;
        Ok(Self)
    }

    /// Draws over what was there, so that nothing flickers; cut to the size of the terminal.
    fn draw(&self, lines: &[String]) -> Result<(), Failed> {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let of = |cells: u16| (cells > 0).then_some(usize::from(cells));
        let rows = size.and_then(|size| of(size.ws_row)).unwrap_or(24);
        let columns = size.and_then(|size| of(size.ws_col)).unwrap_or(80);
        let mut frame = String::from(HOME);
        for (number, line) in lines.iter().take(rows).enumerate() {
            if number > 0 {
                frame.push_str("\r\n");
            }
            frame.extend(line.chars().take(columns));
            frame.push_str(CLEAR_RIGHT);
        }
        frame.push_str(CLEAR_BELOW);
        write(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(LEAVE);
    }
}

fn write(text: &str) -> Result<(), Failed> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| Failed::internal(format!("standard output: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_began_again_has_no_rate() {
        assert_eq!(rate(Some(10), 30, 2.0), 10.0);
        assert_eq!(rate(Some(10), 3, 2.0), 0.0);
        assert_eq!(rate(None, 30, 2.0), 0.0);
        assert_eq!(rate(Some(10), 30, 0.0), 0.0);
    }

    #[test]
    fn a_node_without_capacity_has_no_load() {
        assert_eq!(percent(500, 0), 0);
        assert_eq!(percent(500, 2_000), 25);
    }
}
