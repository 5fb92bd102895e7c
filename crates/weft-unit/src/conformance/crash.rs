//! Callers that are killed at any instruction, and several of them.

use std::time::Duration;

use tokio::sync::watch;

use crate::{Observed, Phase, Unit};

use super::subject::{Failed, Ground, Outcome, Program, ensure};

/// After how long calls are dropped, in milliseconds: at once, and spread over what a start takes.
const DROPPED_AFTER_MS: [u64; 9] = [0, 1, 5, 15, 40, 80, 150, 300, 600];

/// What an agent before has started is found by the next one, which can end it.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn list_finds_ours_after_a_restart(ground: &Ground<'_>) -> Outcome {
    let running = ground.started(Program::Serve).await?;
    ground.until_serving(running.id).await?;
    let ended = ground.started(Program::Exit(3)).await?;
    ground.until_exited(ended.id).await?;
    let restarted = ground.subject.restarted().await;
    for unit in [&running, &ended] {
        let owned = ground.owned(&restarted, unit.id).await?;
        let found = owned.len() == 1 && owned[0].revision == unit.revision;
        ensure(found, || format!("{owned:?} of {unit:?}"))?;
    }
    let seen = ground
        .within("observe", restarted.observe(running.id))
        .await??;
    ensure(seen.is_running(), || format!("{seen:?}"))?;
    let seen = ground
        .within("observe", restarted.observe(ended.id))
        .await??;
    let code = matches!(seen.phase, Phase::Exited { exit_code, .. }
        if exit_code == Some(3) || !ground.can.exit_codes);
    ensure(code, || format!("{seen:?}"))?;
    ground.within("start", restarted.start(&running)).await??;
    for unit in [&running, &ended] {
        ground
            .within("remove", restarted.remove(unit.id, false))
            .await??;
    }
    let left = ground.within("list", restarted.list()).await??;
    ensure(left.is_empty(), || format!("left: {left:?}"))
}

/// Agents that share an engine do not see each other's units.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn leaves_other_nodes_alone(ground: &Ground<'_>) -> Outcome {
    let Some(stranger) = ground.subject.stranger().await else {
        return Ok(());
    };
    let unit = ground.started(Program::Serve).await?;
    let seen = ground.owned(&stranger, unit.id).await?;
    ensure(seen.is_empty(), || format!("another node lists {seen:?}"))?;
    let observed = ground
        .within("observe", stranger.observe(unit.id))
        .await??;
    ensure(observed.phase == Phase::Absent, || {
        format!("another node sees {observed:?}")
    })?;
    let stop = stranger.stop(unit.id, Duration::ZERO);
    ground.within("stop", stop).await??;
    let remove = stranger.remove(unit.id, false);
    ground.within("remove", remove).await??;
    ground.until_serving(unit.id).await?;
    ground.remove(unit.id).await
}

/// Two starts at once make one instance, and both succeed.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn two_starts_at_once_make_one(ground: &Ground<'_>) -> Outcome {
    let unit = ground.unit(Program::Serve);
    let other = ground.subject.restarted().await;
    let progress = watch::Sender::new(String::new());
    let prepare = ground.runtime.prepare(&unit, &progress);
    ground.within("prepare", prepare).await??;
    let both = async { tokio::join!(ground.runtime.start(&unit), other.start(&unit)) };
    let (first, second) = ground.within("two starts", both).await?;
    first?;
    second?;
    ground.until_serving(unit.id).await?;
    let owned = ground.owned(&ground.runtime, unit.id).await?;
    ensure(owned.len() == 1, || format!("{owned:?}"))?;
    if let Some(count) = ground.subject.instances(unit.id).await {
        ensure(count == 1, || format!("{count} instances"))?;
    }
    ground.remove(unit.id).await
}

/// Prepares and starts, and drops the call after a while.
async fn interrupted(ground: &Ground<'_>, unit: &Unit, after_ms: u64) {
    let progress = watch::Sender::new(String::new());
    let call = async {
        ground.runtime.prepare(unit, &progress).await?;
        ground.runtime.start(unit).await
    };
    // How it ended does not matter: what is there afterwards does.
    let _ = tokio::time::timeout(Duration::from_millis(after_ms), call).await;
}

/// What a dropped call left half made is removed by the next caller, who learns of it by `list` or
/// removes it anyway.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn dropped_calls_leave_nothing(ground: &Ground<'_>) -> Outcome {
    for after_ms in DROPPED_AFTER_MS {
        let unit = ground.unit(Program::Serve);
        interrupted(ground, &unit, after_ms).await;
        let restarted = ground.subject.restarted().await;
        ground
            .within("remove", restarted.remove(unit.id, false))
            .await??;
        // The engine may still be at a request that nobody waits for any more, of this round or one
        // before: what it makes of it is found by `list`, as an agent would find it that looks now
        // and then.
        ground
            .eventually("what was half made is gone", || async {
                let owned = restarted.list().await;
                let owned = owned.map_err(|error| error.to_string())?;
                let left = ground.subject.leftovers().await;
                if owned.is_empty() && left.is_empty() {
                    return Ok(());
                }
                for one in &owned {
                    let removed = restarted.remove(one.unit, false).await;
                    removed.map_err(|error| error.to_string())?;
                }
                Err(format!("dropped after {after_ms} ms: {owned:?} {left:?}"))
            })
            .await?;
    }
    Ok(())
}

/// A start after a dropped one succeeds, with one instance.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn dropped_start_is_taken_up_again(ground: &Ground<'_>) -> Outcome {
    for after_ms in DROPPED_AFTER_MS {
        let unit = ground.unit(Program::Serve);
        interrupted(ground, &unit, after_ms).await;
        ground
            .start(&unit)
            .await
            .map_err(|Failed(how)| Failed(format!("dropped after {after_ms} ms, then: {how}")))?;
        ground
            .until(unit.id, "it runs", Observed::is_running)
            .await?;
        ground.until_serving(unit.id).await?;
        if let Some(count) = ground.subject.instances(unit.id).await {
            ensure(count == 1, || format!("{count} instances"))?;
        }
        ground.remove(unit.id).await?;
    }
    Ok(())
}
