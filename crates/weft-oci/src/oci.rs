//! The backend.

mod port;
mod start;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use weft_types::UnitId;
use weft_unit::{CleanPolicy, Cleaned, Observed, Phase, Sizes, Usage};
use weft_volumes::Volumes;

use crate::Error;
use crate::cgroup::Cgroups;
use crate::exec::Inside;
use crate::files;
use crate::image::{Images, Registry};
use crate::lock::{FileLock, Hold};
use crate::names;
use crate::network::{Netlink, Network};
use crate::options::Options;
use crate::record::{Records, UnitDir};
use crate::runtimes::{Found, Trials, is_old_trial};
use crate::size;
use crate::spawn::{Monitor, Spawner};
use crate::state::{State, abandoned};
use crate::watch::Watch;

/// How long a container that was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(15);

/// Containers without an engine. Clones share everything.
#[derive(Clone)]
pub struct Oci {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    data_dir: PathBuf,
    node: String,
    node_hash: String,
    runtimes: Vec<String>,
    images: Arc<Images>,
    records: Records,
    network: Arc<Network>,
    volumes: Volumes,
    cgroups: Cgroups,
    spawner: Spawner,
    found: OnceCell<Found>,
    watch: OnceCell<Watch>,
    sizes: Sizes,
}

impl Oci {
    /// Opens the data directory of a node, and clears away what was left half made in it. Does not
    /// look yet whether anything works: that is for `probe`.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(options: Options) -> Result<Self, Error> {
        files::make_dir(&options.data_dir, 0o700)?;
        let data_dir = std::path::absolute(&options.data_dir)
            .map_err(|e| Error::io(options.data_dir.display().to_string(), e))?;
        let node_hash = names::node_hash(&options.node);
        let registry = Registry::new(options.registry_roots);
        let images = Images::open(data_dir.clone(), registry, options.layer_limits)?;
        let records = Records::open(data_dir.clone())?;
        let is_there = |unit: &str| {
            unit.parse::<UnitId>()
                .is_ok_and(|unit| records.of(unit).path().exists())
        };
        let network = Network::open(
            node_hash.clone(),
            data_dir.clone(),
            options.bridge,
            options.subnet,
            is_there,
        )?;
        drop_old_trials(&data_dir)?;
        Ok(Self {
            inner: Arc::new(Inner {
                data_dir,
                node: options.node.to_string(),
                node_hash,
                runtimes: options.runtimes,
                images: Arc::new(images),
                records,
                network: Arc::new(network),
                volumes: options.volumes,
                cgroups: Cgroups::open()?,
                spawner: Spawner {
                    command: options.monitor,
                },
                found: OnceCell::new(),
                watch: OnceCell::new(),
                sizes: Sizes::default(),
            }),
        })
    }
}

fn drop_old_trials(data_dir: &std::path::Path) -> Result<(), Error> {
    for name in files::names(&data_dir.join("units"))? {
        if is_old_trial(&name) {
            let unit = UnitDir::scratch(data_dir, name.trim_end_matches(".exit"))?;
            if let Some(_barred) = unit.bar_monitors()? {
                unit.remove()?;
            }
        }
    }
    Ok(())
}

impl Inner {
    fn cgroup(&self, unit: UnitId) -> String {
        names::unit_cgroup(&self.node_hash, unit)
    }

    /// What works here; tried at the first time.
    async fn found(&self) -> Result<&Found, Error> {
        self.found.get_or_try_init(|| self.try_runtimes()).await
    }

    async fn try_runtimes(&self) -> Result<Found, Error> {
        let node_cgroup = names::node_cgroup(&self.node_hash);
        let trials = Trials {
            data_dir: &self.data_dir,
            node_cgroup: &node_cgroup,
            spawner: &self.spawner,
        };
        let found = trials.run(&self.runtimes).await?;
        self.drop_empty_cgroups().await?;
        Ok(found)
    }

    async fn drop_empty_cgroups(&self) -> Result<(), Error> {
        let (cgroups, node) = (Cgroups::open()?, names::node_cgroup(&self.node_hash));
        blocking(move || {
            cgroups.remove_if_empty(&format!("{node}/monitors"));
            cgroups.remove_if_empty(&node);
            Ok(())
        })
        .await
    }

    async fn lock(&self, unit: UnitId) -> Result<FileLock, Error> {
        FileLock::take(&self.records.lock_file(unit), Hold::Exclusive).await
    }

