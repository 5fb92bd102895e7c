//! Preparing and starting a unit.

use std::sync::Arc;

use weft_types::{ContainerSpec, NetworkMode, Reason};
use weft_unit::{Progress, Step, Unit, UnitWork};

use super::{Inner, holding};
use crate::Error;
use crate::bundle::{Bind, Bundle, stop_signal};
use crate::image::{Image, Reference};
use crate::lock::{FileLock, Hold};
use crate::monitor::{Answer, MonitorNetwork, Request};
use crate::names;
use crate::network::Attachment;
use crate::record::{UnitDir, UnitRecord};
use crate::runtimes::Runtime;
use crate::spawn::Monitor;
use crate::state::State;

/// How often a start is tried when others are at the same unit.
const ATTEMPTS: u32 = 5;

pub(super) fn container(unit: &Unit) -> Result<&ContainerSpec, Error> {
    match &unit.work {
        UnitWork::Container(spec) => Ok(spec),
        other => Err(Error::Spec(format!(
            "{:?} is not a container",
            other.kind()
        ))),
    }
}

impl Inner {
    pub(super) async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), Error> {
        let spec = container(unit)?;
        let reference: Reference = spec.image.parse()?;
        let credentials = unit.secrets.registry.as_ref();
        let known = self.records.of(unit.id).record()?;
        let pull = match known.and_then(|known| known.image) {
            Some(_) => spec.pull.once_prepared(),
            None => spec.pull,
        };
        self.images
            .ensure(&reference, pull, credentials, progress)
            .await?;
        if spec.volumes.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(unit.id).await?;
        let dir = self.records.of(unit.id);
        if dir.record()?.is_none() {
            dir.write(&self.record(unit, spec))?;
        }
        self.mount_volumes(unit, spec).await.map(drop)
    }

    fn record(&self, unit: &Unit, spec: &ContainerSpec) -> UnitRecord {
        UnitRecord {
            node: self.node.clone(),
            unit: unit.id,
            revision: unit.revision,
            workload: format!("{}/{}", unit.namespace, unit.name),
            image: None,
            attachment: None,
            shares_host_network: spec.network == NetworkMode::Host,
            runtime: None,
            stop_signal: libc::SIGTERM,
            has_volumes: !spec.volumes.is_empty(),
        }
    }

    async fn mount_volumes(&self, unit: &Unit, spec: &ContainerSpec) -> Result<Vec<Bind>, Error> {
        let mut binds = Vec::with_capacity(spec.volumes.len());
        for volume in &spec.volumes {
            let mounted = self
                .volumes
                .mount(unit.id, volume, spec.privileged)
                .await
                .map_err(|e| Error::Volume(e.to_string()))?;
            binds.push(Bind {
                source: mounted.host_path,
                target: volume.target.clone(),
                is_read_only: mounted.read_only,
            });
        }
        Ok(binds)
    }

    pub(super) async fn start(self: &Arc<Self>, unit: &Unit) -> Result<(), weft_unit::Error> {
        for _ in 0..ATTEMPTS {
            match self.attempt(unit).await.map_err(|e| e.at(Step::Start))? {
                Answer::Running => return Ok(()),
                // Another monitor is at it: that of a start that nobody waits for any more.
                Answer::Busy => {}
                Answer::Failed {
                    reason,
                    detail,
                    evidence,
                } => {
                    return Err(
                        weft_unit::Error::new(Step::Start, reason, detail).with_evidence(evidence)
                    );
                }
            }
        }
        Err(weft_unit::Error::new(
            Step::Start,
            Reason::RuntimeError,
            "others start and remove it all the time",
        ))
    }

    async fn attempt(self: &Arc<Self>, unit: &Unit) -> Result<Answer, Error> {
        let lock = Arc::new(self.lock(unit.id).await?);
        let outcome = self.attempt_locked(unit, &lock).await;
        if outcome.is_err() && !self.records.of(unit.id).path().exists() {
            lock.remove(&self.records.lock_file(unit.id))?;
        }
        outcome
    }

    async fn attempt_locked(
        self: &Arc<Self>,
        unit: &Unit,
        lock: &Arc<FileLock>,
    ) -> Result<Answer, Error> {
        let spec = container(unit)?;
        let dir = self.records.of(unit.id);
        if self.is_running(&dir).await? {
            return Ok(Answer::Running);
        }
        let runtime = self.found().await?.choose(spec.runtime_class.as_deref())?;
        let mut record = self.record(unit, spec);
        let known = dir.record()?.and_then(|old| old.attachment);
        let image = self.take_image(unit, spec, &dir, &mut record).await?;
        record.stop_signal = stop_signal(spec, &image.config.config)?;
        record.runtime = Some(runtime.name.clone());
        dir.write(&record)?;
        if spec.network == NetworkMode::Bridge {
            let (inner, id) = (Arc::clone(self), unit.id);
            let attach = move || inner.network.attach(id, known.as_ref());
            let attached = holding(lock, attach).await?;
            record.attachment = Some(attached);
            dir.write(&record)?;
        }
        let binds = self.mount_volumes(unit, spec).await?;
        let request = self.request(unit, spec, &image, &record, runtime, binds)?;
        self.spawner.spawn(&request).await
    }

    /// Whether it runs, once what an earlier call or an ending run is at has come to an end.
    async fn is_running(&self, dir: &UnitDir) -> Result<bool, Error> {
        while let Some(monitor) = Monitor::find(dir)? {
            if dir.exit()?.is_some() {
                monitor.ended().await?;
                continue;
            }
            monitor.settled(dir).await?;
            if let State::Running { .. } = State::of(dir)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The image, which from now on is not cleaned away.
    async fn take_image(
        &self,
        unit: &Unit,
        spec: &ContainerSpec,
        dir: &UnitDir,
        record: &mut UnitRecord,
    ) -> Result<Image, Error> {
        let reference: Reference = spec.image.parse()?;
        let silent = Progress::new(String::new());
        let credentials = unit.secrets.registry.as_ref();
        loop {
            let pull = spec.pull.once_prepared();
            let image = self
                .images
                .ensure(&reference, pull, credentials, &silent)
                .await?;
            let _in_use = FileLock::take(&self.images.in_use_file(), Hold::Shared).await?;
            // It may have been cleaned away before the lock was held.
            if self.images.by_digest(&image.digest).is_some() {
                record.image = Some(image.digest.clone());
                dir.write(record)?;
                return Ok(image);
            }
        }
    }

    fn request(
        &self,
        unit: &Unit,
        spec: &ContainerSpec,
        image: &Image,
        record: &UnitRecord,
        runtime: &Runtime,
        binds: Vec<Bind>,
    ) -> Result<Request, Error> {
        let dir = self.records.of(unit.id);
        let cgroup = self.cgroup(unit.id);
        let hostname = hostname(unit);
        let bundle = Bundle {
            unit,
            spec,
            image: &image.config,
            node: &self.node,
            hostname: &hostname,
            run: &dir.run(),
            binds,
            cgroup: &cgroup,
            limits_swap: self.cgroups.limits_swap(),
        };
        let network = match (&record.attachment, spec.network) {
            (_, NetworkMode::Host) => MonitorNetwork::Host,
            (Some(attachment), NetworkMode::Bridge) => MonitorNetwork::Bridge(attachment.clone()),
            _ => MonitorNetwork::Loopback,
        };
        let mut command = runtime.command.clone();
        if command.is_sandbox && spec.network == NetworkMode::Host {
            command.options.push("--network=host".into());
        }
        Ok(Request {
            id: unit.id.to_string(),
            layers_dir: self.images.layers_dir(),
            layers: image.layer_names(),
            has_overlay: self.found.get().is_some_and(|found| found.has_overlay),
            runtime: command,
            config: bundle.config()?,
            user: match &spec.user {
                Some(user) => user.clone(),
                None => image.config.config.user.clone(),
            },
            files: etc_files(&hostname, record.attachment.as_ref(), spec.network),
            network,
            cgroup,
            monitors_cgroup: format!("{}/monitors", names::node_cgroup(&self.node_hash)),
            unit: dir,
        })
    }
}

/// `NAME-NUMBER` of the unit, as long as host names may be.
fn hostname(unit: &Unit) -> String {
    let suffix = format!("-{}", unit.id.number);
    let name = unit.name.to_string();
    let room = 63 - suffix.len();
    let short: String = name.chars().take(room).collect();
    format!("{short}{suffix}").replace(['_', '.'], "-")
}

fn etc_files(
    hostname: &str,
    attachment: Option<&Attachment>,
    network: NetworkMode,
) -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if network == NetworkMode::Host {
        return ["hosts", "hostname", "resolv.conf"]
            .map(|name| (name.to_owned(), read(&format!("/etc/{name}"))))
            .to_vec();
    }
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n".to_owned();
    let own = match attachment {
        Some(attachment) => attachment.address.to_string(),
        None => "127.0.0.1".to_owned(),
    };
    hosts.push_str(&format!("{own}\t{hostname}\n"));
    vec![
        ("hosts".to_owned(), hosts),
        ("hostname".to_owned(), format!("{hostname}\n")),
        (
            "resolv.conf".to_owned(),
            resolvers(&read("/etc/resolv.conf")),
        ),
    ]
}

/// Name servers on the node's loopback are not there for a container.
fn resolvers(text: &str) -> String {
    text.lines()
        .filter(|line| {
            let mut words = line.split_whitespace();
            let is_server = words.next() == Some("nameserver");
            let address = words
                .next()
                .and_then(|a| a.parse::<std::net::IpAddr>().ok());
            !is_server || address.is_some_and(|ip| !ip.is_loopback())
        })
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn resolvers_on_loopback_are_left_out() {
        let text = "search lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\n";
        assert_eq!(super::resolvers(text), "search lan\nnameserver 10.0.0.1\n");
    }
}
