//! Services that are to be on the same node, or are not.

use weft_placement::Candidate;
use weft_types::{NodeId, WorkloadName};

use crate::service::need::UnitRequest;
use crate::service::record::Intent;

use super::{Board, BoundUnit};

fn is_of(unit: &BoundUnit, name: &WorkloadName) -> bool {
    unit.name.as_ref() == Some(name)
}

/// Whether a unit of another service must not be beside what is asked for: one of them says so.
pub(super) fn is_apart(request: &UnitRequest, unit: &BoundUnit) -> bool {
    let own = request.name.as_ref();
    let says_so = own.is_some_and(|own| unit.apart.contains(own));
    let mut apart = request.need.placement.apart.iter();
    let is_either = (says_so && !planted!(ApartOneWay)) || apart.any(|name| is_of(unit, name));
    is_either && unit.namespace == request.namespace
}

impl Board {
    /// Notes which services a request misses on a node, and which it must not be beside: those it
    /// names, and those that name it. What is on its way out is no company to count on, but is in
    /// the way until nothing of it is left.
    pub(super) fn look_at_company(
        &self,
        request: &UnitRequest,
        node: &NodeId,
        candidate: &mut Candidate,
    ) {
        let wanted = &request.need.placement;
        let others = || {
            let here = self.units_on(node).filter(|(id, unit)| {
                let is_there = !unit.gone && !request.without.contains(id);
                is_there && id.workload != request.workload && unit.namespace == request.namespace
            });
            here.map(|(_, unit)| unit)
        };
        let is_with = |name: &&WorkloadName| {
            let stays = |unit: &BoundUnit| unit.intent == Intent::Run || planted!(LeavingIsCompany);
            others().any(|unit| stays(unit) && is_of(unit, name))
        };
        let lacking = wanted.with.iter().filter(|name| !is_with(name));
        candidate.lacking = lacking.map(ToString::to_string).collect();
        let own = request.name.as_ref();
        let unwanted = others()
            .filter(|unit| is_apart(request, unit))
            .filter_map(|unit| unit.name.as_ref());
        candidate.unwanted = unwanted.map(ToString::to_string).collect();
        let is_alone = own.is_some_and(|own| wanted.apart.contains(own));
        if is_alone && !planted!(OwnUnitIgnored) && self.has_own(request, node) {
            candidate.unwanted.extend(own.map(ToString::to_string));
        }
        candidate.unwanted.sort();
        candidate.unwanted.dedup();
    }