    /// How a unit is. What was left of one whose monitor was killed is cleared away first, as it
    /// does not run any more once it is said to have ended.
    async fn state(&self, id: UnitId) -> Result<State, Error> {
        let unit = self.records.of(id);
        match State::of(&unit)? {
            State::Abandoned => {}
            state => return Ok(state),
        }
        let lock = Arc::new(self.lock(id).await?);
        match State::of(&unit)? {
            State::Abandoned => {}
            state => return Ok(state),
        }
        let (cgroups, group) = (Cgroups::open()?, self.cgroup(id));
        holding(&lock, move || cgroups.remove(&group)).await?;
        unit.write_exit(&abandoned())?;
        State::of(&unit)
    }

    /// Units that have records, and those that have nothing but a control group: whatever went
    /// wrong, what still runs is found and removed.
    fn units(&self) -> Result<BTreeSet<UnitId>, Error> {
        let mut units: BTreeSet<UnitId> = self.records.units()?.into_iter().collect();
        let groups = self.cgroups.below(&names::node_cgroup(&self.node_hash));
        units.extend(groups.iter().filter_map(|name| name.parse::<UnitId>().ok()));
        Ok(units)
    }

    async fn remove_cgroup(&self, id: UnitId) -> Result<(), Error> {
        let group = self.cgroup(id);
        let cgroups = Cgroups::open()?;
        blocking(move || cgroups.remove(&group)).await
    }

    async fn observe(&self, id: UnitId) -> Result<Observed, Error> {
        let state = self.state(id).await?;
        let record = self.records.of(id).record()?;
        let Some(record) = record else {
            return Ok(Observed::absent());
        };
        let runs = matches!(state, State::Running { .. });
        let phase = match runs && self.cgroups.is_frozen(&self.cgroup(id)) {
            true => Phase::Paused,
            false => state.phase(),
        };
        let address = match &record.attachment {
            Some(attachment) => Some(attachment.address),
            None if record.shares_host_network => Some(Ipv4Addr::LOCALHOST),
            None => None,
        };
        Ok(Observed {
            phase,
            healthy: None,
            address: address.filter(|_| runs).map(IpAddr::V4),
            published: Default::default(),
            parts: Vec::new(),
            source: record.image.map(|digest| digest.to_string()),
        })
    }

