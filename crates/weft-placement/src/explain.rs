//! Every candidate with the filter that refused it, or the terms of its score.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::filter::{Refusal, RefusalKind, refuse};
use crate::index::Slot;
use crate::nearest::{NearestChange, nearest};
use crate::score::{Neighbours, Score, score};
use crate::{CandidateId, Request};

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

pub(crate) fn explain<'a>(
    request: &Request,
    slots: impl Iterator<Item = (CandidateId, &'a Slot, Neighbours)> + Clone,
) -> Explanation {
    let mut considered: Vec<Considered> = slots
        .clone()
        .map(|(id, slot, neighbours)| {
            let verdict = match refuse(request, &slot.candidate, &slot.free) {
                Some(refusal) => Verdict::Refused(refusal),
                None => Verdict::Scored(score(request, &slot.candidate, &slot.free, neighbours)),
            };
            Considered {
                id,
                key: slot.candidate.key.to_string(),
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
        nearest(request, slots.map(|(_, slot, _)| slot))
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
