//! Start, stop and remove.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error as Api;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use rustix::process::{Resource, getrlimit};
use weft_types::{ContainerSpec, Reason, UnitId};
use weft_unit::{Error, Step, Unit, labels};

use crate::connection::Connected;
use crate::engine::Inner;
use crate::error::{failed, said, status, volume};
use crate::image::{find, source};
use crate::look;
use crate::observe::{self, is_alive, label};
use crate::request::{self, Around, name};

/// How long a start may go on when somebody else makes or removes the same container meanwhile.
const TOGETHER: Duration = Duration::from_secs(30);
/// How long a container may take to end after `SIGKILL`, and to be removed.
const KILLED: Duration = Duration::from_secs(60);
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// Looks again and again, at first soon.
struct Looks {
    end: Instant,
    wait: Duration,
}

impl Looks {
    fn within(limit: Duration) -> Self {
        Self {
            end: Instant::now() + limit,
            wait: FIRST_LOOK,
        }
    }

    /// Waits for the next look; `false` when the time is over.
    async fn again(&mut self) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(self.wait.min(left)).await;
        self.wait = (self.wait * 2).min(LONGEST_LOOK);
        true
    }
}

fn is_gone(error: &Api) -> bool {
    status(error) == Some(404)
}

/// Whether somebody else was first with the name.
fn is_taken(error: &Api) -> bool {
    status(error) == Some(409) || said(error).contains("already in use")
}

impl Inner {
    /// A unit's container, whoever made it.
    async fn inspect(
        &self,
        docker: &Docker,
        id: UnitId,
        step: Step,
    ) -> Result<Option<ContainerInspectResponse>, Error> {
        look::inspect(docker, &self.socket, id, step).await
    }

    fn is_ours(&self, container: &ContainerInspectResponse) -> bool {
        label(container, labels::NODE) == Some(self.node.as_str())
    }

    /// A unit's container, if this node made it.
    pub async fn ours(
        &self,
        docker: &Docker,
        id: UnitId,
        step: Step,
    ) -> Result<Option<ContainerInspectResponse>, Error> {
        let found = self.inspect(docker, id, step).await?;
        Ok(found.filter(|found| self.is_ours(found)))
    }

    /// A unit's container, which must run.
    pub async fn running(&self, docker: &Docker, id: UnitId) -> Result<String, Error> {
        let found = self.ours(docker, id, Step::Run).await?;
        let found = found.ok_or_else(|| missing(id))?;
        if !is_alive(&found) {
            let detail = format!("the container of {id} does not run");
            return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
        }
        Ok(found.id.unwrap_or_else(|| name(id)))
    }

    pub async fn start(
        &self,
        there: &Connected,
        unit: &Unit,
        spec: &ContainerSpec,
    ) -> Result<(), Error> {
        use ContainerStateStatusEnum::{CREATED, PAUSED};
        let docker = &there.docker;
        let mut looks = Looks::within(TOGETHER);
        loop {
            let found = self.inspect(docker, unit.id, Step::Start).await?;
            let done = match found {
                Some(found) if !self.is_ours(&found) => return Err(foreign(&found)),
                Some(found) if observe::status(&found) == Some(PAUSED) => {
                    step(docker.unpause_container(&name(unit.id)).await)?
                }
                Some(found) if is_alive(&found) => true,
                // Made and not started: by somebody who was killed, or who does it just now.
                Some(found) if observe::status(&found) == Some(CREATED) && is_of(&found, unit) => {
                    self.mount(unit, spec, Step::Start).await?;
                    self.run(docker, &id_of(&found)).await?
                }
                // By its id: if somebody else has made a new one meanwhile, that one stays.
                Some(found) => {
                    let removed = remove(docker, &id_of(&found), false).await;
                    step(removed)?;
                    false
                }
                None => match self.create(there, unit, spec).await? {
                    Some(container) => self.run(docker, &container).await?,
                    None => false,
                },
            };
            if done {
                return Ok(());
            }
            if !looks.again().await {
                let detail = "somebody else makes and removes the same container";
                return Err(Error::new(Step::Start, Reason::RuntimeError, detail));
            }
        }
    }

    /// Starts a container that was made; `false` when it is gone.
    async fn run(&self, docker: &Docker, container: &str) -> Result<bool, Error> {
        step(
            docker
                .start_container(container, None::<StartContainerOptions>)
                .await,
        )
    }

    /// Makes a container and gives its id; `None` when somebody else was faster.
    async fn create(
        &self,
        there: &Connected,
        unit: &Unit,
        spec: &ContainerSpec,
    ) -> Result<Option<String>, Error> {
        let image = crate::reference::Reference::parse(&spec.image).canonical();
        let Some(found) = find(&there.docker, &image).await? else {
            let detail = format!("{image} is not there; it was not prepared, or was removed since");
            return Err(Error::new(Step::Start, Reason::ImageNotFound, detail));
        };
        let mounts = self.mount(unit, spec, Step::Start).await?;
        let body = request::create(
            unit,
            spec,
            &Around {
                able: &there.able,
                node: &self.node,
                publishes: self.publishes || there.able.rootless,
                source: &source(&image, &found),
                mounts: &mounts,
                own_limits: [
                    ("nofile", getrlimit(Resource::Nofile).maximum),
                    ("nproc", processes()),
                ],
            },
        )?;
        let options = CreateContainerOptionsBuilder::new()
            .name(&name(unit.id))
            .build();
        match there.docker.create_container(Some(options), body).await {
            Ok(made) => Ok(Some(made.id)),
            Err(error) if is_taken(&error) => Ok(None),
            Err(error) => Err(failed(Step::Start, &error)),
        }
    }

