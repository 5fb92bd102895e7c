//! The sandbox against the real kernel. Run as root for everything; without root the tests of what needs it are skipped.
//!
//! This binary is the spawner (`__spawner`) and an agent to be killed (`__agent`) as well as the tests.

mod containment;
mod death;
mod limits;
mod processes;
mod setup;

use libtest_mimic::Trial;
use setup::case;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(weft_sandbox::spawner::ARGUMENT) => {
            let fd = arguments.next().and_then(|fd| fd.parse().ok()).unwrap_or(3);
            weft_sandbox::spawner::main(fd)
        }
        Some("__agent") => death::agent(&arguments.next().unwrap_or_default()),
        _ => setup::run(cases()),
    }
}

fn cases() -> Vec<Trial> {
    vec![
        case(
            "exit_codes_and_signals_are_told_in_both_sandboxes",
            processes::exit_codes_and_signals,
        ),
        case(
            "a_missing_program_is_127_and_one_not_executable_126",
            processes::spawn_failures,
        ),
        case(
            "standard_input_of_any_size_is_read",
            processes::standard_input,
        ),
        case(
            "output_beyond_its_limit_is_cut_and_flagged",
            processes::truncation,
        ),
        case(
            "an_agent_that_does_not_consume_stops_the_writer",
            processes::backpressure,
        ),
        case(
            "the_environment_is_only_what_was_asked_for",
            processes::clean_environment,
        ),
        case(
            "no_descriptor_but_the_standard_streams_is_open",
            processes::closed_descriptors,
        ),
        case(
            "timeout_kills_grandchildren_in_sessions_of_their_own",
            processes::timeout,
        ),
        case("grace_lets_a_program_clean_up", processes::grace),
        case(
            "a_background_child_dies_with_its_task",
            processes::background_child,
        ),
        case("dropping_a_process_kills_it", processes::dropped),
        case("a_thousand_at_once_leave_nothing", processes::thousand),
        case("a_fork_bomb_is_contained", limits::fork_bomb),
        case("a_memory_hog_is_oom_killed", limits::memory_hog),
        case("a_large_file_is_disk_exceeded", limits::large_file),
        case("many_small_files_are_disk_exceeded", limits::many_files),
        case("a_quota_slows_a_busy_loop", limits::cpu_quota),
        case("there_is_no_network_inside", containment::no_network),
        case(
            "nothing_but_the_work_directory_can_be_written",
            containment::read_only,
        ),
        case(
            "host_processes_and_private_directories_are_not_seen",
            containment::hidden,
        ),
        case(
            "privileged_calls_are_refused",
            containment::privileged_calls,
        ),
        case(
            "the_task_has_no_capabilities_and_a_host_uid_of_its_own",
            containment::identity,
        ),
        case("two_tasks_share_nothing", containment::strangers),
        case("a_killed_agent_takes_everything_along", death::killed_agent),
        case(
            "a_killed_spawner_takes_everything_along",
            death::killed_spawner,
        ),
        case("garbage_ends_the_spawner_in_order", death::garbage),
        case("a_sweep_removes_what_an_earlier_life_left", death::sweep),
        case("the_probe_tells_what_works", containment::probe),
        case(
            "without_root_the_sandbox_holds_as_well",
            containment::unprivileged,
        ),
    ]
}
