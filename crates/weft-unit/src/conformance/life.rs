//! From probe to remove.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{CleanPolicy, ExecWanted, LogsWanted, Observed, Phase, Unit};

use super::subject::{Failed, Ground, Outcome, Program, ensure};

/// Beyond any time that ends by itself.
const LONG_GRACE: Duration = Duration::from_secs(25);
const SHORT_GRACE: Duration = Duration::from_secs(1);

/// The probe says a version, twice the same.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn probe_tells_what_is_there(ground: &Ground<'_>) -> Outcome {
    let failed = |missing: crate::Missing| Failed(format!("missing: {missing}"));
    let first = ground.within("probe", ground.runtime.probe()).await?;
    let first = first.map_err(failed)?;
    ensure(!first.version.is_empty(), || "no version".to_owned())?;
    let second = ground.within("probe", ground.runtime.probe()).await?;
    let second = second.map_err(failed)?;
    ensure(first == second, || format!("{first:?}, then {second:?}"))?;
    let kind = ground.unit(Program::Serve).work.kind();
    ensure(ground.runtime.kind() == kind, || {
        format!("runs {}, not {kind}", ground.runtime.kind())
    })
}

/// What is not there is absent, is stopped and is removed; it has no log, runs no commands and
/// uses nothing.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn calls_for_a_unit_that_is_not_there(ground: &Ground<'_>) -> Outcome {
    let id = ground.unit(Program::Serve).id;
    let runtime = &ground.runtime;
    let observed = ground.observe(id).await?;
    ensure(observed.phase == Phase::Absent, || format!("{observed:?}"))?;
    ground
        .within("stop", runtime.stop(id, LONG_GRACE))
        .await??;
    ground.within("remove", runtime.remove(id, false)).await??;
    ground.within("remove", runtime.remove(id, true)).await??;
    let logs = runtime.logs(id, LogsWanted::default());
    let logs = ground.within("logs", logs).await?;
    ensure(logs.is_err(), || "it has a log".to_owned())?;
    let command = ExecWanted {
        command: vec!["true".to_owned()],
        ..ExecWanted::default()
    };
    let exec = ground.within("exec", runtime.exec(id, command)).await?;
    ensure(exec.is_err(), || "it runs commands".to_owned())?;
    let stats = ground.within("stats", runtime.stats(id)).await?;
    ensure(stats.is_err(), || "it uses something".to_owned())
}

fn since(observed: &Observed) -> Result<u64, Failed> {
    match observed.phase {
        Phase::Running { since_ms } => Ok(since_ms),
        _ => Err(Failed(format!("does not run: {observed:?}"))),
    }
}

/// A unit runs, answers at its address, and ends; every call made a second time changes nothing.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn runs_and_serves_and_every_call_twice(ground: &Ground<'_>) -> Outcome {
    let before_ms = now_ms();
    let unit = ground.started(Program::Serve).await?;
    let first = ground
        .until(unit.id, "it runs", Observed::is_running)
        .await?;
    let began_ms = since(&first)?;
    // Engines round, and some count in whole seconds.
    ensure(
        began_ms + 5_000 >= before_ms && began_ms <= now_ms() + 5_000,
        || format!("runs since {began_ms} ms, started at {before_ms} ms"),
    )?;
    ground.until_serving(unit.id).await?;
    ground.start(&unit).await?;
    let second = ground.observe(unit.id).await?;
    ensure(since(&second)? == began_ms, || {
        format!("a second start made a second instance: {first:?}, then {second:?}")
    })?;
    if let Some(count) = ground.subject.instances(unit.id).await {
        ensure(count == 1, || format!("{count} instances"))?;
    }
    for _ in 0..2 {
        let stop = ground.runtime.stop(unit.id, LONG_GRACE);
        ground.within("stop", stop).await??;
        let seen = ground.observe(unit.id).await?;
        let ended = matches!(seen.phase, Phase::Exited { .. });
        ensure(ended, || format!("stopped, and yet {seen:?}"))?;
    }
    ground.remove(unit.id).await?;
    ground.remove(unit.id).await
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// The exit code of the program is told, with what it printed.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn tells_exit_codes(ground: &Ground<'_>) -> Outcome {
    for wanted in [0, 3] {
        let unit = ground.started(Program::Exit(wanted)).await?;
        let phase = ground.until_exited(unit.id).await?;
        let Phase::Exited {
            exit_code, signal, ..
        } = phase
        else {
            return Err(Failed(format!("{phase:?}")));
        };
        ensure(
            exit_code == Some(i32::from(wanted)) && signal.is_none(),
            || format!("ended with {exit_code:?}, {signal:?} instead of {wanted}"),
        )?;
        ground.until_printed(unit.id, "bye").await?;
        ground.remove(unit.id).await?;
    }
    Ok(())
}

/// What ended is started again.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn starts_again_what_ended(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    let stop = ground.runtime.stop(unit.id, LONG_GRACE);
    ground.within("stop", stop).await??;
    ground.until_exited(unit.id).await?;
    ground.start(&unit).await?;
    ground.until_serving(unit.id).await?;
    if let Some(count) = ground.subject.instances(unit.id).await {
        ensure(count == 1, || format!("{count} instances"))?;
    }
    ground.remove(unit.id).await
}

