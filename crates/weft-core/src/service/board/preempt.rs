//! Who makes room for work of greater priority.

use std::cmp::Reverse;

use weft_types::{NodeId, UnitId};

use crate::service::need::UnitRequest;
use crate::service::record::Intent;

use super::company::is_apart;
use super::place::Offered;
use super::{Board, Claim};

/// Room that can be made.
pub(in crate::service) struct Preemption {
    /// Where, and how much.
    pub(in crate::service) claim: Claim,
    /// Units that have to stop for it; none when enough of them stop already.
    pub(in crate::service) victims: Vec<UnitId>,
}

/// What a node would cost: victims, the greatest priority among them, its name.
type Cost = (usize, Option<i32>, NodeId);

impl Board {
    /// The node where a request that fits nowhere would fit at the least cost, if units of
    /// *strictly* lower priority stopped: the fewest, then those of the lowest priority. Where
    /// enough units stop anyhow nobody else has to. With `home` no other node is looked at.
    ///
    /// Only services make room, tasks of jobs end by themselves. The `min` of the workload that
    /// gives way does not protect it: that is what its lower priority says.
    pub(in crate::service) fn preemption(
        &self,
        request: &UnitRequest,
        home: Option<&NodeId>,
    ) -> Option<Preemption> {
        let nodes = self.nodes.keys();
        let nodes = nodes.filter(|node| home.is_none_or(|home| home == *node));
        let options = nodes.filter_map(|node| {
            let victims = self.victims(request, node)?;
            let greatest = victims.iter().filter_map(|id| self.units.get(id));
            let greatest = greatest.map(|unit| unit.priority).max();
            let cost: Cost = (victims.len(), greatest, node.clone());
            Some((cost, victims))
        });
        let ((_, _, node), victims) = options.min_by(|a, b| a.0.cmp(&b.0))?;
        Some(Preemption {
            claim: Claim {
                node,
                resources: request.need.resources.clone(),
                priority: request.priority,
            },
            victims,
        })
    }

    /// The units of a node that would have to stop; `None` when that does not help.
    fn victims(&self, request: &UnitRequest, node: &NodeId) -> Option<Vec<UnitId>> {
        let here = || self.units_on(node).filter(|(_, unit)| !unit.gone);
        let mut away: Vec<UnitId> = here()
            .filter(|(_, unit)| unit.intent == Intent::Stop)
            .filter(|(id, unit)| {
                id.workload == request.workload || !unit.keeps_place_against(request.priority)
            })
            .map(|(id, _)| id)
            .collect();
        if self.fits_without(request, node, &away) {
            return Some(Vec::new());
        }
        let mut lower: Vec<_> = here()
            .filter(|(id, unit)| {
                let is_lower = unit.priority < request.priority
                    || (planted!(EqualsPreempted) && unit.priority == request.priority);
                unit.intent == Intent::Run && is_lower && id.workload != request.workload
            })
            .collect();
        // Those first that must go anyway, then the lowest, of equals the youngest: it has the least
        // to lose.
        lower.sort_by_key(|(id, unit)| {
            let stays = !is_apart(request, unit);
            (stays, unit.priority, Reverse(unit.created_ms), *id)
        });
        let mut victims = Vec::new();
        for (id, _) in lower {
            away.push(id);
            if self.lacks_company_without(request, node, &away) {
                // It is wanted beside: it stays, others may do.
                away.pop();
                continue;
            }
            victims.push(id);
            if self.fits_without(request, node, &away) {
                if !planted!(VictimsNotSpared) {
                    self.spare(request, node, &mut away, &mut victims);
                }
                return Some(victims);
            }
        }
        None
    }

    /// Lets those go on without whom it fits as well, the greatest priority first.
    fn spare(
        &self,
        request: &UnitRequest,
        node: &NodeId,
        away: &mut Vec<UnitId>,
        victims: &mut Vec<UnitId>,
    ) {
        for id in victims.clone().into_iter().rev() {
            let fewer: Vec<UnitId> = away.iter().copied().filter(|other| *other != id).collect();
            if self.fits_without(request, node, &fewer) {
                *away = fewer;
                victims.retain(|other| *other != id);
            }
        }
    }

    fn fits_without(&self, request: &UnitRequest, node: &NodeId, away: &[UnitId]) -> bool {
        let offered = self.offer_without(request, node, away);
        offered.is_some_and(|offered| offered.room().refusal(&request.need).is_none())
    }

    fn lacks_company_without(&self, request: &UnitRequest, node: &NodeId, away: &[UnitId]) -> bool {
        let offered = self.offer_without(request, node, away);
        offered.is_none_or(|offered| offered.lacks_company())
    }

    fn offer_without(
        &self,
        request: &UnitRequest,
        node: &NodeId,
        away: &[UnitId],
    ) -> Option<Offered> {
        let mut request = request.clone();
        request.without.extend_from_slice(away);
        self.offer(&request, node)
    }
}
