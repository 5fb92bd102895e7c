//! The port.

use std::time::Duration;

use async_trait::async_trait;
use weft_types::{Reason, RuntimeKind, UnitId};
use weft_unit::{
    CleanPolicy, Cleaned, ExecSession, ExecWanted, LogStream, LogsWanted, Missing, Observed, Owned,
    Probe, Progress, Step, Unit, UnitRuntime, Usage,
};

use super::Oci;
use crate::logs;
use crate::watch::Watch;

#[async_trait]
impl UnitRuntime for Oci {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Container
    }

    fn name(&self) -> &'static str {
        "oci"
    }

    async fn probe(&self) -> Result<Probe, Missing> {
        let none = |why: String| Missing {
            what: "an OCI runtime".into(),
            why,
            fix: "install crun or runc".into(),
        };
        let tried = self.inner.found().await;
        let found = tried.map_err(|e| none(e.to_string()))?;
        let Some(first) = found.runtimes.first() else {
            let why: Vec<String> = found.missing.iter().map(ToString::to_string).collect();
            return Err(none(match why.is_empty() {
                true => format!("none of {} is on PATH", self.inner.runtimes.join(", ")),
                false => why.join("; "),
            }));
        };
        let mut missing = found.missing.clone();
        missing.extend(self.inner.network.missing());
        Ok(Probe {
            version: version(&first.command.program).await,
            capabilities: found.runtimes.iter().map(|r| r.name.clone()).collect(),
            missing,
        })
    }

    async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), weft_unit::Error> {
        let prepared = self.inner.prepare(unit, progress).await;
        prepared.map_err(|e| e.at(Step::Prepare))
    }

    async fn start(&self, unit: &Unit) -> Result<(), weft_unit::Error> {
        self.inner.start(unit).await
    }

    async fn observe(&self, id: UnitId) -> Result<Observed, weft_unit::Error> {
        self.inner.observe(id).await.map_err(|e| e.at(Step::Run))
    }

    async fn changed(&self) {
        let exits = self.inner.records.exits_dir();
        let watch = self
            .inner
            .watch
            .get_or_try_init(|| async { Watch::new(&[&exits]) })
            .await;
        let told = match watch {
            Ok(watch) => watch.changed().await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "containers that end are only seen now and then");
            std::future::pending::<()>().await;
        }
    }

    async fn logs(&self, id: UnitId, wanted: LogsWanted) -> Result<LogStream, weft_unit::Error> {
        let unit = self.inner.records.of(id);
        if !unit.path().exists() {
            let detail = format!("{id} is not here");
            return Err(weft_unit::Error::new(
                Step::Run,
                Reason::RuntimeError,
                detail,
            ));
        }
        logs::follow(&self.inner.records, unit, wanted).map_err(|e| e.at(Step::Run))
    }

    async fn exec(&self, id: UnitId, wanted: ExecWanted) -> Result<ExecSession, weft_unit::Error> {
        let inside = self.inner.inside(id).await;
        inside
            .and_then(|inside| inside.exec(wanted))
            .map_err(|e| e.at(Step::Run))
    }

    async fn stats(&self, id: UnitId) -> Result<Usage, weft_unit::Error> {
        self.inner.stats(id).await.map_err(|e| e.at(Step::Run))
    }

    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), weft_unit::Error> {
        let set = self.inner.set_paused(id, is_paused).await;
        set.map_err(|e| e.at(Step::Run))
    }

    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), weft_unit::Error> {
        let stopped = self.inner.stop(id, grace).await;
        stopped.map_err(|e| e.at(Step::Stop))
    }

    async fn remove(&self, id: UnitId, keep_volumes: bool) -> Result<(), weft_unit::Error> {
        let removed = self.inner.remove(id, keep_volumes).await;
        removed.map_err(|e| e.at(Step::Remove))
    }

    async fn list(&self) -> Result<Vec<Owned>, weft_unit::Error> {
        let units = self.inner.units().map_err(|e| e.at(Step::Run))?;
        let owned = units.into_iter().map(|unit| {
            let record = self.inner.records.of(unit).record().ok().flatten();
            Owned {
                unit,
                revision: record.map_or(0, |record| record.revision),
            }
        });
        Ok(owned.collect())
    }

    async fn clean(&self, policy: CleanPolicy) -> Result<Cleaned, weft_unit::Error> {
        self.inner.clean(policy).await.map_err(|e| e.at(Step::Run))
    }
}

/// The first line of what the runtime says of itself.
async fn version(program: &std::path::Path) -> String {
    let asked = tokio::process::Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await;
    let said = asked.map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or_default().to_owned()
}
