//! Starting.

use std::time::Duration;

use weft_types::Reason;
use weft_unit::{Error, Progress, Step, Unit};

use crate::compose::Compose;
use crate::over::Bound;

const UP_TIMEOUT: Duration = Duration::from_secs(600);

impl Compose {
    /// Starts what does not run.
    pub(crate) async fn bring_up(&self, unit: &Unit) -> Result<(), Error> {
        let progress = Progress::new(String::new());
        let ready = self.make_ready(unit, &progress).await?;
        if matches!(self.bound(unit).await?, Bound::Parent(_)) {
            self.apply_limits(unit.id, &ready.record, Step::Start)?;
        }
        if self.is_up(unit, &ready.record, Step::Start).await? {
            return Ok(());
        }
        let limit = unit.resources.disk.0;
        let before = self.engine.parts(Step::Start, unit.id, limit > 0).await?;
        let call = self.call(unit, &ready, Step::Start, true)?;
        let cli = self.cli(Step::Start).await?;
        let mut args = vec!["up", "--detach", "--no-build", "--remove-orphans"];
        // Ended for what they have written, they must not begin with that.
        let written: u64 = before.iter().map(|part| part.written).sum();
        if limit > 0 && written > limit {
            args.push("--force-recreate");
        }
        match cli.run(&call, &args, UP_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let before: Vec<_> = before.into_iter().map(|part| part.id).collect();
                // An image may be gone since: the next attempt looks at everything again.
                self.vetted.lock().remove(&unit.id);
                let error = self.with_cause(unit, &before, error).await;
                self.undo_start(unit, &before).await?;
                Err(error)
            }
        }
    }

    /// What the tool knows nothing of: the kernel ended a program that was being started, for the
    /// memory that all services took together.
    async fn with_cause(&self, unit: &Unit, before: &[String], mut error: Error) -> Error {
        let parts = self.engine.parts(Step::Start, unit.id, false).await;
        let mut made = parts.unwrap_or_default();
        made.retain(|part| !before.contains(&part.id));
        for part in made {
            let found = self.engine.inspect(Step::Start, &part.id).await;
            let state = found.ok().flatten().and_then(|found| found.state);
            if state.is_some_and(|state| state.oom_killed == Some(true)) {
                error.reason = Reason::OomKilled;
                error.detail = format!(
                    "its services need more memory to start than the unit has; raise \
                     `resources.memory`: {}",
                    error.detail
                );
                break;
            }
        }
        error
    }

    /// Removes the containers that a failed start has made.
    async fn undo_start(&self, unit: &Unit, before: &[String]) -> Result<(), Error> {
        for part in self.engine.parts(Step::Start, unit.id, false).await? {
            if !before.contains(&part.id) {
                self.engine.remove_container(Step::Start, &part.id).await?;
            }
        }
        Ok(())
    }
}
