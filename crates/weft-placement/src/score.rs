//! What a candidate would cost: money, with time and risk turned into money.
//!
//! The expected cost is price × expected time, plus value of time × (wait, latency, transfer and
//! start), plus risk of interruption × rework, and a term for the load. All terms are
//! micro-dollars; a strategy is a preset of the weights.

use std::fmt;

use serde::{Deserialize, Serialize};
use weft_types::{Millicores, Spread, Strategy};

use crate::free::Free;
use crate::{Candidate, Request};

/// A term of a score.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TermName {
    /// Price for the expected time.
    Price,
    /// Time until it runs and answers.
    Time,
    /// What an interruption would cost, times its probability.
    Interruption,
    /// Preferred labels that it lacks.
    Prefer,
    /// How empty it would stay (`binpack`) or how full it would be (`spread`).
    Load,
    /// Units of the same class that it, or its zone, has already.
    Neighbours,
}

impl fmt::Display for TermName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Price => "price",
            Self::Time => "time",
            Self::Interruption => "interruption",
            Self::Prefer => "prefer",
            Self::Load => "load",
            Self::Neighbours => "neighbours",
        })
    }
}

/// One term of a score.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Term {
    /// Which.
    pub name: TermName,
    /// What it adds, in micro-dollars.
    pub micro_dollars: i64,
}

/// A candidate's score; the lowest total wins.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Score {
    /// Its terms, those that add nothing left out.
    pub terms: Vec<Term>,
    /// Their sum, in micro-dollars.
    pub total: i64,
}

/// A preset: what is counted how much.
struct Weights {
    /// Of an hour's price, how much counts for each hour of expected time, in millionths.
    price_ppm: i128,
    /// Whether the price counts for a whole hour, however short the work.
    price_by_hour: bool,
    /// What a millisecond is worth, in micro-dollars.
    ms_value: i128,
    /// What a load of one whole candidate adds, in micro-dollars; negative where load is good.
    /// Never nothing: of equals the emptier is the better one.
    load_value: i128,
}

/// One point of the `balanced` strategy in micro-dollars: 100 points per dollar an hour.
const POINT: i128 = 10_000;
/// What a preferred label is worth, in micro-dollars.
const PREFER_VALUE: i128 = 10_000_000;
/// What a neighbour of the same class costs under `spread`, in micro-dollars: more than any load.
const NEIGHBOUR_VALUE: i128 = 1_000_000_000;
/// A full load under `binpack` and `spread`, in micro-dollars.
const LOAD_VALUE: i128 = 100_000_000;
const MS_PER_HOUR: i128 = 3_600_000;

fn weights(strategy: Strategy) -> Weights {
    let (price_ppm, price_by_hour, ms_value, load_value) = match strategy {
        Strategy::Cheapest => (1_000_000, false, 1, 100),
        Strategy::Balanced => (1_000_000, true, POINT, POINT),
        Strategy::Fastest => (1_000, true, 100 * POINT, 100 * POINT),
        Strategy::Binpack => (1_000_000, true, 1, -LOAD_VALUE),
        Strategy::Spread => (1_000_000, true, 1, LOAD_VALUE),
    };
    Weights {
        price_ppm,
        price_by_hour,
        ms_value,
        load_value,
    }
}

/// How many units of the same class there are beside which a new one would run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Neighbours {
    pub(crate) on_node: u32,
    pub(crate) in_zone: u32,
}

/// Calls `add` for each term; shared by the sum and the explanation, so that they cannot differ.
fn terms(
    request: &Request,
    candidate: &Candidate,
    free: &Free,
    neighbours: Neighbours,
    mut add: impl FnMut(TermName, i128),
) {
    let weights = weights(request.placement.strategy);
    let run_ms = i128::from(request.expected_run_ms);
    let price = i128::from(candidate.price_per_hour.0);
    let priced_ms = if weights.price_by_hour {
        MS_PER_HOUR
    } else {
        run_ms
    };
    add(
        TermName::Price,
        price * priced_ms / MS_PER_HOUR * weights.price_ppm / 1_000_000,
    );
    let waits = [
        candidate.wait_ms,
        candidate.latency_ms,
        candidate.transfer_ms,
        candidate.start_ms,
    ];
    let wait_ms: i128 = waits.into_iter().map(i128::from).sum();
    add(TermName::Time, wait_ms * weights.ms_value);
    // Half of the run is lost on average, in money and in time.
    let rework = (price * run_ms / MS_PER_HOUR + run_ms * weights.ms_value) / 2;
    let risk = i128::from(candidate.interruptions_per_million_hours) * run_ms;
    add(
        TermName::Interruption,
        risk.saturating_mul(rework) / (MS_PER_HOUR * 1_000_000),
    );
    let labels = &candidate.capacity.labels;
    let lacking = request
        .placement
        .prefer
        .iter()
        .filter(|(name, value)| labels.get(*name) != Some(*value));
    add(TermName::Prefer, lacking.count() as i128 * PREFER_VALUE);
    add(
        TermName::Load,
        load_ppm(request, candidate, free) * weights.load_value / 1_000_000,
    );
    let beside = match request.placement.spread {
        Some(Spread::Node) => neighbours.on_node,
        Some(Spread::Zone) => neighbours.in_zone,
        None if request.placement.strategy == Strategy::Spread => neighbours.on_node,
        None => 0,
    };
    add(TermName::Neighbours, i128::from(beside) * NEIGHBOUR_VALUE);
}

/// How full the candidate would be with one more unit, of its fullest resource, in millionths.
fn load_ppm(request: &Request, candidate: &Candidate, free: &Free) -> i128 {
    let part = |capacity: u64, free: u64, need: u64| {
        if capacity == 0 {
            return 0;
        }
        let used = u128::from(capacity.saturating_sub(free)) + u128::from(need);
        (used * 1_000_000 / u128::from(capacity)).min(1_000_000) as i128
    };
    let (capacity, need) = (&candidate.capacity, &request.resources);
    let Millicores(cpu) = capacity.cpu;
    part(cpu, free.cpu.0, need.cpu.0).max(part(capacity.memory.0, free.memory.0, need.memory.0))
}

fn clamped(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// The sum alone.
pub(crate) fn total(
    request: &Request,
    candidate: &Candidate,
    free: &Free,
    neighbours: Neighbours,
) -> i64 {
    let mut sum = 0i128;
    terms(request, candidate, free, neighbours, |_, value| {
        sum += value
    });
    clamped(sum)
}

/// The sum with its terms.
pub(crate) fn score(
    request: &Request,
    candidate: &Candidate,
    free: &Free,
    neighbours: Neighbours,
) -> Score {
    let mut all = Vec::new();
    let mut sum = 0i128;
    terms(request, candidate, free, neighbours, |name, value| {
        sum += value;
        if value != 0 {
            all.push(Term {
                name,
                micro_dollars: clamped(value),
            });
        }
    });
    Score {
        terms: all,
        total: clamped(sum),
    }
}
