use proptest::prelude::*;
use weft_types::{NodeId, NodeState};

use super::{Cause, Config, Input, Machine, Output};
use crate::{Epoch, Monotonic};

const TTL_MS: u64 = 3_000;

fn id(name: &str) -> NodeId {
    name.parse().expect("a well-formed name")
}

/// Ticks every 100 ms up to a time, as the shell does; answers what came out.
fn run(machine: &mut Machine, from: u64, to: u64) -> Vec<Output> {
    let mut out = Vec::new();
    for now in (from..=to).step_by(100) {
        machine.step(Monotonic(now), Input::Tick, &mut out);
    }
    out
}

fn heartbeat(machine: &mut Machine, now: u64, node: &NodeId, epoch: Epoch) -> Vec<Output> {
    let mut out = Vec::new();
    let node = node.clone();
    machine.step(Monotonic(now), Input::Heartbeat { node, epoch }, &mut out);
    out
}

fn registered(name: &str) -> (Machine, NodeId, Epoch) {
    let mut machine = Machine::new(Config::with_ttl_ms(TTL_MS), 0);
    let node = id(name);
    let epoch = machine.register(Monotonic(0), &node, &mut Vec::new());
    (machine, node, epoch)
}

#[test]
fn a_silent_node_is_suspect_at_two_thirds_and_lost_at_the_ttl() {
    let (mut machine, node, epoch) = registered("a");
    assert!(run(&mut machine, 0, 1_900).is_empty());
    let suspect = run(&mut machine, 2_000, 2_900);
    assert!(
        matches!(
            &suspect[..],
            [Output::StateChanged {
                to: NodeState::Suspect,
                cause: Cause::Silent,
                ..
            }]
        ),
        "{suspect:?}"
    );
    let lost = run(&mut machine, 3_000, 3_000);
    assert!(
        lost.contains(&Output::LeaseLost {
            node: node.clone(),
            epoch
        }),
        "{lost:?}"
    );
    assert!(!machine.is_live(&node, epoch));
}

#[test]
fn heartbeats_keep_a_lease_for_ever() {
    let (mut machine, node, epoch) = registered("a");
    for now in (0..60_000).step_by(1_000) {
        assert!(heartbeat(&mut machine, now, &node, epoch).is_empty());
        assert!(run(&mut machine, now, now + 900).is_empty());
    }
}

#[test]
fn a_suspect_node_that_is_heard_is_healthy_again() {
    let (mut machine, node, epoch) = registered("a");
    run(&mut machine, 0, 2_500);
    let out = heartbeat(&mut machine, 2_600, &node, epoch);
    assert!(matches!(
        &out[..],
        [Output::StateChanged {
            to: NodeState::Healthy,
            cause: Cause::HeardAgain,
            ..
        }]
    ));
}

#[test]
fn a_late_heartbeat_does_not_revive_a_lost_lease() {
    let (mut machine, node, epoch) = registered("a");
    run(&mut machine, 0, 3_000);
    let out = heartbeat(&mut machine, 3_100, &node, epoch);
    assert!(
        matches!(&out[..], [Output::Fenced { current: Some(current), .. }] if *current == epoch)
    );
    assert_eq!(machine.state(&node), Some(NodeState::Offline));
}

#[test]
fn an_older_epoch_is_fenced_after_the_node_registered_again() {
    let (mut machine, node, old) = registered("a");
    let new = machine.register(Monotonic(100), &node, &mut Vec::new());
    assert!(new > old);
    assert!(matches!(
        &heartbeat(&mut machine, 200, &node, old)[..],
        [Output::Fenced { .. }]
    ));
    assert!(heartbeat(&mut machine, 200, &node, new).is_empty());
}

#[test]
fn a_server_that_stood_still_judges_nobody_for_it() {
    let (mut machine, node, epoch) = registered("a");
    run(&mut machine, 0, 1_000);
    // SIGSTOP for a minute, then the tick comes before the heartbeats that wait in the sockets.
    let out = run(&mut machine, 61_000, 61_000);
    assert!(out.is_empty(), "{out:?}");
    assert!(heartbeat(&mut machine, 61_001, &node, epoch).is_empty());
    assert!(machine.is_live(&node, epoch));
}

#[test]
fn an_outage_extends_leases_by_no_more_than_itself() {
    let (mut machine, node, _) = registered("a");
    run(&mut machine, 0, 1_000);
    run(&mut machine, 61_000, 62_900);
    assert_eq!(machine.state(&node), Some(NodeState::Suspect));
    run(&mut machine, 63_000, 63_100);
    assert_eq!(machine.state(&node), Some(NodeState::Offline));
}

#[test]
fn a_known_node_gets_a_whole_lease_after_a_restart_and_a_greater_epoch() {
    let mut machine = Machine::new(Config::with_ttl_ms(TTL_MS), 0);
    let node = id("a");
    let known = Input::Known {
        node: node.clone(),
        epoch: 41,
        cordoned: true,
        draining: false,
        offline: false,
    };
    machine.step(Monotonic(10_000), known, &mut Vec::new());
    assert_eq!(machine.state(&node), Some(NodeState::Cordoned));
    run(&mut machine, 10_000, 12_900);
    assert!(machine.is_live(&node, 41));
    assert_eq!(
        machine.register(Monotonic(12_900), &node, &mut Vec::new()),
        42
    );
    assert_eq!(machine.state(&node), Some(NodeState::Cordoned));
}

#[test]
fn removing_a_node_ends_its_lease_at_once() {
    let (mut machine, node, epoch) = registered("a");
    let mut out = Vec::new();
    machine.step(
        Monotonic(10),
        Input::Remove { node: node.clone() },
        &mut out,
    );
    assert_eq!(
        out,
        [Output::LeaseLost {
            node: node.clone(),
            epoch
        }]
    );
    assert!(matches!(
        &heartbeat(&mut machine, 20, &node, epoch)[..],
        [Output::Fenced { current: None, .. }]
    ));
}

proptest! {
    /// However ticks, heartbeats and pauses mix, a lease is lost only after a whole TTL of
    /// silence, and never later than the first tick after it when the server did not pause.
    #[test]
    fn a_lease_ends_after_the_ttl_and_not_before(
        events in proptest::collection::vec((1u64..700, any::<bool>()), 1..200),
    ) {
        let (mut machine, node, epoch) = registered("a");
        let (mut now, mut heard, mut lost) = (0, 0, false);
        for (wait, beat) in events {
            now += wait;
            let mut out = Vec::new();
            machine.step(Monotonic(now), Input::Tick, &mut out);
            if out.iter().any(|o| matches!(o, Output::LeaseLost { .. })) {
                prop_assert!(!lost, "lost twice");
                prop_assert!(now - heard >= TTL_MS, "lost after {} ms", now - heard);
                lost = true;
            }
            prop_assert_eq!(lost, now - heard >= TTL_MS || lost);
            if beat && !lost {
                heartbeat(&mut machine, now, &node, epoch);
                heard = now;
            }
        }
    }
}
