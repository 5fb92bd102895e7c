//! Descendants that left their process group, found when they become the spawner's own children.
//!
//! The spawner is a subreaper, so that a process whose parent has ended becomes its child. A child that it did not
//! start itself is such an orphan. It belongs to the task named by the marker in its environment and dies with it;
//! killing it makes its own children orphans in turn, until none is left. An orphan without a marker dies with the
//! last task that was there when it was first seen, since any of them may have started it.

use crate::MARKER_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// Bytes of an environment searched for the marker, which comes first.
const ENVIRONMENT_BYTES: u64 = 4_096;
/// Bytes of the list of children read; a longer one is seen as it shrinks.
const CHILDREN_BYTES: usize = 64 << 10;

/// To whom an orphan belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Task(u64),
    /// Any task up to this one.
    UpTo(u64),
}

/// The orphans of unconfined tasks.
#[derive(Debug)]
pub(crate) struct Orphans {
    marker: String,
    children: Option<File>,
    known: BTreeMap<i32, Owner>,
    buffer: Box<[u8]>,
}

impl Orphans {
    /// For the spawner of the node `tag`.
    pub(crate) fn new(tag: &str) -> Self {
        let pid = std::process::id();
        // Absent when the kernel is built without CONFIG_PROC_CHILDREN; then the process table is read.
        let children = File::open(format!("/proc/self/task/{pid}/children")).ok();
        let marker = format!("{MARKER_VARIABLE}={tag}.{pid}.");
        Self {
            marker,
            children,
            known: BTreeMap::new(),
            buffer: vec![0; CHILDREN_BYTES].into(),
        }
    }

    /// The environment variable that marks the descendants of task `id`.
    pub(crate) fn marker(&self, id: u64) -> String {
        format!("{}{id}", self.marker)
    }

    /// Kills orphans whose owner has ended. `is_task` tells the children that were started on purpose, `lives` which
    /// tasks are there, `any_up_to` whether one up to an id is, and `newest` is the latest id.
    pub(crate) fn kill_ownerless(
        &mut self,
        is_task: impl Fn(i32) -> bool,
        lives: impl Fn(u64) -> bool,
        any_up_to: impl Fn(u64) -> bool,
        newest: u64,
    ) {
        let mut seen = BTreeMap::new();
        for pid in self.children().into_iter().filter(|pid| !is_task(*pid)) {
            let owner = self.known.get(&pid).copied();
            let owner = owner
                .unwrap_or_else(|| self.owner_of(pid).map_or(Owner::UpTo(newest), Owner::Task));
            let alive = match owner {
                Owner::Task(id) => lives(id),
                Owner::UpTo(last) => any_up_to(last),
            };
            if !alive {
                kill(pid);
            }
            seen.insert(pid, owner);
        }
        self.known = seen;
    }

    /// Kills every child; true when there is none.
    pub(crate) fn kill_all(&mut self) -> bool {
        let children = self.children();
        children.iter().copied().for_each(kill);
        children.is_empty()
    }

    /// Whether any orphan was seen.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn owner_of(&self, pid: i32) -> Option<u64> {
        let mut environment = Vec::new();
        File::open(format!("/proc/{pid}/environ"))
            .ok()?
            .take(ENVIRONMENT_BYTES)
            .read_to_end(&mut environment)
            .ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| {
            std::str::from_utf8(variable)
                .ok()?
                .strip_prefix(&self.marker)?
                .parse()
                .ok()
        })
    }

    fn children(&mut self) -> Vec<i32> {
        let Some(file) = &self.children else {
            return children_by_table();
        };
        let length = rustix::io::pread(file, &mut *self.buffer, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&self.buffer[..length]);
        // A number cut at the end of the buffer would be another process.
        let whole = text.rfind(' ').map_or("", |end| &text[..end]);
        whole
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }
}

/// Kills a child of ours. Its id cannot have passed to another process, since only we can reap it.
fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Children found by the parent's id in the process table.
fn children_by_table() -> Vec<i32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(own)).collect()
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
