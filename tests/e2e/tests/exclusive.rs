//! Exclusive services when the agent that has them cannot end them: never in two places.
//!
//! Real processes are counted, not what anybody says of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_e2e::{AGENTS, Fleet, PATIENCE, eventually, instances_of, processes_with};
use weft_unit::conformance::images::ImageConfig;

/// What an instance of the service looks like among the processes.
const INSTANCE: &str = "/bin/sh /exclusive.sh";
const GUARD: &str = "exclusive-guard";
/// The lease: long enough that nobody misses one because the machine is busy.
const TTL: Duration = Duration::from_secs(8);
/// How often is looked for a second instance.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

const SERVICE: &str = "
apiVersion: weft/v1
run: service
name: db
runtime: container
exclusive: true
container:
  image: IMAGE
resources: {cpu: 50m, memory: 64Mi, disk: 0}
replicas: {min: 1, max: 1, target: 1}
";

/// An image whose only program says when it is asked to end, and takes a moment for it.
fn image() -> ImageConfig {
    let run = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.1; done\n";
    ImageConfig {
        entrypoint: vec!["/exclusive.sh".to_owned()],
        files: vec![("/exclusive.sh".to_owned(), run.as_bytes().to_vec(), true)],
    }
}

fn instances() -> Vec<u32> {
    instances_of(INSTANCE)
}

/// Counts instances for as long as it lives: what was there at once, at the most.
struct Census {
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Census {
    fn start() -> Self {
        let (most, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, ended) = (Arc::clone(&most), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                counted.fetch_max(instances().len(), Ordering::Relaxed);
                std::thread::sleep(LOOK_INTERVAL);
            }
        });
        Self {
            most,
            stop,
            thread: Some(thread),
        }
    }

    /// The most instances at once since the start.
    fn most(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it counts");
        thread.join().expect("it counted");
        self.most.load(Ordering::Relaxed)
    }
}

/// A fleet with the service on one of its nodes: the number of that node.
fn deployed() -> Option<(Fleet, usize)> {
    let fleet = Fleet::with_lease(TTL, |_| Vec::new())?;
    let image = fleet.push("db:1", &image()).tagged;
    let applied = fleet.apply(&SERVICE.replace("IMAGE", &image), true);
    applied.expect_code(0);
    let holder = holder(&fleet).expect("it runs somewhere");
    assert_eq!(instances().len(), 1);
    eventually("it has a guard", PATIENCE, || {
        guards(&fleet, holder).len() == 1
    });
    Some((fleet, holder))
}

/// Waits until an instance is gone; another may have taken its place. Whether that was in time is
/// for the census to say.
fn ends(instance: u32) {
    eventually("its guard ends it", PATIENCE, || {
        !instances().contains(&instance)
    });
}

/// The number of the node that has the only unit that runs.
fn holder(fleet: &Fleet) -> Option<usize> {
    let service = fleet.service("db");
    let units = service["units"].as_array()?;
    let mut ready = units.iter().filter(|unit| unit["ready"] == true);
    let node = ready.next()?["node"].as_str()?.to_owned();
    match ready.next() {
        Some(_) => None,
        None => node.trim_start_matches('n').parse().ok(),
    }
}

/// Guards of one agent.
fn guards(fleet: &Fleet, number: usize) -> Vec<u32> {
    let dir = fleet.agents[number - 1].data_dir.display().to_string();
    processes_with(&format!("{GUARD} {dir}"))
}

fn runs_elsewhere(fleet: &Fleet, before: usize) {
    eventually("it runs elsewhere", PATIENCE, || {
        holder(fleet).is_some_and(|now| now != before)
    });
    assert_eq!(instances().len(), 1);
}

/// Deletes the service; neither it nor a guard is left.
fn nothing_is_left(fleet: &Fleet) {
    fleet
        .run(&["delete", "--yes", "--wait", "db"])
        .expect_code(0);
    // Control groups are those of the whole machine, with those of other tests among them.
    let of_this_test = |left: &String| !left.starts_with("cgroup ");
    eventually("nothing is left", PATIENCE, || {
        instances().is_empty() && !fleet.leftovers().iter().any(of_this_test)
    });
    eventually("no guard is left", PATIENCE, || {
        (1..=AGENTS).all(|number| guards(fleet, number).is_empty())
    });
}

/// Looks for this long whether there is ever more than one instance.
fn stays_one(time: Duration) {
    let census = Census::start();
    std::thread::sleep(time);
    assert_eq!(census.most(), 1, "once it is elsewhere there is one");
}

fn restarts(fleet: &Fleet) -> u64 {
    let service = fleet.service("db");
    let units = service["units"].as_array().cloned().unwrap_or_default();
    units
        .iter()
        .filter_map(|unit| unit["restarts"].as_u64())
        .sum()
}

