//! What units write to their own layers.

use std::time::Duration;

use weft_types::{Bytes, UnitId, VolumeClass, VolumeSpec};

use crate::{Unit, UnitWork};

use super::exec::{run_inside, shell};
use super::subject::{Failed, Ground, Outcome, Program, ensure};

/// How much is written, in bytes.
const WRITTEN: u64 = 8 << 20;
/// What a file system may add to it or, by compressing, take from it.
const ROUGHLY: u64 = 1 << 20;

/// Gives a container a volume; those of other kinds are in files that the subject wrote.
fn with_volume(unit: &mut Unit) -> bool {
    let UnitWork::Container(spec) = &mut unit.work else {
        return false;
    };
    spec.volumes.push(VolumeSpec {
        target: "/kept".to_owned(),
        class: Some(VolumeClass::Local),
        ..VolumeSpec::default()
    });
    true
}

async fn write(ground: &Ground<'_>, id: UnitId, path: &str) -> Outcome {
    let mebibytes = WRITTEN >> 20;
    // Zeros would be holes for some.
    let script = format!("dd if=/dev/urandom of={path} bs=1M count={mebibytes} && sync");
    let ended = run_inside(ground, id, shell(&script)).await?;
    ensure(ended.code == 0, || format!("{script}: {}", ended.stderr))
}

async fn written(ground: &Ground<'_>, id: UnitId) -> Result<u64, Failed> {
    let usage = ground.within("stats", ground.runtime.stats(id)).await??;
    Ok(usage.disk_bytes)
}

/// What an instance writes to its own layer is told before long, without what it writes to a
/// volume. One that is started again after it has written more than its limit begins without that.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn tells_what_is_written(ground: &Ground<'_>) -> Outcome {
    let mut unit = ground.unit(Program::Serve);
    let has_volume = with_volume(&mut unit);
    ground.start(&unit).await?;
    ground.until_serving(unit.id).await?;
    let before = written(ground, unit.id).await?;
    if has_volume {
        write(ground, unit.id, "/kept/file").await?;
    }
    write(ground, unit.id, "/file").await?;
    let grown = ground
        .eventually("what it wrote is told", || async {
            let now = written(ground, unit.id).await.map_err(|failed| failed.0)?;
            let grown = now.saturating_sub(before);
            match grown + ROUGHLY > WRITTEN {
                true => Ok(grown),
                false => Err(format!("{before}, then {now}")),
            }
        })
        .await?;
    ensure(grown < WRITTEN + ROUGHLY, || {
        format!("wrote {WRITTEN}, and {grown} are told")
    })?;
    unit.resources.disk = Bytes(WRITTEN / 2);
    let stopped = ground.runtime.stop(unit.id, Duration::ZERO);
    ground.within("stop", stopped).await??;
    ground.until_exited(unit.id).await?;
    ground.start(&unit).await?;
    ground.until_serving(unit.id).await?;
    let ended = run_inside(ground, unit.id, shell("test ! -e /file")).await?;
    ensure(ended.code == 0, || "it still has its file".to_owned())?;
    ground.remove(unit.id).await
}
