//! Servers and agents killed at random under a stream of jobs; an outside ledger of what was
//! acknowledged is compared with every result in the end.
//!
//! `WEFT_SOAK_SECONDS` says for how long (60), `WEFT_SOAK_SEED` repeats the kills of a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use weft_client::{Client, Endpoint, ResultOrder};
use weft_e2e::{AgentProcess, Cluster, eventually};
use weft_types::Workload;

/// Clients that submit, one job after the other each.
const SUBMITTERS: u64 = 4;
/// Between two jobs of a client: the jobs are read back one by one in the end.
const PACE: Duration = Duration::from_millis(8);
/// The most tasks of a job.
const MAX_TASKS: u64 = 20;
/// How long one job may take to be acknowledged, kills included.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(60);
/// How long everything may take to be done when nobody is killed any more.
const SETTLE_DEADLINE: Duration = Duration::from_secs(120);
/// Jobs that are read back at once.
const READERS: usize = 16;

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Id of an acknowledged job, and how many zero bytes each of its tasks has to count.
type Ledger = BTreeMap<String, Vec<u64>>;

#[test]
fn nothing_acknowledged_is_lost_while_servers_and_agents_are_killed() {
    let seconds = setting("WEFT_SOAK_SECONDS", 60);
    let seed = setting("WEFT_SOAK_SEED", u64::from(std::process::id()) | 1);
    eprintln!("soak: {seconds} s, WEFT_SOAK_SEED={seed}");
    let mut cluster = Cluster::up(0);
    let mut agents: Vec<AgentProcess> = (1..=2)
        .map(|number| cluster.agent(&format!("n{number}"), None, &[]))
        .collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let endpoint = Endpoint::from_admin_file(&cluster.admin_file()).expect("admin.json");
    let client = Client::new(&endpoint).expect("a client");
    let stop = Arc::new(AtomicBool::new(false));
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|number| {
            let random = Random((seed + number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            runtime.spawn(submit(client.clone(), number, random, Arc::clone(&stop)))
        })
        .collect();
    let kills = kill_for(
        Duration::from_secs(seconds),
        seed,
        &mut cluster,
        &mut agents,
    );
    stop.store(true, Ordering::Relaxed);
    let ledger: Ledger = submitters
        .into_iter()
        .flat_map(|submitter| runtime.block_on(submitter).expect("a submitter"))
        .collect();
    eventually("the agents are back", SETTLE_DEADLINE, || {
        cluster
            .nodes()
            .iter()
            .filter(|node| node["state"] == "healthy")
            .count()
            == agents.len()
    });
    let jobs = ledger.len();
    let tasks: usize = ledger.values().map(Vec::len).sum();
    runtime.block_on(compare(&client, ledger));
    let known = runtime
        .block_on(client.jobs(usize::MAX))
        .expect("a list")
        .len();
    assert_eq!(known, jobs, "a job that was sent twice is one job");
    eprintln!("soak: {jobs} jobs, {tasks} tasks, {kills} kills, nothing lost, nothing twice");
    assert!(jobs > kills, "{jobs} jobs between {kills} kills");
}

/// Kills the server or an agent every one to five seconds, and starts it again.
fn kill_for(
    time: Duration,
    seed: u64,
    cluster: &mut Cluster,
    agents: &mut [AgentProcess],
) -> usize {
    let mut random = Random(seed | 1);
    let end = Instant::now() + time;
    let mut kills = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.between(1_000, 5_000)));
        let victim = random.between(0, agents.len() as u64 * 2) as usize;
        match agents.get_mut(victim) {
            Some(agent) => {
                agent.kill();
                *agent = AgentProcess::start(cluster, &format!("n{}", victim + 1), None, None, &[]);
            }
            None => {
                cluster.kill_server();
                cluster.start();
            }
        }
        kills += 1;
    }
    kills
}

/// Submits until told to stop; a job that was not acknowledged is sent again under its key.
async fn submit(client: Client, number: u64, mut random: Random, stop: Arc<AtomicBool>) -> Ledger {
    let mut ledger = Ledger::new();
    let sent = AtomicU64::new(0);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("soak-{number}-{}", sent.fetch_add(1, Ordering::Relaxed));
        let (workload, counts) = job(&mut random);
        let end = Instant::now() + SUBMIT_DEADLINE;
        let id = loop {
            match client.submit(&workload, Some(&key)).await {
                Ok(view) => break view.id.to_string(),
                Err(error) => assert!(Instant::now() < end, "{key}: {error}"),
            }
            tokio::time::sleep(PACE).await;
        };
        assert!(
            ledger.insert(id, counts).is_none(),
            "{key} got the id of another"
        );
        tokio::time::sleep(PACE).await;
    }
    ledger
}

/// A job of byte programs over random bytes, and what each has to find.
fn job(random: &mut Random) -> (Workload, Vec<u64>) {
    let mut counts = Vec::new();
    let tasks: Vec<serde_json::Value> = (0..random.between(1, MAX_TASKS))
        .map(|_| {
            let bytes: Vec<u8> = (0..random.between(0, 200))
                .map(|_| (random.next() % 3) as u8)
                .collect();
            counts.push(bytes.iter().filter(|byte| **byte == 0).count() as u64);
            let data = base64::engine::general_purpose::STANDARD.encode(bytes);
            serde_json::json!({ "data": data })
        })
        .collect();
    let job = serde_json::json!({
        "runtime": "op", "op": {"op": "counteq", "imm": 0}, "tasks": tasks, "retry": {"attempts": 20},
    });
    (serde_json::from_value(job).expect("a workload"), counts)
}

/// Compares the ledger with the results, each of which has to be there once and right.
async fn compare(client: &Client, ledger: Ledger) {
    let jobs = Arc::new(tokio::sync::Mutex::new(ledger.into_iter()));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (client, jobs) = (client.clone(), Arc::clone(&jobs));
            tokio::spawn(async move {
                loop {
                    let Some((id, counts)) = jobs.lock().await.next() else {
                        return;
                    };
                    assert_eq!(results(&client, &id).await, counts, "{id}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.expect("the ledger and the results agree");
    }
}

async fn results(client: &Client, id: &str) -> Vec<u64> {
    let mut lines = client
        .results(id, ResultOrder::Finish, SETTLE_DEADLINE)
        .await
        .unwrap_or_else(|error| panic!("{id}: {error}"));
    let mut counts = Vec::new();
    while let Some(view) = lines
        .next()
        .await
        .unwrap_or_else(|error| panic!("{id}: {error}"))
    {
        let result = view
            .result
            .unwrap_or_else(|| panic!("{id}: task {} has no result", view.task));
        let result: serde_json::Value = serde_json::from_str(result.get()).expect("JSON");
        counts.push((view.task, result["count"].as_u64().expect("a count")));
    }
    counts.sort_unstable();
    let numbers = counts.iter().map(|(task, _)| *task as usize);
    assert!(
        numbers.eq(0..counts.len()),
        "{id}: each task once: {counts:?}"
    );
    counts.into_iter().map(|(_, count)| count).collect()
}
