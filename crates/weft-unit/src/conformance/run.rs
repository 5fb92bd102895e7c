//! Runs the scenarios and says how they went.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use weft_types::RuntimeKind;

use super::subject::{Failed, Ground, Outcome, Subject};
use super::{crash, exec, layer, life, limits, output};

type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// A scenario with its name.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As in the report and in `WEFT_SCENARIO`.
    pub name: &'static str,
    /// What runs it.
    pub run: for<'a> fn(&'a Ground<'a>) -> Running<'a>,
}

macro_rules! scenarios {
    ($($module:ident::$name:ident,)*) => {
        /// Every scenario, in the order in which they are run.
        pub const SCENARIOS: &[Scenario] = &[$(
            Scenario {
                name: stringify!($name),
                run: |ground| Box::pin($module::$name(ground)),
            },
        )*];
    };
}

scenarios! {
    life::probe_tells_what_is_there,
    life::calls_for_a_unit_that_is_not_there,
    life::runs_and_serves_and_every_call_twice,
    life::tells_exit_codes,
    life::starts_again_what_ended,
    life::stop_is_obeyed,
    life::stands_still_and_goes_on,
    life::stop_kills_after_the_grace,
    life::remove_ends_what_runs,
    life::tells_changes,
    life::cleans_only_what_nobody_uses,
    output::tells_output_and_error_apart,
    output::gives_the_tail_and_what_is_later,
    output::follows_until_the_end,
    output::follower_may_go_away,
    output::tells_what_is_used,
    layer::tells_what_is_written,
    exec::runs_commands_inside,
    exec::passes_standard_input,
    exec::missing_command_gives_127,
    exec::gives_a_terminal,
    exec::dropped_session_ends_the_command,
    exec::secrets_are_variables,
    exec::refuses_what_does_not_run,
    limits::memory_beyond_the_limit_is_oom_killed,
    limits::fork_bomb_is_contained,
    limits::missing_image_is_told,
    limits::wrong_digest_is_refused,
    crash::list_finds_ours_after_a_restart,
    crash::leaves_other_nodes_alone,
    crash::two_starts_at_once_make_one,
    crash::dropped_calls_leave_nothing,
    crash::dropped_start_is_taken_up_again,
}

/// How a run went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Scenarios that passed.
    pub passed: Vec<&'static str>,
    /// Scenarios that do not apply, and why.
    pub not_applicable: Vec<(&'static str, String)>,
    /// Scenarios that failed, and how.
    pub failed: Vec<(&'static str, String)>,
}

fn is_wanted(name: &str) -> bool {
    match std::env::var("WEFT_SCENARIO") {
        Ok(wanted) => wanted.split(',').any(|w| w.trim() == name),
        Err(_) => true,
    }
}

/// Why a kind's abilities leave a scenario out.
fn lacks(ground: &Ground<'_>, name: &str) -> Option<&'static str> {
    let can = ground.can;
    let (able, needs) = match name {
        "gives_a_terminal" => (can.exec && can.tty, "a terminal for commands inside"),
        "secrets_are_variables" => (can.exec && can.secret_env, "variables from secrets"),
        "runs_commands_inside"
        | "passes_standard_input"
        | "missing_command_gives_127"
        | "dropped_session_ends_the_command"
        | "refuses_what_does_not_run" => (can.exec, "commands inside"),
        "tells_what_is_written" => (
            can.exec && ground.runtime.kind() != RuntimeKind::Vm,
            "layer of its own that commands could write to",
        ),
        "tells_exit_codes" => (can.exit_codes, "exit codes"),
        "tells_changes" => (can.events, "events"),
        "memory_beyond_the_limit_is_oom_killed" => (can.memory_limit, "a limit of memory"),
        "fork_bomb_is_contained" => (can.process_limit, "a limit of processes"),
        "missing_image_is_told" => (can.images, "images"),
        "wrong_digest_is_refused" => (can.digests, "digests"),
        _ => (true, ""),
    };
    (!able).then_some(needs)
}

/// Removes whatever a failed scenario has left, so that the next one can be judged.
async fn sweep(ground: &Ground<'_>) {
    let Ok(Ok(all)) = ground.within("list", ground.runtime.list()).await else {
        return;
    };
    for owned in all {
        let removal = ground.runtime.remove(owned.unit, false);
        if let Err(failed) = ground.within("remove", removal).await {
            eprintln!("  sweeping {}: {}", owned.unit, failed.0);
        }
    }
}

async fn nothing_left(ground: &Ground<'_>) -> Outcome {
    ground
        .eventually("nothing is left behind", || async {
            let left = ground.subject.leftovers().await;
            if left.is_empty() {
                return Ok(());
            }
            Err(left.join("; "))
        })
        .await
}

/// Runs one scenario, and sees that nothing is left of it.
///
/// # Errors
/// What failed.
pub async fn run(subject: &dyn Subject, scenario: Scenario) -> Outcome {
    let ground = Ground::new(subject);
    let outcome = (scenario.run)(&ground).await;
    if outcome.is_err() {
        sweep(&ground).await;
    }
    let left = nothing_left(&ground).await;
    match (outcome, left) {
        (Err(Failed(first)), Err(Failed(second))) => Err(Failed(format!("{first}; {second}"))),
        (Err(failed), _) | (_, Err(failed)) => Err(failed),
        _ => Ok(()),
    }
}

/// Runs all scenarios that apply, one after another, and prints how each went.
///
/// # Panics
/// With the names of those that failed, after all were run.
pub async fn run_all(subject: &dyn Subject) -> Report {
    let ground = Ground::new(subject);
    let mut report = Report::default();
    for &scenario in SCENARIOS {
        let name = scenario.name;
        if !is_wanted(name) {
            continue;
        }
        let lacking = lacks(&ground, name).map(|what| format!("this kind has no {what}"));
        if let Some(why) = subject.not_applicable(name).or(lacking) {
            eprintln!("not applicable  {name}: {why}");
            report.not_applicable.push((name, why));
            continue;
        }
        let begun = Instant::now();
        match run(subject, scenario).await {
            Ok(()) => {
                eprintln!("ok              {name} ({:.1?})", begun.elapsed());
                report.passed.push(name);
            }
            Err(Failed(how)) => {
                eprintln!("FAILED          {name} ({:.1?}): {how}", begun.elapsed());
                report.failed.push((name, how));
            }
        }
    }
    let backend = ground.runtime.name();
    assert!(
        report.failed.is_empty(),
        "{backend}: {} of {} scenarios failed:\n{}",
        report.failed.len(),
        report.failed.len() + report.passed.len(),
        report
            .failed
            .iter()
            .map(|(name, how)| format!("  {name}: {how}\n"))
            .collect::<String>()
    );
    report
}