/// A program that obeys ends before its grace is over.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn stop_is_obeyed(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    let begun = Instant::now();
    let grace = ground.subject.patience();
    ground
        .within("stop", ground.runtime.stop(unit.id, grace))
        .await??;
    ensure(begun.elapsed() < grace / 2, || {
        format!("took {:?}", begun.elapsed())
    })?;
    let phase = ground.until_exited(unit.id).await?;
    if ground.can.exit_codes {
        let zero = matches!(
            phase,
            Phase::Exited {
                exit_code: Some(0),
                ..
            }
        );
        ensure(zero, || format!("did not end by itself: {phase:?}"))?;
    }
    ground.remove(unit.id).await
}

/// What was told to stand still does, goes on when it is told to, and can be stopped meanwhile.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn stands_still_and_goes_on(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    for _ in 0..2 {
        set_paused(ground, &unit, true).await?;
    }
    let restarted = ground.subject.restarted().await;
    let stands_still = || async {
        let seen = restarted.observe(unit.id).await;
        let seen = seen.map_err(|error| error.to_string())?;
        match seen.phase {
            Phase::Paused => Ok(()),
            _ => Err(format!("{seen:?}")),
        }
    };
    ground
        .eventually("another agent knows it", stands_still)
        .await?;
    for _ in 0..2 {
        set_paused(ground, &unit, false).await?;
    }
    ground.until_serving(unit.id).await?;
    set_paused(ground, &unit, true).await?;
    let stop = ground.runtime.stop(unit.id, SHORT_GRACE);
    ground.within("stop", stop).await??;
    ground.until_exited(unit.id).await?;
    let ended = ground.runtime.set_paused(unit.id, true);
    let ended = ground.within("pause what has ended", ended).await?;
    ensure(ended.is_err(), || "what has ended was paused".to_owned())?;
    ground.remove(unit.id).await?;

    let unit = ground.started(Program::IgnoreTerm).await?;
    ground
        .until(unit.id, "it runs", Observed::is_running)
        .await?;
    set_paused(ground, &unit, true).await?;
    ground.remove(unit.id).await
}

async fn set_paused(ground: &Ground<'_>, unit: &Unit, is_paused: bool) -> Outcome {
    let set = ground.runtime.set_paused(unit.id, is_paused);
    ground.within("pause or resume", set).await??;
    let what = if is_paused {
        "it stands still"
    } else {
        "it goes on"
    };
    let wanted = |seen: &Observed| match is_paused {
        true => seen.phase == Phase::Paused,
        false => seen.is_running(),
    };
    ground.until(unit.id, what, wanted).await.map(drop)
}

/// A program that does not obey is killed after the grace, not before.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn stop_kills_after_the_grace(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::IgnoreTerm).await?;
    ground.until_printed(unit.id, "deaf").await?;
    let begun = Instant::now();
    let stop = ground.runtime.stop(unit.id, SHORT_GRACE);
    ground.within("stop", stop).await??;
    let took = begun.elapsed();
    ensure(took >= SHORT_GRACE.mul_f32(0.9), || {
        format!("killed after {took:?} already")
    })?;
    ensure(took < SHORT_GRACE + Duration::from_secs(10), || {
        format!("took {took:?}")
    })?;
    let phase = ground.until_exited(unit.id).await?;
    if ground.can.exit_codes {
        let killed = matches!(
            phase,
            Phase::Exited {
                signal: Some(9),
                ..
            } | Phase::Exited {
                exit_code: Some(137),
                ..
            }
        );
        ensure(killed, || format!("not killed: {phase:?}"))?;
    }
    ground.remove(unit.id).await
}

/// Removing what runs ends it, also when it is deaf.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn remove_ends_what_runs(ground: &Ground<'_>) -> Outcome {
    for program in [Program::Serve, Program::IgnoreTerm] {
        let unit = ground.started(program).await?;
        ground
            .until(unit.id, "it runs", Observed::is_running)
            .await?;
        ground.remove(unit.id).await?;
    }
    Ok(())
}

/// The end of an instance is told without being asked for.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn tells_changes(ground: &Ground<'_>) -> Outcome {
    let unit = ground.unit(Program::Talk);
    let told = async {
        loop {
            ground.runtime.changed().await;
            // What is still being made may not be observed yet.
            let seen = ground.runtime.observe(unit.id).await;
            if seen.is_ok_and(|seen| matches!(seen.phase, Phase::Exited { .. })) {
                return;
            }
        }
    };
    // From before there is something that could change: a backend may look out for changes only
    // once somebody waits for them.
    let told = ground.within("a told change", told);
    tokio::try_join!(told, ground.start(&unit))?;
    ground.remove(unit.id).await
}

/// Cleaning takes nothing from what runs; what it took is fetched again.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn cleans_only_what_nobody_uses(ground: &Ground<'_>) -> Outcome {
    let everything = CleanPolicy {
        unused_for: Duration::ZERO,
        min_free_bytes: u64::MAX,
    };
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    ground
        .within("clean", ground.runtime.clean(everything))
        .await??;
    ground.until_serving(unit.id).await?;
    ground.remove(unit.id).await?;
    ground
        .within("clean", ground.runtime.clean(everything))
        .await??;
    ground.start(&unit).await?;
    ground.until_serving(unit.id).await?;
    ground.remove(unit.id).await
}
