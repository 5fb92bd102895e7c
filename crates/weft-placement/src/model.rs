//! What is placed, and where it may go.

use std::fmt;

use serde::{Deserialize, Serialize};
use weft_types::{Money, NodeCapacity, PlacementSpec, Resources, RuntimeKind};

/// A candidate's number, given by the caller: small and dense.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CandidateId(pub u32);

/// Why a candidate takes nothing new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClosedReason {
    /// Its heartbeat is late.
    Suspect,
    /// Its lease ended.
    Offline,
    /// Somebody closed it.
    Cordoned,
    /// Somebody is moving its work away.
    Draining,
    /// It failed too much of late.
    BreakerOpen,
    /// Nodes of its provider (or one's own) failed too much of late.
    SubstrateOpen,
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspect => "suspect",
            Self::Offline => "offline",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::BreakerOpen => "failing too much",
            Self::SubstrateOpen => "of a provider whose nodes are failing too much",
        })
    }
}

/// Whether a candidate takes new work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// It does.
    #[default]
    Open,
    /// It does not.
    Closed(ClosedReason),
}

/// A node or an offer, as the scheduler sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Candidate {
    /// Its name; breaks ties.
    pub key: Box<str>,
    /// What it has.
    pub capacity: NodeCapacity,
    /// Whether it takes new work.
    pub state: Availability,
    /// Who it is rented from; empty for an own machine.
    pub provider: Box<str>,
    /// Where it is.
    pub region: Box<str>,
    /// Services that have no unit there, beside which the request wants to be. Of one request.
    pub lacking: Vec<String>,
    /// Services that have a unit there, apart from which the request is to be. Of one request.
    pub unwanted: Vec<String>,
    /// Its price.
    pub price_per_hour: Money,
    /// Whether it may be taken away.
    pub interruptible: bool,
    /// How often that happens, in a million hours.
    pub interruptions_per_million_hours: u32,
    /// Round trip to it, in milliseconds.
    pub latency_ms: u32,
    /// How long work waits there before it starts, in milliseconds.
    pub wait_ms: u32,
    /// How long it takes to be ready, in milliseconds.
    pub start_ms: u32,
    /// How long the input takes to get there, in milliseconds.
    pub transfer_ms: u32,
}

impl Candidate {
    /// The failure domain of `spread: zone`.
    pub fn zone(&self) -> &str {
        self.capacity
            .labels
            .get("zone")
            .map_or(&self.region, String::as_str)
    }
}

/// What a unit of work needs; equal requests share a class.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Request {
    /// What it reserves.
    pub resources: Resources,
    /// How it is run.
    pub runtime: RuntimeKind,
    /// Where it may and should run.
    pub placement: PlacementSpec,
    /// How long it is expected to run, in milliseconds.
    pub expected_run_ms: u32,
}

impl Default for Request {
    /// A byte operation of a second that may run anywhere.
    fn default() -> Self {
        Self {
            resources: Resources::for_op(),
            runtime: RuntimeKind::Op,
            placement: PlacementSpec::default(),
            expected_run_ms: 1_000,
        }
    }
}
