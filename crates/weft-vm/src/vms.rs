//! The port, for machines.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_types::{Reason, RuntimeKind, UnitId};
use weft_unit::{
    CleanPolicy, Cleaned, Error, ExecSession, ExecWanted, LogStream, LogsWanted, Missing, Observed,
    Owned, Phase, Probe, Progress, Step, Unit, UnitRuntime, Usage,
};

use crate::cgroup::Hierarchies;
use crate::disks::Disks;
use crate::filter::Filter;
use crate::images::Images;
use crate::machine::{Control, Door, Link, State};
use crate::options::Options;
use crate::prepare::LOCK_PATIENCE;
use crate::qemu::Qemu;
use crate::record::{self, Lock, Record, Run};
use crate::shared::Shared;
use crate::{exec, fail, life, logs, net, prepare, watch};

const AGENT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a command waits for the guest's agent, which is there some time after the guest's other
/// programs, and for a moment not when it is started again.
const AGENT_APPEARS: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Virtual machines of one node. Dropping it leaves them running; the next one over the same
/// directory finds them.
pub struct Vms {
    shared: Arc<Shared>,
}

impl Drop for Vms {
    fn drop(&mut self) {
        for (_, watcher) in self.shared.watchers.lock().drain() {
            watcher.abort();
        }
    }
}

fn not_there(step: Step, what: &str) -> Error {
    Error::new(step, Reason::RuntimeError, what)
}

impl Vms {
    /// Opens the directory of a node, and watches what runs there. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be made, or TLS cannot be set up.
    pub async fn open(mut options: Options) -> Result<Self, Error> {
        let made = record::make_dir(&options.data_dir)
            .and_then(|()| std::fs::canonicalize(&options.data_dir));
        options.data_dir =
            made.map_err(|e| fail::file(Step::Probe, "making", &options.data_dir, &e))?;
        for pool in options.pools.values_mut() {
            let made = record::make_dir(pool).and_then(|()| std::fs::canonicalize(&*pool));
            *pool = made.map_err(|e| fail::file(Step::Probe, "making pool", pool, &e))?;
        }
        let shared = Arc::new(Shared {
            hypervisor: Box::new(Qemu::new(&options)),
            images: Images::new(&options)?,
            disks: Disks::new(&options),
            filter: Filter::new(&options),
            changed: Notify::new(),
            watchers: Mutex::default(),
            options,
        });
        let vms = Self { shared };
        let mut running = vms.list().await?;
        running.retain(|owned| vms.run_of(owned.unit).is_some());
        if !running.is_empty() {
            vms.shared.filter.ensure().await;
        }
        for owned in running {
            watch::ensure(&vms.shared, owned.unit);
        }
        Ok(vms)
    }

    fn record(&self, id: UnitId) -> Option<Record> {
        record::read(&self.shared.dir(id))
    }

    /// The run of a unit that goes on.
    fn run_of(&self, id: UnitId) -> Option<Run> {
        let run = self.record(id).and_then(|record| record.run);
        run.filter(|run| run.ended.is_none())
    }

    async fn control(&self, id: UnitId, step: Step) -> Result<Box<dyn Control>, Error> {
        if self.run_of(id).is_none() {
            return Err(not_there(step, "the machine does not run"));
        }
        let dir = self.shared.dir(id);
        self.shared.hypervisor.connect(&dir, Door::Calls).await
    }

