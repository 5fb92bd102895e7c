//! Why a job's tasks wait.

use std::collections::BTreeSet;
use std::fmt;

use weft_placement::{ClosedReason, Explanation, Refusal, Verdict};
use weft_types::{JobId, NodeId, Reason};

use super::Machine;
use super::job::Job;
use super::node::candidate;
use super::table::Phase;

/// The cause of waiting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// The server has restarted, and these nodes may still run parts of it.
    Reattaching {
        /// Nodes that have not come back yet.
        missing: Vec<NodeId>,
    },
    /// Other jobs must succeed first.
    After {
        /// How many.
        jobs: u32,
    },
    /// Every waiting task waits for other tasks of the job.
    Tasks,
    /// Every waiting task has failed and waits for its next attempt.
    Backoff,
    /// No node would do, however free it were.
    NoCandidate,
    /// Nodes would do, but they are busy.
    Busy {
        /// How many would do.
        nodes: u32,
    },
    /// Nodes would do, but all of them belong to substrates that fail too much.
    Failing {
        /// Which: names of providers, or `own`.
        substrates: Vec<String>,
    },
    /// It is next, or others are before it.
    Turn,
}

/// A job that waits, and why.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Which job.
    pub job: JobId,
    /// Tasks that wait for a node.
    pub queued: u32,
    /// Tasks that wait for their next attempt.
    pub delayed: u32,
    /// Tasks that wait for other tasks of the job.
    pub blocked: u32,
    /// The cause.
    pub why: Why,
    /// Every candidate with its refusal or score, and the nearest change that would help; `None`
    /// when placement is not the cause.
    pub explanation: Option<Explanation>,
}

impl Waiting {
    /// The reason of the contract; `None` when nothing is in the way but time.
    pub fn reason(&self) -> Option<Reason> {
        match self.why {
            // A node that is only too small, or too full, is one that lacks resources.
            Why::NoCandidate if self.lacks_amounts() => Some(Reason::InsufficientResources),
            Why::NoCandidate => Some(Reason::NoCandidate),
            Why::Busy { .. } => Some(Reason::InsufficientResources),
            Why::Reattaching { .. }
            | Why::After { .. }
            | Why::Tasks
            | Why::Backoff
            | Why::Failing { .. }
            | Why::Turn => None,
        }
    }

    fn lacks_amounts(&self) -> bool {
        let refused = self
            .explanation
            .as_ref()
            .map(|explanation| &explanation.refused);
        refused.is_some_and(|refused| refused.keys().any(|kind| kind.is_amount()))
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.queued + self.delayed + self.blocked;
        write!(
            f,
            "{waiting} {} ",
            if waiting == 1 {
                "task waits:"
            } else {
                "tasks wait:"
            }
        )?;
        match &self.why {
            Why::Reattaching { missing } => {
                write!(
                    f,
                    "the server restarted, and {} may still run some of them",
                    names(missing)
                )
            }
            Why::After { jobs: 1 } => f.write_str("another job must succeed first"),
            Why::After { jobs } => write!(f, "{jobs} other jobs must succeed first"),
            Why::Tasks => f.write_str("other tasks of the job must complete first"),
            Why::Backoff => f.write_str("each failed and waits for its next attempt"),
            Why::NoCandidate => match &self.explanation {
                Some(explanation) => explanation.fmt(f),
                None => f.write_str("no node satisfies the requirements"),
            },
            Why::Busy { nodes: 1 } => f.write_str("the one node that would do is busy"),
            Why::Busy { nodes } => write!(f, "the {nodes} nodes that would do are busy"),
            Why::Failing { substrates } => write!(
                f,
                "too much fails on the nodes that would do, those of: {}; they are tried again soon",
                substrates.join(", ")
            ),
            Why::Turn => f.write_str("their turn has not come yet"),
        }
    }
}

/// How many nodes a sentence names before it counts the rest.
const MAX_NAMED_NODES: usize = 3;

fn names(nodes: &[NodeId]) -> String {
    let named: Vec<&str> = nodes
        .iter()
        .take(MAX_NAMED_NODES)
        .map(NodeId::as_str)
        .collect();
    match nodes.len().saturating_sub(MAX_NAMED_NODES) {
        0 => named.join(", "),
        rest => format!("{} and {rest} more", named.join(", ")),
    }
}

impl Machine {
    /// Why tasks of a job wait; `None` when none does, or the job is unknown.
    pub fn waiting(&self, id: JobId) -> Option<Waiting> {
        let job = self.jobs.get(id)?;
        let (queued, delayed) = (job.count(Phase::Queued), job.count(Phase::Delayed));
        let blocked = job.count(Phase::Blocked);
        if queued + delayed + blocked == 0 {
            return None;
        }
        let (why, explanation) = self.why(job);
        Some(Waiting {
            job: id,
            queued,
            delayed,
            blocked,
            why,
            explanation,
        })
    }

    fn why(&self, job: &Job) -> (Why, Option<Explanation>) {
        if job.on_hold {
            let missing = self
                .reattachment
                .iter()
                .flat_map(|waiting| waiting.missing());
            let missing = missing.cloned().collect();
            return (Why::Reattaching { missing }, None);
        }
        if job.blocked_on > 0 {
            let jobs = job.blocked_on;
            return (Why::After { jobs }, None);
        }
        if job.count(Phase::Queued) == 0 {
            let waits_for_time = job.count(Phase::Delayed) > 0;
            let why = if waits_for_time {
                Why::Backoff
            } else {
                Why::Tasks
            };
            return (why, None);
        }
        let explanation = self.index.explain(job.class);
        let would_do = self
            .nodes
            .iter()
            .filter(|(slot, _)| self.index.slots(candidate(*slot), job.class) > 0)
            .count();
        let why = match (&explanation.chosen, would_do) {
            (Some(_), _) => Why::Turn,
            (None, 0) => self.failing(&explanation).unwrap_or(Why::NoCandidate),
            (None, nodes) => Why::Busy {
                nodes: nodes as u32,
            },
        };
        (why, Some(explanation))
    }

    /// When nodes are refused for nothing but their substrates.
    fn failing(&self, explanation: &Explanation) -> Option<Why> {
        let closed = Verdict::Refused(Refusal::Closed {
            why: ClosedReason::SubstrateOpen,
        });
        let refused = explanation.considered.iter();
        let substrates: BTreeSet<String> = refused
            .filter(|considered| considered.verdict == closed)
            .filter_map(|considered| self.nodes.get(u16::try_from(considered.id.0).ok()?))
            .map(|node| self.substrates.name(node.substrate).to_owned())
            .collect();
        (!substrates.is_empty()).then(|| Why::Failing {
            substrates: substrates.into_iter().collect(),
        })
    }
}
