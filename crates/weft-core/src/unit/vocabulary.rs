//! What the machine of a unit is told and what it says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_types::{HealthCheck, NodeId, Reason, RestartPolicy, UnitId};

use crate::Monotonic;
use crate::service::record::UnitStatus;

/// Both clocks: deadlines are counted by one, people are told the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Never jumps.
    pub mono: Monotonic,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// What never changes about a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Which.
    pub unit: UnitId,
    /// On which node.
    pub node: NodeId,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How it is checked; the engine's own word counts when absent.
    pub health: Option<HealthTimes>,
    /// How long it may take to end after it was asked to, in milliseconds.
    pub grace_ms: u64,
    /// Whether it must not run without a lease.
    pub exclusive: bool,
    /// Whether it boots, as a machine does: it is ready only once its runtime says that it is well.
    pub boots: bool,
    /// How much an instance may have written to its own layer, in bytes; 0 when nothing limits it.
    pub max_disk_bytes: u64,
}

/// The spans of a health check, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthTimes {
    /// Between two checks.
    pub interval_ms: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// After the start, failures do not count for this long.
    pub start_period_ms: u64,
}

impl From<&HealthCheck> for HealthTimes {
    fn from(check: &HealthCheck) -> Self {
        let millis =
            |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            interval_ms: millis(check.interval).max(1),
            retries: check.retries.max(1),
            start_period_ms: millis(check.start_period),
        }
    }
}

/// What is wanted of a unit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Order {
    /// Whether it is to run; otherwise everything of it goes.
    pub run: bool,
    /// Why it is to end, for people.
    pub why: String,
    /// Whether another unit takes its volumes over.
    pub keep_volumes: bool,
}

/// The node's right to run exclusive units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    /// It has it.
    Held,
    /// It has lost it.
    Lost {
        /// How long instances may take to end before they are killed, in milliseconds.
        grace_ms: u64,
    },
}

/// What survives a restart of the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Ends and failed attempts in a row.
    pub failures: u32,
    /// How it was.
    pub status: UnitStatus,
}

/// Why an action failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// `prepare`, `start`, `run`, `health`, `stop` or `remove`.
    pub step: &'static str,
    /// As one of the reasons.
    pub reason: Reason,
    /// What the runtime said.
    pub detail: String,
    /// The last lines of output that explain it.
    pub evidence: Vec<String>,
}

impl Failure {
    /// A failure without evidence.
    pub fn new(step: &'static str, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            step,
            reason,
            detail: detail.into(),
            evidence: Vec::new(),
        }
    }
}

/// The state of an instance, as its runtime sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// There is none.
    Absent,
    /// It was made and does not run yet.
    Created,
    /// It runs.
    Running {
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// Somebody made it stand still.
    Paused,
    /// It ended.
    Exited {
        /// Its exit code, when it ended by itself.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Why, when the runtime knows more than the code says.
        reason: Option<Reason>,
        /// What the runtime says of it.
        detail: String,
    },
}

/// How an instance is, as its runtime sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Its state.
    pub phase: Phase,
    /// What the engine's own health check says.
    pub healthy: Option<bool>,
    /// Its address.
    pub address: Option<String>,
    /// Digest of the image, commit of the repository.
    pub source: Option<String>,
    /// States of its parts.
    pub parts: BTreeMap<String, String>,
    /// The last lines of output, when it ended.
    pub evidence: Vec<String>,
}

impl Observation {
    /// An instance in this state, of which nothing else is known.
    pub fn of(phase: Phase) -> Self {
        Self {
            phase,
            healthy: None,
            address: None,
            source: None,
            parts: BTreeMap::new(),
            evidence: Vec::new(),
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// What is wanted; the first input.
    Ordered(Order),
    /// The node's lease is held, or was lost.
    Lease(Lease),
    /// An action other than [`Action::Observe`] has ended.
    Did {
        /// Which call.
        call: u64,
        /// How.
        result: Result<(), Failure>,
    },
    /// An [`Action::Observe`] has ended.
    Seen {
        /// Which call.
        call: u64,
        /// What was seen; an error says nothing about the instance.
        result: Result<Observation, Failure>,
    },
    /// A call, whatever it was for, came to no end of its own.
    Broke {
        /// Which call.
        call: u64,
        /// Why.
        failure: Failure,
    },
    /// A health check has ended.
    Probed {
        /// Which call.
        call: u64,
        /// How, with what was wrong.
        result: Result<(), String>,
    },
    /// It cannot be let in yet.
    Waits {
        /// Why.
        reason: Reason,
        /// What for.
        detail: String,
    },
    /// What is being done while it is prepared.
    Progress(String),
    /// The instance was measured.
    Measured {
        /// When that began.
        since: Monotonic,
        /// What it has written to its own layer, as far as is known, in bytes.
        disk_bytes: u64,
    },
    /// The instance may have changed.
    Look,
    /// Time has passed.
    Tick,
}

/// A call to the runtime, the proxy or the node's table of resources.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// See how the instance is; answered with [`Input::Seen`].
    Observe,
    /// Reserve its resources and have its secrets at hand.
    Admit,
    /// Fetch what it is made of.
    Prepare,
    /// Make the instance run.
    Start,
    /// Send it no new requests, wait for those it has.
    Drain,
    /// End the instance.
    Stop {
        /// It is killed when it has not ended after this many milliseconds.
        grace_ms: u64,
    },
    /// Remove everything that was made for it.
    Remove {
        /// But for its volumes.
        keep_volumes: bool,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Do this; whatever call was under way is dropped.
    Call {
        /// To be named in the answer.
        call: u64,
        /// What.
        action: Action,
    },
    /// Check its health; whatever check was under way is dropped.
    Probe {
        /// To be named in the answer.
        call: u64,
    },
    /// Its status has changed.
    Report,
}