    /// Waits for the guest's agent. Nobody else is kept from the machine meanwhile.
    async fn until_agent(&self, id: UnitId) -> Result<(), Error> {
        let end = Instant::now() + AGENT_APPEARS;
        loop {
            let vitals = self.control(id, Step::Run).await?.vitals().await?;
            if vitals.has_agent {
                return Ok(());
            }
            if vitals.state != State::Running || Instant::now() >= end {
                return Err(exec::no_agent());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn network_bytes(&self, id: UnitId, record: &Record, has_agent: bool) -> (u64, u64) {
        let cards = record.machine.iter().flat_map(|machine| &machine.cards);
        let mut total = (0_u64, 0_u64);
        let mut behind_user = Vec::new();
        for card in cards {
            match &card.link {
                Link::Bridge { tap, .. } => {
                    let (rx, tx) = net::tap_counters(tap);
                    total = (total.0.saturating_add(rx), total.1.saturating_add(tx));
                }
                Link::User { .. } => behind_user.push(card.mac.as_str()),
            }
        }
        if has_agent && !behind_user.is_empty() {
            let agent = self.shared.hypervisor.agent(&self.shared.dir(id));
            // The user network counts nothing itself; only the guest knows.
            for card in agent.interfaces(AGENT_PATIENCE).await.unwrap_or_default() {
                if behind_user.contains(&card.mac.as_str()) {
                    total.0 = total.0.saturating_add(card.rx_bytes);
                    total.1 = total.1.saturating_add(card.tx_bytes);
                }
            }
        }
        total
    }

    fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        if !self.shared.disks.has_tool() {
            missing.push(Missing {
                what: "qemu-img".to_owned(),
                why: "it is not in PATH".to_owned(),
                fix: "install qemu-utils; until then machines have no disks".to_owned(),
            });
        }
        if Hierarchies::find().groups("node", "unit").is_empty() {
            missing.push(Missing {
                what: "limits of machines".to_owned(),
                why: "no control groups for memory are mounted".to_owned(),
                fix: "mount cgroup2 with its memory controller".to_owned(),
            });
        }
        missing
    }
}

fn phase(record: &Record) -> Phase {
    let Some(run) = &record.run else {
        return Phase::Created;
    };
    match &run.ended {
        Some(ended) => Phase::Exited {
            exit_code: None,
            signal: ended.signal,
            reason: ended.reason,
            detail: ended.detail.clone(),
            at_ms: ended.at_ms,
        },
        None if !run.is_up => Phase::Created,
        None if run.is_paused => Phase::Paused,
        None => Phase::Running {
            since_ms: run.started_ms,
        },
    }
}

fn observed(record: &Record) -> Observed {
    let phase = phase(record);
    let mut observed = Observed {
        phase,
        source: Some(record.source.clone()),
        ..Observed::absent()
    };
    if let Some(run) = record.run.as_ref().filter(|run| run.ended.is_none()) {
        // Unknown while it boots: that may still come, and is judged by the boot's own deadline.
        observed.healthy = run.has_booted.then_some(true);
        observed.address = run.address;
        observed.published = run.published.clone();
    }
    observed
}

#[async_trait]
impl UnitRuntime for Vms {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Vm
    }

    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn probe(&self) -> Result<Probe, Missing> {
        let found = self.shared.hypervisor.probe().await?;
        let mut capabilities = found.capabilities;
        let pools = self.shared.options.pool_names();
        capabilities.extend(pools.into_iter().map(|pool| format!("pool:{pool}")));
        let bridges = net::bridges().into_iter();
        capabilities.extend(bridges.map(|bridge| format!("bridge:{bridge}")));
        let mut missing = found.missing;
        missing.extend(self.missing());
        missing.extend(self.shared.filter.missing().await);
        Ok(Probe {
            version: found.version,
            capabilities,
            missing,
        })
    }

    async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), Error> {
        prepare::begin(&self.shared, unit)?;
        prepare::prepare(&self.shared, unit, progress).await
    }

    async fn start(&self, unit: &Unit) -> Result<(), Error> {
        prepare::begin(&self.shared, unit)?;
        let (shared, unit) = (Arc::clone(&self.shared), unit.clone());
        // Goes on when the caller is dropped: a machine half started helps nobody.
        let starting = tokio::spawn(async move { life::start(&shared, &unit).await });
        fail::joined(Step::Start, starting).await
    }

