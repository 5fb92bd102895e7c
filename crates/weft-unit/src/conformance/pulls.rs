//! When a registry is asked for an image; for backends that fetch images themselves.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_types::{ContainerSpec, PullPolicy, Reason};

use super::images::{ImageConfig, Registry, build};
use super::subject::{Failed, Outcome, ensure};
use crate::{Phase, Unit, UnitRuntime};

const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A registry with a tag that moves on, and who runs what it stood for.
struct Moving<'a> {
    runtime: &'a dyn UnitRuntime,
    registry: &'a Registry,
    dir: &'a Path,
    unit: &'a (dyn Fn(ContainerSpec) -> Unit + Sync),
}

impl Moving<'_> {
    /// Puts an image under the tag whose program ends with this code.
    fn push(&self, code: i32) -> Result<String, Failed> {
        let config = ImageConfig {
            entrypoint: ["/bin/sh", "-c", "exit $(cat /etc/code)"]
                .map(str::to_owned)
                .to_vec(),
            files: vec![("/etc/code".to_owned(), code.to_string().into_bytes(), false)],
        };
        let image = build(self.dir, &format!("code-{code}"), &config).map_err(Failed)?;
        let pushed = self.registry.push(&image, "moving:1").map_err(Failed)?;
        Ok(pushed.tagged)
    }

    async fn prepared(&self, image: &str, pull: PullPolicy) -> Result<Unit, crate::Error> {
        let unit = (self.unit)(ContainerSpec {
            image: image.to_owned(),
            pull,
            ..ContainerSpec::default()
        });
        let progress = watch::Sender::new(String::new());
        self.runtime.prepare(&unit, &progress).await?;
        Ok(unit)
    }

    /// The code with which a new unit ends.
    async fn code(&self, image: &str, pull: PullPolicy) -> Result<i32, Failed> {
        let unit = self.prepared(image, pull).await?;
        let code = self.run(&unit).await?;
        self.runtime.remove(unit.id, false).await?;
        Ok(code)
    }

    async fn run(&self, unit: &Unit) -> Result<i32, Failed> {
        self.runtime.start(unit).await?;
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.runtime.observe(unit.id).await?;
            if let Phase::Exited { exit_code, .. } = seen.phase {
                return exit_code.ok_or_else(|| Failed("no exit code".to_owned()));
            }
            ensure(Instant::now() < end, || {
                format!("it does not end: {seen:?}")
            })?;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// What the node has is taken unless a new unit asks for what its tag stands for now, and nothing is
/// fetched for one that says so. `unit` makes a new unit of a specification.
///
/// # Errors
/// What went wrong.
pub async fn pull_policies(
    runtime: &dyn UnitRuntime,
    registry: &Registry,
    dir: &Path,
    unit: &(dyn Fn(ContainerSpec) -> Unit + Sync),
) -> Outcome {
    use PullPolicy::{Always, Missing, Never};
    let moving = Moving {
        runtime,
        registry,
        dir,
        unit,
    };
    let image = moving.push(11)?;
    let refused = moving.prepared(&image, Never).await.err();
    let is_told =
        |it: &crate::Error| it.reason == Reason::ImageNotFound && it.detail.contains("never");
    ensure(refused.as_ref().is_some_and(is_told), || {
        format!("{refused:?}")
    })?;
    let early = moving.prepared(&image, Always).await?;
    let mut codes = vec![moving.run(&early).await?];
    moving.push(22)?;
    for pull in [Missing, Never] {
        codes.push(moving.code(&image, pull).await?);
    }
    // One that has run is not prepared anew.
    let progress = watch::Sender::new(String::new());
    runtime.prepare(&early, &progress).await?;
    codes.push(moving.run(&early).await?);
    runtime.remove(early.id, false).await?;
    for pull in [Always, Always, Missing, Never] {
        codes.push(moving.code(&image, pull).await?);
    }
    ensure(codes == [11, 11, 11, 11, 22, 22, 22, 22], || {
        format!("{codes:?}")
    })
}