    /// Whether anything is left there of another unit of the same workload, or one will come.
    fn has_own(&self, request: &UnitRequest, node: &NodeId) -> bool {
        let mut own = self
            .units_on(node)
            .filter(|(id, unit)| id.workload == request.workload && !unit.gone);
        own.any(|(id, _)| !request.without.contains(&id)) || request.planned.contains(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::NodeHealth;
    use crate::service::record::{Assignment, RECORD_VERSION};
    use weft_types::{
        Bytes, Millicores, NodeCapacity, Reason, RuntimeKind, UnitId, Workload, WorkloadId,
    };

    fn name(text: &str) -> WorkloadName {
        text.parse().expect("a name")
    }

    fn node(text: &str) -> NodeId {
        text.parse().expect("a node")
    }

    fn service(text: &str) -> Workload {
        let mut spec = Workload::new(RuntimeKind::Container);
        spec.name = Some(name(text));
        spec
    }

    fn board() -> Board {
        let mut board = Board::new();
        for id in ["a", "b"] {
            let candidate = Candidate {
                capacity: NodeCapacity {
                    cpu: Millicores(4_000),
                    memory: Bytes(4 << 30),
                    disk: Bytes(64 << 30),
                    runtimes: [RuntimeKind::Container].into(),
                    ..NodeCapacity::default()
                },
                ..Candidate::default()
            };
            board.set_node(node(id), candidate, NodeHealth::Usable);
        }
        board
    }

    fn unit(workload: u64, number: u32) -> UnitId {
        UnitId {
            workload: WorkloadId(workload),
            number,
        }
    }

    fn bind(board: &mut Board, unit: UnitId, spec: &Workload, at: &str, intent: Intent) {
        let assignment = Assignment {
            v: RECORD_VERSION,
            unit,
            node: node(at),
            revision: 1,
            restarts: 0,
            epoch: 1,
            spec: spec.clone(),
            intent,
            why: String::new(),
            created_ms: 0,
            stopping_ms: None,
            keep_volumes: false,
            explanation: None,
        };
        board.set_unit(&assignment, false);
    }

    fn place(board: &Board, request: &UnitRequest) -> Result<String, (Reason, Vec<String>)> {
        let placed = board.place(request).map(|placed| placed.node.to_string());
        placed.map_err(|refused| {
            let considered = refused.explanation.considered.iter();
            let whys = considered.filter_map(|it| match &it.verdict {
                weft_placement::Verdict::Refused(why) => Some(format!("{}: {why}", it.key)),
                weft_placement::Verdict::Scored(_) => None,
            });
            (refused.reason, whys.collect())
        })
    }

    #[test]
    fn a_service_comes_only_where_its_company_is_to_stay() {
        let mut board = board();
        let mut web = service("web");
        web.placement.with = vec![name("cache")];
        let request = UnitRequest::new(WorkloadId(1), &web);
        let lonely = ["a: cache has no unit there", "b: cache has no unit there"];
        let refused = Err((Reason::NoCandidate, lonely.map(str::to_owned).to_vec()));
        assert_eq!(place(&board, &request), refused);
        bind(&mut board, unit(2, 1), &service("cache"), "b", Intent::Run);
        assert_eq!(place(&board, &request), Ok("b".to_owned()));
        bind(&mut board, unit(2, 1), &service("cache"), "b", Intent::Stop);
        assert_eq!(place(&board, &request), refused);
    }

    #[test]
    fn services_stay_apart_whichever_of_them_said_so_and_came_first() {
        let mut web = service("web");
        web.placement.apart = vec![name("batch")];
        let batch = service("batch");
        for (first, second) in [(&web, &batch), (&batch, &web)] {
            let mut board = board();
            bind(&mut board, unit(1, 1), first, "a", Intent::Run);
            let request = UnitRequest::new(WorkloadId(2), second);
            assert_eq!(place(&board, &request), Ok("b".to_owned()));
            bind(&mut board, unit(1, 2), first, "b", Intent::Stop);
            assert!(place(&board, &request).is_err(), "it is still in the way");
            let mut elsewhere = second.clone();
            elsewhere.namespace = "other".parse().expect("a namespace");
            let request = UnitRequest::new(WorkloadId(3), &elsewhere);
            assert!(place(&board, &request).is_ok(), "names are of a namespace");
        }
    }

    #[test]
    fn a_service_apart_from_itself_has_one_unit_a_node_until_nothing_of_it_is_left() {
        let mut board = board();
        let mut web = service("web");
        web.placement.apart = vec![name("web")];
        bind(&mut board, unit(1, 1), &web, "a", Intent::Run);
        let mut request = UnitRequest::new(WorkloadId(1), &web);
        assert_eq!(place(&board, &request), Ok("b".to_owned()));
        request.planned.push(node("b"));
        assert!(place(&board, &request).is_err());
        bind(&mut board, unit(1, 1), &web, "a", Intent::Stop);
        request.passing.push(unit(1, 1));
        assert!(place(&board, &request).is_err(), "it is still ending");
        request.without.push(unit(1, 1));
        assert_eq!(place(&board, &request), Ok("a".to_owned()));
    }

    #[test]
    fn who_is_in_the_way_of_greater_priority_makes_room() {
        let mut board = board();
        let mut web = service("web");
        web.placement.apart = vec![name("batch")];
        web.priority = 10;
        for (number, at) in [(1, "a"), (2, "b")] {
            bind(
                &mut board,
                unit(2, number),
                &service("batch"),
                at,
                Intent::Run,
            );
        }
        let request = UnitRequest::new(WorkloadId(1), &web);
        assert!(place(&board, &request).is_err());
        let room = board.preemption(&request, None);
        assert_eq!(room.map(|room| room.victims), Some(vec![unit(2, 1)]));
    }

    #[test]
    fn who_wants_to_be_beside_a_service_does_not_take_its_room() {
        let mut board = board();
        let mut web = service("web");
        web.placement.with = vec![name("cache")];
        web.priority = 10;
        for (number, text) in [(2, "cache"), (3, "batch")] {
            let mut spec = service(text);
            // The cache would be the first to go.
            spec.priority = number - 2;
            spec.resources = Some(weft_types::Resources {
                cpu: Millicores(2_000),
                ..weft_types::Resources::default()
            });
            let id = unit(number.unsigned_abs().into(), 1);
            bind(&mut board, id, &spec, "a", Intent::Run);
        }
        let request = UnitRequest::new(WorkloadId(1), &web);
        assert!(place(&board, &request).is_err());
        let room = board.preemption(&request, None);
        assert_eq!(room.map(|room| room.victims), Some(vec![unit(3, 1)]));
    }

    #[test]
    fn of_those_who_are_wanted_beside_the_one_in_the_way_goes() {
        let mut board = board();
        let mut web = service("web");
        web.placement.with = vec![name("cache")];
        web.priority = 10;
        let mut old = service("cache");
        old.placement.apart = vec![name("web")];
        bind(&mut board, unit(2, 2), &old, "a", Intent::Run);
        bind(&mut board, unit(2, 1), &service("cache"), "a", Intent::Run);
        let request = UnitRequest::new(WorkloadId(1), &web);
        assert!(place(&board, &request).is_err());
        let room = board.preemption(&request, None);
        assert_eq!(room.map(|room| room.victims), Some(vec![unit(2, 2)]));
    }
}