    /// The container of a unit that runs, for calls of its runtime.
    async fn inside(&self, id: UnitId) -> Result<Inside, Error> {
        let unit = self.records.of(id);
        let not_running = || Error::NotRunning(format!("{id} does not run"));
        let record = unit.record()?.ok_or_else(not_running)?;
        if !matches!(State::of(&unit)?, State::Running { .. }) {
            return Err(not_running());
        }
        let monitor = Monitor::find(&unit)?.ok_or_else(not_running)?;
        let runtime = self.found().await?.choose(record.runtime.as_deref())?;
        Ok(Inside {
            runtime: runtime.command.clone(),
            namespace: monitor.mount_namespace(&unit)?,
            run: unit.run(),
            id: id.to_string(),
        })
    }

    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), Error> {
        let lock = Arc::new(self.lock(id).await?);
        if !matches!(State::of(&self.records.of(id))?, State::Running { .. }) {
            return Err(Error::NotRunning(format!("{id} does not run")));
        }
        let (cgroups, group) = (Cgroups::open()?, self.cgroup(id));
        holding(&lock, move || match is_paused {
            true => cgroups.freeze(&group),
            false => cgroups.thaw(&group),
        })
        .await
    }

    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), Error> {
        let unit = self.records.of(id);
        let Some(monitor) = Monitor::find(&unit)? else {
            return self.state(id).await.map(drop);
        };
        // What stands still hears no signal.
        self.cgroups.thaw(&self.cgroup(id))?;
        let Some(started) = monitor.settled(&unit).await? else {
            return Ok(());
        };
        let signal = unit.record()?.map_or(libc::SIGTERM, |r| r.stop_signal);
        if !grace.is_zero() {
            self.signal(id, &monitor, &started, signal).await;
            if tokio::time::timeout(grace, monitor.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(id, &unit, &monitor).await
    }

    async fn signal(
        &self,
        id: UnitId,
        monitor: &Monitor,
        started: &crate::record::Started,
        signal: i32,
    ) {
        if let Ok(inside) = self.inside(id).await
            && inside.runtime.is_sandbox
        {
            if let Ok(mut command) = inside.command(&["kill", &inside.id, &signal.to_string()]) {
                let _ = command.kill_on_drop(true).output().await;
            }
            return;
        }
        monitor.signal(started, signal);
    }

    /// Ends a container at once, and its monitor when it has not seen that in time.
    async fn kill(&self, id: UnitId, unit: &UnitDir, monitor: &Monitor) -> Result<(), Error> {
        self.cgroups.thaw(&self.cgroup(id))?;
        match unit.started()? {
            Some(started) => self.signal(id, monitor, &started, libc::SIGKILL).await,
            None => monitor.kill(),
        }
        if tokio::time::timeout(KILLED, monitor.ended()).await.is_err() {
            monitor.kill();
            monitor.ended().await?;
        }
        self.remove_cgroup(id).await
    }

    async fn remove(self: &Arc<Self>, id: UnitId, keep_volumes: bool) -> Result<(), Error> {
        let unit = self.records.of(id);
        let lock = self.lock(id).await?;
        let barred = loop {
            if let Some(monitor) = Monitor::find(&unit)? {
                self.kill(id, &unit, &monitor).await?;
            }
            if let Some(barred) = unit.bar_monitors()? {
                break barred;
            }
        };
        let held = Arc::new((lock, barred));
        let record = unit.record()?;
        let (inner, group) = (Arc::clone(self), self.cgroup(id));
        holding(&held, move || {
            inner.cgroups.remove(&group)?;
            inner.network.detach(id)
        })
        .await?;
        self.volumes
            .release(id, keep_volumes)
            .await
            .map_err(|e| Error::Volume(e.to_string()))?;
        if let Some(image) = record.and_then(|record| record.image) {
            self.images.touch(&image);
        }
        holding(&held, move || unit.remove()).await?;
        self.drop_empty_cgroups().await?;
        self.sizes.forget(id);
        held.0.remove(&self.records.lock_file(id))
    }

    async fn stats(self: &Arc<Self>, id: UnitId) -> Result<Usage, Error> {
        let unit = self.records.of(id);
        let State::Running { since_ms } = State::of(&unit)? else {
            return Err(Error::NotRunning(format!("{id} does not run")));
        };
        let inner = Arc::clone(self);
        let mut usage = blocking(move || inner.count(id)).await?;
        let instance = since_ms.to_string();
        usage.disk_bytes = self.sizes.of(id, &instance, written(unit)).await;
        Ok(usage)
    }

    fn count(&self, id: UnitId) -> Result<Usage, Error> {
        let counted = self.cgroups.usage(&self.cgroup(id)).unwrap_or_default();
        let veth = names::veth(&self.node_hash, id);
        let link = Netlink::open()
            .and_then(|mut netlink| netlink.link(&veth))
            .ok()
            .flatten()
            .unwrap_or_default();
        Ok(Usage {
            cpu_us: counted.cpu_us,
            memory_bytes: counted.memory_bytes,
            disk_bytes: 0,
            // What the node's end sends comes in at the container's.
            rx_bytes: link.tx_bytes,
            tx_bytes: link.rx_bytes,
            pids: counted.pids,
        })
    }

    async fn clean(self: &Arc<Self>, policy: CleanPolicy) -> Result<Cleaned, Error> {
        let inner = Arc::clone(self);
        blocking(move || {
            let mut used = BTreeSet::new();
            for unit in inner.records.units()? {
                let record = inner.records.of(unit).record()?;
                used.extend(record.and_then(|record| record.image));
            }
            inner.images.clean(policy, &used)
        })
        .await
    }
}

/// What a container has written to its layer.
async fn written(unit: UnitDir) -> Option<u64> {
    let measured = tokio::task::spawn_blocking(move || {
        let all = size::beneath(&unit.layer().join("upper"))?;
        Some(all.saturating_sub(unit.base_bytes().ok()?))
    });
    measured.await.ok()?
}

/// Work that keeps what it must not be without, also when nobody waits for it any more.
async fn holding<T: Send + 'static>(
    held: &Arc<impl Send + Sync + 'static>,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let held = Arc::clone(held);
    blocking(move || {
        let done = work();
        drop(held);
        done
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::NotRunning(e.to_string()))?
}
