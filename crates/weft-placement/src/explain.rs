//! Every candidate with the filter that refused it, or the terms of its score.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::filter::{Refusal, RefusalKind, refuse};
use crate::free::Free;
use crate::nearest::{NearestChange, nearest};
use crate::score::{Neighbours, Score, score};
use crate::{Candidate, CandidateId, Request};

/// What was thought of one candidate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A filter refused it.
    Refused(Refusal),
    /// It may be used, for this.
    Scored(Score),
}

/// One candidate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Considered {
    /// Its number.
    pub id: CandidateId,
    /// Its key.
    pub key: String,
    /// What was thought of it.
    pub verdict: Verdict,
}

/// A decision with everything it rests on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The best candidate, if there is one.
    pub chosen: Option<CandidateId>,
    /// Every candidate, those that may be used first, the best of them first.
    pub considered: Vec<Considered>,
    /// How many candidates were refused for what.
    pub refused: BTreeMap<RefusalKind, u32>,
    /// The nearest change that would make a unit run now, when nothing was chosen.
    pub nearest: Option<NearestChange>,
}

/// A candidate with what the caller knows to be free of it and to run beside the unit.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// The candidate's number.
    pub id: CandidateId,
    /// The candidate.
    pub candidate: &'a Candidate,
    /// What of it is not reserved.
    pub free: &'a Free,
    /// Units on it that count as neighbours.
    pub on_node: u32,
    /// Units in its zone that count as neighbours.
    pub in_zone: u32,
}

impl Room<'_> {
    /// The first filter that refuses it; `None` when one more unit may run there.
    pub fn refusal(&self, request: &Request) -> Option<Refusal> {
        refuse(request, self.candidate, self.free)
    }
}

/// How a unit would be placed in one of these rooms: a full scan, for callers that account for
/// what is free themselves.
pub fn consider<'a>(
    request: &Request,
    rooms: impl Iterator<Item = Room<'a>> + Clone,
) -> Explanation {
    let mut considered: Vec<Considered> = rooms
        .clone()
        .map(|room| {
            let verdict = match room.refusal(request) {
                Some(refusal) => Verdict::Refused(refusal),
                None => {
                    let neighbours = Neighbours {
                        on_node: room.on_node,
                        in_zone: room.in_zone,
                    };
                    Verdict::Scored(score(request, room.candidate, room.free, neighbours))
                }
            };
            Considered {
                id: room.id,
                key: room.candidate.key.to_string(),
                verdict,
            }
        })
        .collect();
    considered.sort_by(|a, b| rank(a).cmp(&rank(b)));
    let mut refused = BTreeMap::new();
    for candidate in &considered {
        if let Verdict::Refused(refusal) = &candidate.verdict {
            *refused.entry(refusal.kind()).or_insert(0) += 1;
        }
    }
    let chosen = considered
        .first()
        .filter(|first| matches!(first.verdict, Verdict::Scored(_)))
        .map(|first| first.id);
    let nearest = if chosen.is_some() {
        None
    } else {
        nearest(request, rooms)
    };
    Explanation {
        chosen,
        considered,
        refused,
        nearest,
    }
}

/// Scored before refused, by score, then by key and number.
fn rank(considered: &Considered) -> (bool, i64, &str, CandidateId) {
    match &considered.verdict {
        Verdict::Scored(score) => (false, score.total, &considered.key, considered.id),
        Verdict::Refused(_) => (true, 0, &considered.key, considered.id),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.considered.len();
        if let Some(chosen) = self.chosen {
            let key = self
                .considered
                .iter()
                .find(|candidate| candidate.id == chosen)
                .map_or("", |c| &c.key);
            return write!(f, "{key} is the best of {total} candidates");
        }
        if total == 0 {
            return f.write_str("there are no nodes");
        }
        let counts: Vec<String> = self
            .refused
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.words()))
            .collect();
        write!(f, "none of {total} nodes: {}", counts.join(", "))
    }
}
