//! The nearest change that would make a waiting unit run now.

use std::fmt;

use serde::{Deserialize, Serialize};
use weft_types::{Bytes, Millicores, Resources};

use crate::filter::{Refusal, short, too_small, unsuitable};
use crate::free::Free;
use crate::{Availability, ClosedReason, Request, Room};

/// One change, of the request or of a candidate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum NearestChange {
    /// Ask for no more than this.
    Shrink {
        /// What would fit.
        resources: Resources,
        /// What of it differs, as in `memory ≤ 4Gi`.
        what: String,
        /// Where it would run.
        node: String,
    },
    /// Do not ask for a filter that refuses.
    Drop {
        /// Which, as in `label zone=a`.
        what: String,
        /// Where it would run.
        node: String,
    },
    /// Open a node.
    Open {
        /// Which.
        node: String,
        /// Why it is closed.
        why: ClosedReason,
    },
    /// Wait: a node has enough when its running work ends.
    Wait {
        /// Which.
        node: String,
    },
    /// Add a node.
    AddNode,
}

impl fmt::Display for NearestChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shrink { what, node, .. } => {
                write!(f, "it would start now on {node} with {what}")
            }
            Self::Drop { what, node } => write!(f, "it would start now on {node} without {what}"),
            Self::Open {
                node,
                why: ClosedReason::Cordoned | ClosedReason::Draining,
            } => {
                write!(f, "open {node}: `weft node uncordon {node}`")
            }
            Self::Open { node, why } => write!(
                f,
                "{node} would take it, but is {why}: look at it with `weft node show {node}`"
            ),
            Self::Wait { node } => write!(f, "it starts on {node} when running work ends"),
            Self::AddNode => f.write_str("add a node: `weft token create` prints how"),
        }
    }
}

/// The change with the least effort over all candidates: waiting, then opening, then asking for
/// less (the least part given up), then dropping a filter.
pub(crate) fn nearest<'a>(
    request: &Request,
    rooms: impl Iterator<Item = Room<'a>>,
) -> Option<NearestChange> {
    let changes = rooms.filter_map(|room| {
        change_for(request, room).map(|(effort, change)| (effort, &room.candidate.key, change))
    });
    let best = changes.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    Some(best.map_or(NearestChange::AddNode, |(_, _, change)| change))
}

/// Effort of each kind; within shrinking, the share that is given up in thousandths is added.
const WAIT: u64 = 0;
const OPEN: u64 = 10_000;
const SHRINK: u64 = 20_000;
const DROP: u64 = 30_000;

fn change_for(request: &Request, room: Room<'_>) -> Option<(u64, NearestChange)> {
    let candidate = room.candidate;
    let node = candidate.key.to_string();
    let is_small = too_small(request, candidate, room.free).is_some();
    let is_open = candidate.state == Availability::Open;
    match (unsuitable(request, candidate), candidate.state) {
        (Some(refusal), Availability::Open) if !is_small => {
            let what = droppable(request, &refusal)?;
            Some((DROP, NearestChange::Drop { what, node }))
        }
        (Some(_), _) => None,
        (None, Availability::Closed(why)) if !is_small => {
            Some((OPEN, NearestChange::Open { node, why }))
        }
        (None, _)
            if is_open
                && too_small(request, candidate, &Free::all_of(&candidate.capacity)).is_none() =>
        {
            Some((WAIT, NearestChange::Wait { node }))
        }
        (None, _) if is_open => shrink(request, room, node),
        _ => None,
    }
}

/// The wish behind a refusal, when dropping this one alone is enough.
fn droppable(request: &Request, refusal: &Refusal) -> Option<String> {
    // Everything else was looked at before.
    if let Refusal::Company { lacking, unwanted } = refusal {
        let with = lacking
            .iter()
            .map(|name| format!("the wish to be with {name}"));
        let apart = unwanted
            .iter()
            .map(|name| format!("the wish to be apart from {name}"));
        return with
            .chain(apart)
            .next()
            .filter(|_| lacking.len() + unwanted.len() == 1);
    }
    let wanted = &request.placement;
    let single = [
        !wanted.labels.is_empty(),
        !wanted.capabilities.is_empty(),
        !wanted.regions.is_empty(),
        !wanted.providers.is_empty(),
    ];
    if single.iter().filter(|given| **given).count() > 1 {
        return None;
    }
    match refusal {
        Refusal::Labels { missing } if missing.len() == 1 => {
            Some(format!("the label {}", missing[0]))
        }
        Refusal::Capabilities { missing } if missing.len() == 1 => {
            Some(format!("the capability {}", missing[0]))
        }
        Refusal::Region { .. } => Some("the choice of regions".to_owned()),
        Refusal::Provider { .. } => Some("the choice of providers".to_owned()),
        Refusal::Interruptible { .. } => Some("the wish about interruptions".to_owned()),
        _ => None,
    }
}

/// What the candidate has free, no more than was asked for; amounts that no work can do with are
/// no suggestion.
fn shrink(request: &Request, room: Room<'_>, node: String) -> Option<(u64, NearestChange)> {
    let need = &request.resources;
    let free = room.free;
    let resources = Resources {
        cpu: Millicores(need.cpu.0.min(free.cpu.0)),
        memory: Bytes(need.memory.0.min(short(free.memory).0)),
        disk: Bytes(need.disk.0.min(short(free.disk).0)),
        gpu: need.gpu.clone(),
    };
    let given_up = [
        share(need.cpu.0, resources.cpu.0)?,
        share(need.memory.0, resources.memory.0)?,
        share(need.disk.0, resources.disk.0)?,
    ];
    let changed = Request {
        resources: resources.clone(),
        ..request.clone()
    };
    if too_small(&changed, room.candidate, free).is_some() {
        return None;
    }
    let mut what = Vec::new();
    if resources.cpu != need.cpu {
        what.push(format!("cpu ≤ {}", resources.cpu));
    }
    if resources.memory != need.memory {
        what.push(format!("memory ≤ {}", resources.memory));
    }
    if resources.disk != need.disk {
        what.push(format!("disk ≤ {}", resources.disk));
    }
    let effort = SHRINK + given_up.iter().sum::<u64>();
    Some((
        effort,
        NearestChange::Shrink {
            resources,
            what: what.join(" and "),
            node,
        },
    ))
}

/// The share that is given up, in thousandths; `None` when nothing is left.
fn share(need: u64, left: u64) -> Option<u64> {
    if need == left {
        return Some(0);
    }
    (left > 0)
        .then(|| u64::try_from(u128::from(need - left) * 1_000 / u128::from(need)).unwrap_or(1_000))
}