#[test]
fn an_agent_that_stands_still_for_two_leases_runs_nothing_beside_its_successor() {
    let Some((fleet, holder)) = deployed() else {
        return;
    };
    let census = Census::start();
    let instance = instances()[0];
    let began = Instant::now();
    fleet.agents[holder - 1].signal(libc::SIGSTOP);
    ends(instance);
    runs_elsewhere(&fleet, holder);
    std::thread::sleep((TTL * 2).saturating_sub(began.elapsed()));
    eventually(
        "there is a guard for when the agent goes on",
        PATIENCE,
        || guards(&fleet, holder).len() == 1,
    );
    fleet.agents[holder - 1].signal(libc::SIGCONT);
    fleet
        .cluster
        .wait_for_state(&format!("n{holder}"), "healthy");
    // What it says late of the unit it had is refused: the other one stays.
    std::thread::sleep(TTL);
    assert_eq!(census.most(), 1);
    runs_elsewhere(&fleet, holder);
    fleet.wait_for("db", "has one unit", |service| {
        service["replicas"]["existing"] == 1
    });
    nothing_is_left(&fleet);
}

#[test]
fn an_agent_that_is_killed_leaves_its_guard_behind_until_nothing_runs() {
    let Some((mut fleet, holder)) = deployed() else {
        return;
    };
    let census = Census::start();
    let instance = instances()[0];
    fleet.agents[holder - 1].kill();
    assert_eq!(instances(), [instance], "within its lease it runs on");
    ends(instance);
    runs_elsewhere(&fleet, holder);
    eventually("the guard has ended as well", PATIENCE, || {
        guards(&fleet, holder).is_empty()
    });
    fleet.restart_agent(holder);
    fleet
        .cluster
        .wait_for_state(&format!("n{holder}"), "healthy");
    std::thread::sleep(TTL);
    assert_eq!(census.most(), 1);
    runs_elsewhere(&fleet, holder);
    nothing_is_left(&fleet);
}

#[test]
fn an_agent_that_is_stopped_ends_it_first_and_gives_it_its_time() {
    let Some((mut fleet, holder)) = deployed() else {
        return;
    };
    let census = Census::start();
    let instance = instances()[0];
    fleet.agents[holder - 1].signal(libc::SIGTERM);
    eventually("the agent has ended", PATIENCE, || {
        fleet.agents[holder - 1].ended().is_some()
    });
    assert!(
        !instances().contains(&instance),
        "it ended before its agent"
    );
    runs_elsewhere(&fleet, holder);
    eventually("the guard has ended as well", PATIENCE, || {
        guards(&fleet, holder).is_empty()
    });
    fleet.restart_agent(holder);
    fleet
        .cluster
        .wait_for_state(&format!("n{holder}"), "healthy");
    stays_one(TTL);
    assert_eq!(census.most(), 1);
    nothing_is_left(&fleet);
}

#[test]
fn an_agent_that_is_back_within_the_lease_keeps_it_and_has_the_only_guard() {
    let Some((mut fleet, holder)) = deployed() else {
        return;
    };
    let instance = instances();
    let before = guards(&fleet, holder);
    fleet.agents[holder - 1].kill();
    fleet.restart_agent(holder);
    fleet
        .cluster
        .wait_for_state(&format!("n{holder}"), "healthy");
    eventually("another guard took over", PATIENCE, || {
        let now = guards(&fleet, holder);
        now.len() == 1 && now != before
    });
    std::thread::sleep(TTL);
    assert_eq!(instances(), instance, "it was not touched");
    // One that is killed is replaced while the agent lives.
    let guard = guards(&fleet, holder)[0];
    kill(guard, libc::SIGKILL);
    eventually("another one is started", PATIENCE, || {
        let now = guards(&fleet, holder);
        now.len() == 1 && now[0] != guard
    });
    assert_eq!(instances(), instance, "it was not touched");
    assert_eq!(restarts(&fleet), 0);
    nothing_is_left(&fleet);
}

#[test]
fn a_server_that_is_away_for_longer_than_the_lease_costs_a_pause_and_no_failure() {
    let Some((mut fleet, holder)) = deployed() else {
        return;
    };
    let census = Census::start();
    fleet.cluster.kill_server();
    eventually("the agent ends it in time", TTL, || instances().is_empty());
    fleet.agents[holder - 1].kill();
    fleet.cluster.start();
    fleet.restart_agent(holder);
    fleet.wait_for("db", "runs again", |service| {
        service["replicas"]["ready"] == 1
    });
    assert_eq!(census.most(), 1);
    assert_eq!(
        restarts(&fleet),
        0,
        "a lost lease is no failure of the unit"
    );
    assert_eq!(fleet.service("db")["failures"], Value::from(0));
    nothing_is_left(&fleet);
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: kill has no memory preconditions; the process is a guard of this test's own agent.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}
