//! What units print and use.

use weft_types::UnitId;

use crate::{LogLine, LogsWanted, Observed};

use super::subject::{Ground, Outcome, Program, ensure, text};

fn is_from(line: &LogLine, wanted: &str, is_stderr: bool) -> bool {
    text(line) == wanted && line.is_stderr == is_stderr
}

/// Both streams are there, in order, each with its time.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn tells_output_and_error_apart(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_printed(unit.id, "out-2").await?;
    ground.until_printed(unit.id, "err-1").await?;
    let lines = ground.lines(unit.id, LogsWanted::default()).await?;
    let on_stderr = ground.can.stderr;
    ensure(
        lines.iter().any(|line| is_from(line, "out-1", false))
            && lines.iter().any(|line| is_from(line, "err-1", on_stderr)),
        || format!("{lines:?}"),
    )?;
    let place = |wanted: &str| lines.iter().position(|line| text(line) == wanted);
    ensure(place("out-1") < place("out-2"), || {
        format!("not in order: {lines:?}")
    })?;
    ensure(lines.iter().all(|line| line.at_ms > 0), || {
        format!("a line without its time: {lines:?}")
    })?;
    ground.remove(unit.id).await
}

/// The last lines, and those later than a moment.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn gives_the_tail_and_what_is_later(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Talk).await?;
    ground.until_exited(unit.id).await?;
    ground.until_printed(unit.id, "last").await?;
    let all = ground.lines(unit.id, LogsWanted::default()).await?;
    let tail = LogsWanted {
        tail: Some(2),
        ..LogsWanted::default()
    };
    let tail = ground.lines(unit.id, tail).await?;
    ensure(tail.len() == 2 && tail[..] == all[all.len() - 2..], || {
        format!("the last two of {all:?} are not {tail:?}")
    })?;
    gives_what_is_later(ground, unit.id, &all).await?;
    ground.remove(unit.id).await
}

/// Asks for what is later than the last line before the last moment of an instance that has ended.
async fn gives_what_is_later(ground: &Ground<'_>, id: UnitId, all: &[LogLine]) -> Outcome {
    let end_ms = all.last().map_or(0, |line| line.at_ms);
    // A machine that stood still may have given all lines the same time.
    let Some(pivot) = all.iter().rfind(|line| line.at_ms < end_ms) else {
        return Ok(());
    };
    let wanted = LogsWanted {
        since_ms: Some(pivot.at_ms),
        ..LogsWanted::default()
    };
    let later = ground.lines(id, wanted).await?;
    let expected = all.iter().filter(|line| line.at_ms > pivot.at_ms);
    ensure(later.iter().eq(expected), || {
        format!("later than {pivot:?} of {all:?}: {later:?}")
    })
}

/// A follower gets all lines once, the new ones as they come, and the end with the instance.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn follows_until_the_end(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Talk).await?;
    let follow = LogsWanted {
        follow: true,
        ..LogsWanted::default()
    };
    let lines = ground.lines(unit.id, follow).await?;
    for wanted in ["line-1", "line-2", "line-3", "line-4", "line-5", "last"] {
        let count = lines.iter().filter(|line| text(line) == wanted).count();
        ensure(count == 1, || {
            format!("{wanted} {count} times in {lines:?}")
        })?;
    }
    ground.until_exited(unit.id).await?;
    ground.remove(unit.id).await
}

/// A follower that is dropped harms nobody.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn follower_may_go_away(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    let follow = LogsWanted {
        follow: true,
        ..LogsWanted::default()
    };
    let logs = ground.runtime.logs(unit.id, follow);
    let mut stream = ground.within("logs", logs).await??;
    let first = ground.within("a line", stream.recv()).await?;
    ensure(first.is_some(), || "the log ended at once".to_owned())?;
    drop(stream);
    ground.until_serving(unit.id).await?;
    ground.remove(unit.id).await
}

/// Memory and processes are told, and the CPU time grows never smaller.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn tells_what_is_used(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground
        .until(unit.id, "it runs", Observed::is_running)
        .await?;
    ground.until_serving(unit.id).await?;
    let first = ground
        .within("stats", ground.runtime.stats(unit.id))
        .await??;
    ensure(
        first.memory_bytes > 0 && first.pids > 0 && first.cpu_us > 0,
        || format!("{first:?}"),
    )?;
    let second = ground
        .within("stats", ground.runtime.stats(unit.id))
        .await??;
    ensure(second.cpu_us >= first.cpu_us, || {
        format!("{first:?}, then {second:?}")
    })?;
    ground.remove(unit.id).await
}