    pub async fn set_paused(
        &self,
        docker: &Docker,
        id: UnitId,
        is_paused: bool,
    ) -> Result<(), Error> {
        let found = self.ours(docker, id, Step::Run).await?;
        let found = found.ok_or_else(|| missing(id))?;
        if (observe::status(&found) == Some(ContainerStateStatusEnum::PAUSED)) == is_paused {
            return Ok(());
        }
        let container = id_of(&found);
        let done = match is_paused {
            true => docker.pause_container(&container).await,
            false => docker.unpause_container(&container).await,
        };
        done.map_err(|error| failed(Step::Run, &error))
    }

    pub async fn stop(&self, docker: &Docker, id: UnitId, grace: Duration) -> Result<(), Error> {
        let Some(found) = self.ours(docker, id, Step::Stop).await? else {
            return Ok(());
        };
        if !is_alive(&found) {
            return Ok(());
        }
        if observe::status(&found) == Some(ContainerStateStatusEnum::PAUSED) {
            let _ = docker.unpause_container(&name(id)).await;
        }
        let signal = found.config.and_then(|config| config.stop_signal);
        let signal = signal.filter(|signal| !signal.is_empty());
        self.signal(docker, id, signal.as_deref().unwrap_or("SIGTERM"))
            .await?;
        if self.has_ended(docker, id, grace).await? {
            return Ok(());
        }
        self.signal(docker, id, "SIGKILL").await?;
        if self.has_ended(docker, id, KILLED).await? {
            return Ok(());
        }
        let detail = format!("still there {KILLED:?} after it was killed");
        Err(Error::new(Step::Stop, Reason::RuntimeError, detail))
    }

    async fn signal(&self, docker: &Docker, id: UnitId, signal: &str) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match docker.kill_container(&name(id), Some(options)).await {
            // It has ended meanwhile.
            Err(error) if is_gone(&error) || status(&error) == Some(409) => Ok(()),
            Err(error) if said(&error).contains("running container") => Ok(()),
            Err(error) if said(&error).contains("container state improper") => Ok(()),
            other => other.map_err(|error| failed(Step::Stop, &error)),
        }
    }

    async fn has_ended(&self, docker: &Docker, id: UnitId, limit: Duration) -> Result<bool, Error> {
        let mut looks = Looks::within(limit);
        loop {
            let found = self.ours(docker, id, Step::Stop).await?;
            if !found.is_some_and(|found| is_alive(&found)) {
                return Ok(true);
            }
            if !looks.again().await {
                return Ok(false);
            }
        }
    }

    pub async fn remove(&self, docker: &Docker, id: UnitId, keep: bool) -> Result<(), Error> {
        let mut looks = Looks::within(KILLED);
        while let Some(found) = self.ours(docker, id, Step::Remove).await? {
            if is_alive(&found) {
                // Podman's removal waits for the program to obey first.
                self.stop(docker, id, Duration::ZERO).await?;
            }
            match remove(docker, &id_of(&found), true).await {
                Ok(()) => {}
                // Somebody else removes it, or it is being made.
                Err(error) if is_gone(&error) || status(&error) == Some(409) => {}
                Err(error) => return Err(failed(Step::Remove, &error)),
            }
            if !looks.again().await {
                let detail = format!("the engine has not removed it within {KILLED:?}");
                return Err(Error::new(Step::Remove, Reason::RuntimeError, detail));
            }
        }
        self.sizes.forget(id);
        self.volumes
            .release(id, keep)
            .await
            .map_err(|error| volume(Step::Remove, &error))
    }
}

/// Our own limit of processes; Podman lowers its own to the largest process id when it starts, and
/// cannot take that back without `CAP_SYS_RESOURCE`.
fn processes() -> Option<u64> {
    let own = getrlimit(Resource::Nproc).maximum.unwrap_or(u64::MAX);
    let largest = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    let largest = largest.and_then(|text| text.trim().parse().ok());
    Some(own.min(largest.unwrap_or(u64::MAX)))
}

/// The error for a unit without a container.
pub(crate) fn missing(id: UnitId) -> Error {
    let detail = format!("there is no container of {id}");
    Error::new(Step::Run, Reason::RuntimeError, detail)
}

fn foreign(found: &ContainerInspectResponse) -> Error {
    let node = label(found, labels::NODE).unwrap_or("nobody we know");
    let detail = format!("the container's name is taken by one of {node}; remove that one");
    Error::new(Step::Start, Reason::RuntimeError, detail)
}

fn is_of(found: &ContainerInspectResponse, unit: &Unit) -> bool {
    label(found, labels::REVISION) == Some(&unit.revision.to_string())
}

fn id_of(found: &ContainerInspectResponse) -> String {
    found.id.clone().unwrap_or_default()
}

/// Whether a step of a start was done; `false` when its container has changed or gone meanwhile.
fn step(outcome: Result<(), Api>) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) && said(&error).contains("No such container") => Ok(false),
        Err(error) if status(&error) == Some(409) => Ok(false),
        Err(error) => Err(failed(Step::Start, &error)),
    }
}

async fn remove(docker: &Docker, container: &str, force: bool) -> Result<(), Api> {
    let options = RemoveContainerOptionsBuilder::new()
        .v(true)
        .force(force)
        .build();
    docker.remove_container(container, Some(options)).await
}
