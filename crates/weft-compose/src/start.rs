//! Starting.

use std::time::Duration;

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
        let before = self.engine.parts(Step::Start, unit.id, false).await?;
        if self.is_up(unit, &ready.record, Step::Start).await? {
            return Ok(());
        }
        let call = self.call(unit, &ready, Step::Start, true)?;
        let cli = self.cli(Step::Start).await?;
        let args = ["up", "--detach", "--no-build", "--remove-orphans"];
        match cli.run(&call, &args, UP_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let before: Vec<_> = before.into_iter().map(|part| part.id).collect();
                // An image may be gone since: the next attempt looks at everything again.
                self.vetted.lock().remove(&unit.id);
                self.undo_start(unit, &before).await?;
                Err(error)
            }
        }
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
