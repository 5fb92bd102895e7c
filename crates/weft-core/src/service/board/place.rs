//! Where a unit would run best.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use weft_placement::{
    Availability, Candidate, CandidateId, Explanation, Free, Room, Verdict, consider,
};
use weft_types::{NodeId, Reason, Resources, UnitId};

use crate::service::need::UnitRequest;
use crate::service::record::Intent;

use super::{Board, BoundUnit, Node, Placed, Refused};

impl Board {
    /// Where a unit would run best; changes nothing.
    ///
    /// # Errors
    /// Why it cannot run anywhere now.
    pub fn place(&self, request: &UnitRequest) -> Result<Placed, Box<Refused>> {
        let rooms = self.rooms(request);
        let mut explanation = consider(&request.need, rooms.iter().map(Offered::room));
        let node = choose(request, &explanation).and_then(|chosen| {
            explanation.chosen = Some(chosen);
            rooms.get(chosen.0 as usize)
        });
        match node {
            Some(offered) => Ok(Placed {
                node: offered.node.clone(),
                explanation,
            }),
            None => Err(Box::new(refused(explanation))),
        }
    }

    /// What each node has for this request: units to think away count as gone, room that others
    /// wait for as taken.
    fn rooms(&self, request: &UnitRequest) -> Vec<Offered> {
        let neighbours = self.neighbours(request);
        let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
        for (node, count) in &neighbours {
            if let Some(known) = self.nodes.get(*node) {
                *zones.entry(known.candidate.zone()).or_default() += count;
            }
        }
        let nodes = self.nodes.iter().enumerate();
        let offered = nodes.filter_map(|(number, (node, known))| {
            let mut offered = self.offer(request, node)?;
            offered.id = CandidateId(u32::try_from(number).unwrap_or(u32::MAX));
            if !planted!(SpreadIgnored) {
                offered.on_node = neighbours.get(node).copied().unwrap_or(0);
            }
            offered.in_zone = zones.get(known.candidate.zone()).copied().unwrap_or(0);
            Some(offered)
        });
        offered.collect()
    }

    /// What one node has for this request, whoever is beside it.
    pub(super) fn offer(&self, request: &UnitRequest, node: &NodeId) -> Option<Offered> {
        let known = self.nodes.get(node)?;
        let mut candidate = known.as_offered(node);
        self.look_at_company(request, node, &mut candidate);
        Some(Offered {
            id: CandidateId(0),
            node: node.clone(),
            candidate,
            free: self.free_for(request, node, known),
            on_node: 0,
            in_zone: 0,
        })
    }

    /// Units of the same workload that stay, by node.
    fn neighbours<'a>(&'a self, request: &'a UnitRequest) -> BTreeMap<&'a NodeId, u32> {
        let mut counts = BTreeMap::new();
        let (first, last) = (
            UnitId {
                workload: request.workload,
                number: 0,
            },
            UnitId {
                workload: request.workload,
                number: u32::MAX,
            },
        );
        for (id, unit) in self.units.range(first..=last) {
            let stays = unit.intent == Intent::Run && !unit.gone;
            if stays && !request.without.contains(id) && !request.passing.contains(id) {
                *counts.entry(&unit.node).or_insert(0) += 1;
            }
        }
        for node in &request.planned {
            *counts.entry(node).or_insert(0) += 1;
        }
        counts
    }

    fn free_for(&self, request: &UnitRequest, node: &NodeId, known: &Node) -> Free {
        let mut free = self.count_free(node, known, Some(request));
        for _ in request.planned.iter().filter(|planned| *planned == node) {
            if !planted!(PlannedNotCounted) {
                take(&mut free, &request.need.resources);
            }
        }
        for (workload, claim) in &self.claims {
            let is_respected = *workload != request.workload && claim.priority >= request.priority;
            if is_respected && !planted!(ClaimsIgnored) && claim.node == *node {
                take(&mut free, &claim.resources);
            }
        }
        free
    }

