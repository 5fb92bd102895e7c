//! What others may ask the dispatcher.

use std::collections::BTreeMap;

use bytes::Bytes;
use weft_core::dispatch::Machine;
use weft_types::{JobId, NodeId, Resources, TaskCounts};

use super::job::JobStats;
use super::reserved::difference;
use super::shell::Shell;
use super::work::Work;

/// Figures of the dispatcher at one moment.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Jobs in memory.
    pub jobs: u64,
    /// Tasks in memory.
    pub tasks: u64,
    /// Nodes with a session.
    pub sessions: u64,
    /// How many tasks of which namespace are in which state.
    pub counts: BTreeMap<String, TaskCounts>,
    /// Dead letters of each namespace that has some.
    pub dead: BTreeMap<String, u64>,
}

impl Shell {
    /// A job's record and counts.
    pub fn stats(&self, id: JobId) -> Option<JobStats> {
        let record = self.jobs.get(&id)?.clone();
        let state = self.machine.job_state(id)?;
        let counts = self.machine.counts(id)?;
        Some(JobStats {
            id,
            state,
            counts,
            record,
        })
    }

    /// The job that was submitted with an idempotency key.
    pub fn job_of_key(&self, key: &str) -> Option<JobId> {
        self.keys.get(key).copied()
    }

    /// The encoded `JobSpec` of a job.
    pub fn spec(&self, id: JobId) -> Option<Bytes> {
        self.jobs.get(&id).map(|record| record.spec.clone())
    }

    /// The machine, to be asked.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Ids of the jobs before `before`, newest first.
    pub fn newest_jobs(&self, before: JobId, limit: usize) -> Vec<JobId> {
        let mut ids: Vec<JobId> = self
            .jobs
            .keys()
            .copied()
            .filter(|id| *id < before)
            .collect();
        let count = limit.min(ids.len());
        if count > 0 && count < ids.len() {
            ids.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        }
        ids.truncate(count);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids
    }

    /// Asks the node that has a task for its output, from these offsets on. Whether a node has it.
    pub fn follow(&self, job: JobId, task: u32, stdout_offset: u64, stderr_offset: u64) -> bool {
        let node = self.machine.task(job, task).and_then(|(_, _, node)| node);
        let Some(session) = node.and_then(|node| self.sessions.get(node)) else {
            return false;
        };
        session
            .outbound
            .try_send(Work::Follow {
                job,
                task,
                stdout_offset,
                stderr_offset,
            })
            .is_ok()
    }

    /// Figures that are read when somebody asks for metrics.
    pub fn gauges(&self) -> Gauges {
        let (jobs, tasks) = self.machine.size();
        let counts = self.machine.counts_by_namespace();
        let mut dead: BTreeMap<String, u64> = BTreeMap::new();
        for (job, count) in self.dead.counts() {
            if let Some(record) = self.jobs.get(&job) {
                *dead.entry(record.namespace.to_string()).or_default() += count;
            }
        }
        Gauges {
            jobs,
            tasks,
            sessions: self.sessions.len() as u64,
            counts: counts
                .into_iter()
                .map(|(namespace, counts)| (namespace.to_string(), counts))
                .collect(),
            dead,
        }
    }

    /// What tasks reserve of each node that has had a session.
    pub fn reserved_by_tasks(&self) -> BTreeMap<NodeId, Resources> {
        let nodes = self.reserved.nodes();
        let reserved = nodes.filter_map(|node| {
            let (candidate, free) = self.machine.node_room(node)?;
            Some((node.clone(), difference(&candidate.capacity, free)))
        });
        reserved.collect()
    }

    /// The nodes that have a session.
    pub fn connected(&self) -> usize {
        self.sessions.len()
    }
}
