//! What goes beyond its limits, and what is not there.

use tokio::sync::watch;
use weft_types::Reason;

use crate::{Error, Observed, Phase};

use super::subject::{Failed, Ground, Outcome, Program, ensure};

/// More memory than its limit ends a unit, with the reason.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn memory_beyond_the_limit_is_oom_killed(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::MemoryHog).await?;
    // An engine may tell of the end before it tells of its cause.
    let is_told = |seen: &Observed| {
        matches!(
            seen.phase,
            Phase::Exited {
                reason: Some(Reason::OomKilled),
                ..
            }
        )
    };
    ground.until(unit.id, "it is oom-killed", is_told).await?;
    ground.remove(unit.id).await
}

/// A unit that forks without end harms no other, is told of, and can be removed.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn fork_bomb_is_contained(ground: &Ground<'_>) -> Outcome {
    let bomb = ground.started(Program::ForkBomb).await?;
    ground.until_printed(bomb.id, "forking").await?;
    let other = ground.started(Program::Serve).await?;
    ground.until_serving(other.id).await?;
    ground.observe(bomb.id).await?;
    ground.remove(bomb.id).await?;
    ground.until_serving(other.id).await?;
    ground.remove(other.id).await
}

/// Prepares and starts what should not be possible.
async fn refused(ground: &Ground<'_>, program: Program) -> Result<Error, Failed> {
    let mut unit = ground.unit(program);
    let secret = ("CONFORMANCE_SECRET".to_owned(), "k33p-m3".to_owned());
    unit.secrets.env.extend([secret]);
    let progress = watch::Sender::new(String::new());
    let prepared = ground.runtime.prepare(&unit, &progress);
    let mut outcome = ground.within("prepare", prepared).await?;
    if outcome.is_ok() {
        outcome = ground.within("start", ground.runtime.start(&unit)).await?;
    }
    let Err(error) = outcome else {
        return Err(Failed(format!("{program:?} runs")));
    };
    ensure(!error.detail.is_empty(), || "no detail".to_owned())?;
    let said = format!("{error} {:?}", error.evidence);
    ensure(!said.contains("k33p-m3"), || {
        format!("tells a secret: {said}")
    })?;
    let observed = ground.observe(unit.id).await?;
    let runs = observed.is_running();
    ensure(!runs, || format!("refused, and yet {observed:?}"))?;
    ground.remove(unit.id).await?;
    Ok(error)
}

/// What a unit is made of is not there: `image-not-found`, or `artifact-missing` for a disk.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn missing_image_is_told(ground: &Ground<'_>) -> Outcome {
    let error = refused(ground, Program::MissingImage).await?;
    let expected = [Reason::ImageNotFound, Reason::ArtifactMissing];
    ensure(expected.contains(&error.reason), || {
        format!("{}: {error}", error.reason)
    })
}

/// What a unit is made of has another digest than wanted: nothing is started.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn wrong_digest_is_refused(ground: &Ground<'_>) -> Outcome {
    let error = refused(ground, Program::WrongDigest).await?;
    let expected = [
        Reason::ImageNotFound,
        Reason::ImagePullFailed,
        Reason::ArtifactCorrupt,
        Reason::ArtifactMissing,
    ];
    ensure(expected.contains(&error.reason), || {
        format!("{}: {error}", error.reason)
    })
}
