//! The backend against real OCI runtimes and a real registry. The binary is also the monitor, and
//! the agent that is killed.

mod agent;
mod conformance;
mod features;
mod ground;
mod pulls;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A test: its name, and what it does.
type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("conformance::crun", conformance::crun),
    ("conformance::runc", conformance::runc),
    ("conformance::runsc", conformance::runsc),
    (
        "conformance::in_a_network_namespace",
        conformance::in_a_network_namespace,
    ),
    (
        "agent::killed_agent_leaves_container_and_log",
        agent::killed_agent_leaves_container_and_log,
    ),
    (
        "agent::killed_monitor_is_told_and_cleared_away",
        agent::killed_monitor_is_told_and_cleared_away,
    ),
    (
        "features::users_variables_and_directories",
        features::users_variables_and_directories,
    ),
    (
        "features::volumes_outlive_restarts",
        features::volumes_outlive_restarts,
    ),
    (
        "features::networks_are_what_was_asked_for",
        features::networks_are_what_was_asked_for,
    ),
    (
        "features::rights_are_few_unless_privileged",
        features::rights_are_few_unless_privileged,
    ),
    (
        "features::two_nodes_in_one_namespace_do_not_meet",
        features::two_nodes_in_one_namespace_do_not_meet,
    ),
    (
        "pulls::credentials_open_a_registry",
        pulls::credentials_open_a_registry,
    ),
    (
        "pulls::registries_are_asked_as_the_policy_says",
        pulls::registries_are_asked_as_the_policy_says,
    ),
    (
        "pulls::tampered_blobs_are_refused",
        pulls::tampered_blobs_are_refused,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(ground::MONITOR) => return weft_oci::monitor::main(),
        Some(agent::AGENT) => return agent::run(&args[2..]),
        _ => {}
    }
    let mut wanted = Arguments::from_args();
    // They look at the whole machine.
    wanted.test_threads = Some(1);
    let trials = TESTS.iter().map(|&(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&wanted, trials.collect()).exit_code()
}