    /// What is free, for this request if there is one: places that are only kept count for others
    /// of no greater priority, and only as long as nobody has taken them. Whether somebody has is
    /// counted with the units that the request itself replaces: these leave their places to it.
    pub(super) fn count_free(
        &self,
        node: &NodeId,
        known: &Node,
        request: Option<&UnitRequest>,
    ) -> Free {
        let is_away = |id: &UnitId| request.is_some_and(|by| by.without.contains(id));
        let is_own = |id: &UnitId| request.is_some_and(|by| by.workload == id.workload);
        let mut free = Free::all_of(&known.candidate.capacity);
        take(&mut free, &known.tasks);
        let mut for_kept = free.clone();
        for (id, unit) in self.units_on(node).filter(|(_, unit)| !unit.gone) {
            if !is_away(&id) {
                take(&mut free, &unit.resources);
            }
            if !is_away(&id) || is_own(&id) {
                take(&mut for_kept, &unit.resources);
            }
        }
        let priority = request.map_or(i32::MIN, |by| by.priority);
        for (id, unit) in self.kept_on(node, priority) {
            if for_kept.fits(&unit.resources) == 0 {
                continue;
            }
            take(&mut for_kept, &unit.resources);
            if !is_away(&id) {
                take(&mut free, &unit.resources);
            }
        }
        free
    }

    /// Units of which only the place is kept, in the order in which they are to keep it.
    fn kept_on(&self, node: &NodeId, priority: i32) -> Vec<(UnitId, &BoundUnit)> {
        let here = self.units_on(node);
        let mut kept: Vec<_> = here
            .filter(|(_, unit)| unit.gone && unit.keeps_place_against(priority))
            .collect();
        kept.sort_by_key(|(id, unit)| (Reverse(unit.priority), Reverse(unit.stopping_ms), *id));
        kept
    }

    pub(super) fn units_on(&self, node: &NodeId) -> impl Iterator<Item = (UnitId, &BoundUnit)> {
        let ids = self.by_node.get(node).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.units.get(id)?)))
    }
}

impl Node {
    /// The candidate under the node's name, closed when its health says so.
    fn as_offered(&self, node: &NodeId) -> Candidate {
        let mut candidate = self.candidate.clone();
        candidate.key = node.as_str().into();
        if let Some(why) = self.health.closed() {
            candidate.state = Availability::Closed(why);
        }
        candidate
    }
}

pub(super) struct Offered {
    id: CandidateId,
    node: NodeId,
    candidate: Candidate,
    free: Free,
    on_node: u32,
    in_zone: u32,
}

impl Offered {
    /// Whether a service is not there that has to be.
    pub(super) fn lacks_company(&self) -> bool {
        !self.candidate.lacking.is_empty()
    }

    pub(super) fn room(&self) -> Room<'_> {
        Room {
            id: self.id,
            candidate: &self.candidate,
            free: &self.free,
            on_node: self.on_node,
            in_zone: self.in_zone,
        }
    }
}

/// The preferred node if it will do, else the best that is not to be avoided, else the best.
fn choose(request: &UnitRequest, explanation: &Explanation) -> Option<CandidateId> {
    let scored = || {
        explanation
            .considered
            .iter()
            .filter(|candidate| matches!(candidate.verdict, Verdict::Scored(_)))
    };
    let preferred = request
        .prefer
        .as_ref()
        .and_then(|node| scored().find(|candidate| candidate.key == node.as_str()));
    let is_avoided = |key: &str| request.avoid.iter().any(|node| node.as_str() == key);
    preferred
        .or_else(|| scored().find(|candidate| !is_avoided(&candidate.key)))
        .or_else(|| scored().next())
        .map(|candidate| candidate.id)
}

fn refused(explanation: Explanation) -> Refused {
    let is_short = explanation.refused.keys().any(|kind| kind.is_amount());
    let reason = if is_short {
        Reason::InsufficientResources
    } else {
        Reason::NoCandidate
    };
    Refused {
        reason,
        detail: explanation.to_string(),
        nearest_change: explanation.nearest.clone(),
        explanation,
    }
}

/// Takes resources out of what is free; what is not there cannot be taken.
fn take(free: &mut Free, need: &Resources) {
    free.cpu.0 = free.cpu.0.saturating_sub(need.cpu.0);
    free.memory.0 = free.memory.0.saturating_sub(need.memory.0);
    free.disk.0 = free.disk.0.saturating_sub(need.disk.0);
    let Some(request) = &need.gpu else {
        return;
    };
    // Of one model where possible, as they were given; else of several, so that too few are
    // believed to be free rather than too many.
    let mut accepted: Vec<&mut (String, u32)> = free
        .gpus
        .iter_mut()
        .filter(|(model, _)| request.accepts(model))
        .collect();
    if let Some(one) = accepted
        .iter_mut()
        .find(|(_, count)| *count >= request.count)
    {
        one.1 -= request.count;
        return;
    }
    let mut left = request.count;
    for (_, count) in accepted {
        let here = left.min(*count);
        *count -= here;
        left -= here;
    }
}
