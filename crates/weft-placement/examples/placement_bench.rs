//! 100,000 units with mixed constraints over 10,000 nodes: `./x bench placement`.
//!
//! The index places all of them; a full filter-and-score scan places a sample, with the same state
//! at the same points, and the scores of both choices are compared.

use std::time::Instant;

use weft_placement::{Candidate, CandidateId, ClassId, Index, Request, Verdict};
use weft_types::{
    Bytes, Millicores, Money, NodeCapacity, PlacementSpec, Resources, RuntimeKind, Strategy,
};

const NODES: u32 = 10_000;
const UNITS: usize = 100_000;
/// Every so many units the full scan decides as well.
const SAMPLE_EVERY: usize = 500;

fn main() {
    let mut runs: Vec<(f64, f64, f64)> = (0..5).map(|_| run()).collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (rate, scan_rate, worst) = runs[2];
    let ratio = rate / scan_rate;
    println!("{:<34} {:>14}", "placement, median of 5", "");
    println!("{:<34} {rate:>14.0} placements/s", "index");
    println!(
        "{:<34} {scan_rate:>14.0} placements/s",
        "full filter-and-score scan"
    );
    println!("{:<34} {ratio:>14.0} times", "ratio");
    println!("{:<34} {worst:>14.4} %", "largest difference of scores");
    println!(
        "{}",
        serde_json::json!({"bench": "placement", "index_per_s": rate, "scan_per_s": scan_rate, "ratio": ratio, "score_difference_percent": worst})
    );
}

/// Placements a second by the index and by the scan, and the largest difference of scores.
fn run() -> (f64, f64, f64) {
    let mut index = Index::new();
    for id in 0..NODES {
        index.upsert(CandidateId(id), node(id));
    }
    let classes: Vec<ClassId> = requests()
        .iter()
        .map(|request| index.class(request))
        .collect();
    for class in &classes {
        index.choose(*class);
    }
    let (mut index_s, mut scan_s, mut samples, mut placed, mut worst) = (0.0, 0.0, 0, 0, 0.0f64);
    for unit in 0..UNITS {
        let class = classes[(unit * 7) % classes.len()];
        if unit % SAMPLE_EVERY == 0 {
            let start = Instant::now();
            let explained = index.explain(class);
            scan_s += start.elapsed().as_secs_f64();
            samples += 1;
            let score = |id| {
                explained
                    .considered
                    .iter()
                    .find(|c| Some(c.id) == id)
                    .map(|c| match &c.verdict {
                        Verdict::Scored(score) => score.total as f64,
                        Verdict::Refused(_) => f64::INFINITY,
                    })
            };
            if let (Some(ours), Some(best)) = (score(index.choose(class)), score(explained.chosen))
            {
                worst = worst.max((ours - best).abs() / best.abs().max(1.0) * 100.0);
            }
        }
        let start = Instant::now();
        if let Some(id) = index.choose(class) {
            placed += usize::from(index.reserve(id, class, 1));
        }
        index_s += start.elapsed().as_secs_f64();
    }
    assert!(placed > UNITS * 9 / 10, "{placed} of {UNITS} placed");
    (UNITS as f64 / index_s, f64::from(samples) / scan_s, worst)
}

fn node(id: u32) -> Candidate {
    let mut capacity = NodeCapacity {
        cpu: Millicores([4u64, 8, 16, 32][id as usize % 4] * 1000),
        memory: Bytes(([8u64, 16, 64, 128][id as usize % 4]) << 30),
        disk: Bytes(500 << 30),
        runtimes: vec![RuntimeKind::Op, RuntimeKind::Process],
        ..NodeCapacity::default()
    };
    capacity.labels.insert(
        "zone".to_owned(),
        ["a", "b", "c"][id as usize % 3].to_owned(),
    );
    if id.is_multiple_of(5) {
        capacity.labels.insert("disk".to_owned(), "ssd".to_owned());
    }
    if id.is_multiple_of(10) {
        capacity.gpus = vec!["H100".to_owned(); 8];
    }
    Candidate {
        key: format!("node-{id:05}").into(),
        capacity,
        price_per_hour: Money(i64::from(id.wrapping_mul(2_654_435_761) % 1_000) * 1_000),
        latency_ms: id.wrapping_mul(40_503) % 50,
        ..Candidate::default()
    }
}

fn requests() -> Vec<Request> {
    let strategies = [
        Strategy::Cheapest,
        Strategy::Balanced,
        Strategy::Fastest,
        Strategy::Binpack,
        Strategy::Spread,
    ];
    let mut requests = Vec::new();
    for (number, strategy) in strategies.into_iter().cycle().take(20).enumerate() {
        let mut placement = PlacementSpec {
            strategy,
            ..PlacementSpec::default()
        };
        if number % 3 == 1 {
            placement
                .labels
                .insert("zone".to_owned(), ["a", "b", "c"][number % 3].to_owned());
        }
        if number % 4 == 2 {
            placement.prefer.insert("disk".to_owned(), "ssd".to_owned());
        }
        let resources = Resources {
            cpu: Millicores(250 * (1 + number as u64 % 4)),
            memory: Bytes((1 + number as u64 % 3) << 29),
            disk: Bytes(1 << 30),
            gpu: (number == 19).then_some(weft_types::GpuRequest {
                count: 1,
                model: None,
            }),
        };
        requests.push(Request {
            resources,
            runtime: RuntimeKind::Process,
            placement,
            expected_run_ms: 60_000,
        });
    }
    requests
}
