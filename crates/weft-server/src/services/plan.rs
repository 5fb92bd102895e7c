//! What an apply would do: where new units would go, and what that costs.

use weft_api::{ApplyOutcome, PlanView, PlannedUnit};
use weft_core::Epoch;
use weft_core::service::record::{Assignment, Intent, RECORD_VERSION, WorkloadRecord};
use weft_core::service::{Board, Refused, UnitRequest};
use weft_types::{Money, NodeId, UnitId, Workload};

use super::apply::{self, Draft};
use super::ports;
use super::view::wanted;
use crate::outcome::why;
use crate::rest::explain::considered;
use crate::rest::problem::ApiError;
use crate::state::Server;

/// The most units whose places are looked for.
const MAX_PLACED: u32 = 64;

/// What applying a specification would do now; changes nothing.
///
/// # Errors
/// Those of the apply itself.
pub async fn dry_run(
    server: &Server,
    spec: Workload,
    if_match: Option<u64>,
) -> Result<PlanView, ApiError> {
    let spec = apply::checked(server, spec)?;
    ports::check(server, &spec).await?;
    let draft = apply::draft(server, &spec, if_match).await?;
    let missing = missing(server, &draft);
    let (placements, refused, price) = place(
        &mut server.services.board.lock(),
        &draft.record,
        missing.min(MAX_PLACED),
    );
    Ok(PlanView {
        outcome: draft.outcome,
        replaces_units: draft.replaces_units && draft.outcome == ApplyOutcome::Changed,
        changes: draft.changes,
        placements,
        price_per_hour: format!("{price}/h"),
        why: refused
            .as_ref()
            .map(|refused| why(refused.reason, &refused.detail)),
        nearest_change: refused
            .and_then(|refused| refused.nearest_change)
            .map(|nearest| nearest.to_string()),
    })
}

/// How many units would be made.
fn missing(server: &Server, draft: &Draft) -> u32 {
    let record = &draft.record;
    let service = server
        .services
        .workloads
        .read(|tables| tables.service(record.id));
    let scaled = service.as_ref().and_then(|service| {
        let rollout = service.rollout.as_ref()?;
        rollout.value.scaled
    });
    let stays = service.map_or(0, |service| {
        let units = service.units.iter().filter(|(kept, _)| {
            kept.value.intent == Intent::Run && kept.value.revision == record.revision
        });
        u32::try_from(units.count()).unwrap_or(u32::MAX)
    });
    wanted(record, scaled).saturating_sub(stays)
}

/// Places units one after the other, each beside those before; the board is as before afterwards.
fn place(
    board: &mut Board,
    record: &WorkloadRecord,
    count: u32,
) -> (Vec<PlannedUnit>, Option<Box<Refused>>, Money) {
    let request = UnitRequest::new(record.id, &record.spec);
    let mut placements = Vec::new();
    let mut refusal = None;
    let mut price = 0;
    let mut made = Vec::new();
    for number in 0..count {
        match board.place(&request) {
            Ok(placed) => {
                let unit = UnitId {
                    workload: record.id,
                    // Numbers of real units are given from 1 on.
                    number: u32::MAX - number,
                };
                board.set_unit(&imagined(record, unit, placed.node.clone()), false);
                made.push(unit);
                price += price_of(board, &placed.node);
                placements.push(PlannedUnit {
                    node: Some(placed.node.to_string()),
                    considered: considered(&placed.explanation),
                });
            }
            Err(refused) => {
                placements.push(PlannedUnit {
                    node: None,
                    considered: considered(&refused.explanation),
                });
                refusal = Some(refused);
                break;
            }
        }
    }
    for unit in made {
        board.remove_unit(unit);
    }
    (placements, refusal, Money(price))
}

fn price_of(board: &Board, wanted: &NodeId) -> i64 {
    let mut nodes = board.nodes();
    let found = nodes.find(|(node, ..)| *node == wanted);
    found.map_or(0, |(_, candidate, ..)| candidate.price_per_hour.0)
}

fn imagined(record: &WorkloadRecord, unit: UnitId, node: NodeId) -> Assignment {
    Assignment {
        v: RECORD_VERSION,
        unit,
        node,
        revision: record.revision,
        restarts: record.restarts,
        epoch: Epoch::default(),
        spec: record.spec.clone(),
        intent: Intent::Run,
        why: String::new(),
        created_ms: record.changed_ms,
        stopping_ms: None,
        keep_volumes: false,
        explanation: None,
    }
}
