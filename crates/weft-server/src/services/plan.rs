//! What an apply would do: where new units would go, and what that costs.

use weft_api::{ApplyOutcome, PlanView, PlannedUnit, Problem};
use weft_core::Epoch;
use weft_core::service::record::{Assignment, Intent, RECORD_VERSION, WorkloadRecord};
use weft_core::service::{Board, Refused, UnitRequest, is_apart_from_itself, is_stop_first};
use weft_placement::share_of_price;
use weft_types::{Money, NodeId, Reason, UnitId, Workload};

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
    let placing = place(server, &draft);
    let over_budget = placing.over_budget(&draft.record);
    let Placing {
        placements,
        refused,
        price,
    } = placing;
    let no_place = refused
        .as_ref()
        .map(|refused| why(refused.reason, &refused.detail));
    Ok(PlanView {
        outcome: draft.outcome,
        replaces_units: draft.replaces_units && draft.outcome == ApplyOutcome::Changed,
        changes: draft.changes,
        placements,
        price_per_hour: format!("{price}/h"),
        why: over_budget
            .map(|detail| why(Reason::BudgetExceeded, &detail))
            .or(no_place),
        nearest_change: refused
            .and_then(|refused| refused.nearest_change)
            .map(|nearest| nearest.to_string()),
    })
}

/// Refuses what would cost more than its budget lets it.
///
/// # Errors
/// `budget-exceeded`, with what it would cost.
pub fn check_budget(server: &Server, draft: &Draft) -> Result<(), ApiError> {
    if draft.record.spec.budget.is_none() {
        return Ok(());
    }
    match place(server, draft).over_budget(&draft.record) {
        None => Ok(()),
        Some(detail) => Err(
            Problem::new(403, "budget-exceeded", Reason::BudgetExceeded, detail)
                .with_next("raise `budget.per_hour`, ask for less, or add cheaper nodes")
                .into(),
        ),
    }
}

/// Where new units would go.
struct Placing {
    placements: Vec<PlannedUnit>,
    /// Why not all of them have a place.
    refused: Option<Box<Refused>>,
    /// What an hour of the whole service costs: of the units that stay, and of the new ones.
    price: Money,
}

impl Placing {
    /// In a sentence, when its price is more than its budget.
    fn over_budget(&self, record: &WorkloadRecord) -> Option<String> {
        let most = record.spec.budget.as_ref()?.per_hour?;
        let price = self.price;
        let is_over = price > most;
        is_over.then(|| format!("it costs {price}/h, more than `budget.per_hour` of {most}"))
    }
}

/// Units as they would be without those that are replaced.
struct Units {
    /// Where units are that stay.
    stay: Vec<NodeId>,
    /// Units that go.
    leave: Vec<UnitId>,
    /// How many are to be made.
    missing: u32,
}

fn units(server: &Server, draft: &Draft) -> Units {
    let record = &draft.record;
    let service = server
        .services
        .workloads
        .read(|tables| tables.service(record.id));
    let scaled = service.as_ref().and_then(|service| {
        let rollout = service.rollout.as_ref()?;
        rollout.value.scaled
    });
    let running = service.iter().flat_map(|service| service.units.iter());
    let running = running.filter(|(kept, _)| kept.value.intent == Intent::Run);
    let (mut stay, mut leave) = (Vec::new(), Vec::new());
    for (kept, _) in running {
        if kept.value.revision == record.revision {
            stay.push(kept.value.node.clone());
        } else {
            leave.push(kept.value.unit);
        }
    }
    let wanted = wanted(record, scaled);
    stay.truncate(wanted as usize);
    let staying = u32::try_from(stay.len()).unwrap_or(u32::MAX);
    Units {
        stay,
        leave,
        missing: wanted.saturating_sub(staying),
    }
}

/// Places units one after the other, each beside those before; the board is as before afterwards.
fn place(server: &Server, draft: &Draft) -> Placing {
    let record = &draft.record;
    let units = units(server, draft);
    let mut request = UnitRequest::new(record.id, &record.spec);
    if is_stop_first(&record.spec) || is_apart_from_itself(&record.spec) {
        // Old units make room, where they stand in the way.
        request.without.clone_from(&units.leave);
    }
    let board = &mut *server.services.board.lock();
    let mut placing = Placing {
        placements: Vec::new(),
        refused: None,
        price: Money(0),
    };
    let mut made = Vec::new();
    let mut price = 0;
    for number in 0..units.missing.min(MAX_PLACED) {
        match board.place(&request) {
            Ok(placed) => {
                let unit = UnitId {
                    workload: record.id,
                    // Numbers of real units are given from 1 on.
                    number: u32::MAX - number,
                };
                board.set_unit(&imagined(record, unit, placed.node.clone()), false);
                made.push(unit);
                price += price_of(board, &placed.node, &request);
                placing.placements.push(PlannedUnit {
                    node: Some(placed.node.to_string()),
                    considered: considered(&placed.explanation),
                });
            }
            Err(refused) => {
                placing.placements.push(PlannedUnit {
                    node: None,
                    considered: considered(&refused.explanation),
                });
                placing.refused = Some(refused);
                break;
            }
        }
    }
    // Those that were not looked at, or have no place yet, cost what the others do.
    if let Some(each) = price.checked_div(i64::try_from(made.len()).unwrap_or(i64::MAX)) {
        let others = i64::from(units.missing) - i64::try_from(made.len()).unwrap_or(i64::MAX);
        price = price.saturating_add(each.saturating_mul(others.max(0)));
    }
    for unit in made {
        board.remove_unit(unit);
    }
    for node in &units.stay {
        price = price.saturating_add(price_of(board, node, &request));
    }
    placing.price = Money(price);
    placing
}

/// What an hour of one unit costs on a node: its share of it.
fn price_of(board: &Board, wanted: &NodeId, request: &UnitRequest) -> i64 {
    let mut nodes = board.nodes();
    let found = nodes.find(|(node, ..)| *node == wanted);
    found.map_or(0, |(_, candidate, ..)| {
        share_of_price(&candidate.capacity, &request.need.resources).0
    })
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