    async fn observe(&self, id: UnitId) -> Result<Observed, Error> {
        let Some(record) = self.record(id) else {
            return Ok(Observed::absent());
        };
        if record.run.as_ref().is_some_and(|run| run.ended.is_none()) {
            watch::ensure(&self.shared, id);
        }
        Ok(observed(&record))
    }

    async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    async fn logs(&self, id: UnitId, wanted: LogsWanted) -> Result<LogStream, Error> {
        logs::stream(self.shared.dir(id), wanted).await
    }

    async fn exec(&self, id: UnitId, wanted: ExecWanted) -> Result<ExecSession, Error> {
        self.until_agent(id).await?;
        exec::session(self.shared.hypervisor.agent(&self.shared.dir(id)), wanted)
    }

    async fn stats(&self, id: UnitId) -> Result<Usage, Error> {
        let mut control = self.control(id, Step::Run).await?;
        let disk_bytes = control.written_bytes().await?;
        let vitals = control.vitals().await?;
        drop(control);
        let gone = || not_there(Step::Run, "the machine does not run any more");
        let process = self.shared.hypervisor.process(&self.shared.dir(id));
        let (cpu_us, memory_bytes) = process.and_then(|p| p.used()).ok_or_else(gone)?;
        let record = self.record(id).ok_or_else(gone)?;
        let (rx_bytes, tx_bytes) = self.network_bytes(id, &record, vitals.has_agent).await;
        Ok(Usage {
            cpu_us,
            memory_bytes,
            disk_bytes,
            rx_bytes,
            tx_bytes,
            pids: record.machine.map_or(1, |machine| machine.vcpus),
        })
    }

    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), Error> {
        let dir = self.shared.dir(id);
        let lock = Lock::take(&dir, Step::Run, LOCK_PATIENCE).await?;
        let mut control = self.control(id, Step::Run).await?;
        if is_paused {
            control.pause().await?;
        } else {
            control.resume().await?;
        }
        record::change_run(&dir, |run| run.is_paused = is_paused)?;
        drop(lock);
        self.shared.changed.notify_one();
        Ok(())
    }

    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), Error> {
        life::stop(&self.shared, id, grace).await
    }

    async fn remove(&self, id: UnitId, keep_volumes: bool) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let removing = tokio::spawn(async move { life::remove(&shared, id, keep_volumes).await });
        fail::joined(Step::Remove, removing).await
    }

    async fn list(&self) -> Result<Vec<Owned>, Error> {
        let node = record::node_dir(&self.shared.options.data_dir, &self.shared.options.node);
        list(&node).map_err(|e| fail::file(Step::Probe, "listing", &node, &e))
    }

    async fn clean(&self, policy: CleanPolicy) -> Result<Cleaned, Error> {
        let cleaned = self.shared.images.clean(policy).await;
        let dir = &self.shared.options.data_dir;
        cleaned.map_err(|e| fail::file(Step::Remove, "cleaning in", dir, &e))
    }
}

fn list(node: &Path) -> std::io::Result<Vec<Owned>> {
    let entries = match std::fs::read_dir(node) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(unit) = entry.file_name().to_str().and_then(record::unit_of) {
            let record = record::read(&entry.path());
            let revision = record.map_or(0, |record| record.revision);
            all.push(Owned { unit, revision });
        }
    }
    all.sort_by_key(|owned: &Owned| (owned.unit, Reverse(owned.revision)));
    // One that was removed in part, and made again.
    all.dedup_by_key(|owned| owned.unit);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_unit_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        let unit = UnitId {
            workload: weft_types::WorkloadId(5),
            number: 2,
        };
        let half_removed = format!("{unit}.gone");
        for name in ["..x", "wl-zzz-1", "other", ".gone", &half_removed] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = list(dir.path()).unwrap();
        assert_eq!(found, [Owned { unit, revision: 0 }]);
        std::fs::create_dir(dir.path().join(unit.to_string())).unwrap();
        let found = list(dir.path()).unwrap();
        assert_eq!(found, [Owned { unit, revision: 0 }]);
    }
}
