//! The engine's API.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum,
    SystemInfoCgroupDriverEnum,
};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, RemoveVolumeOptions, StopContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::OnceCell;
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Step, labels};

use crate::over::COMPOSE;

/// How long an answer may take, in seconds.
const API_TIMEOUT_S: u64 = 60;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets that are looked for, in this order.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];

/// The label that Compose puts on the containers of a service, and on each of several.
const SERVICE: &str = "com.docker.compose.service";
const NUMBER: &str = "com.docker.compose.container-number";

/// A connection to an engine, made when it is first needed.
pub(crate) struct Engine {
    /// As in `DOCKER_HOST`.
    host: Option<String>,
    node: String,
    docker: OnceCell<Docker>,
}

/// A container of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Of the container.
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) number: u32,
    pub(crate) is_running: bool,
    pub(crate) is_paused: bool,
    /// Bytes that its own layer takes, when that was asked for.
    pub(crate) written: u64,
}

/// What became of an engine's answer.
pub(crate) fn failed(step: Step, error: &bollard::errors::Error) -> Error {
    use bollard::errors::Error as E;
    match error {
        E::DockerResponseServerError { message, .. } => {
            let lower = message.to_ascii_lowercase();
            let reason = if lower.contains("no space left") {
                Reason::StorageError
            } else {
                Reason::RuntimeError
            };
            Error::new(step, reason, message.trim())
        }
        other => Error::new(
            step,
            Reason::RuntimeUnavailable,
            format!("the engine does not answer: {other}"),
        ),
    }
}

/// Whether an engine says that something is not there, or is going away already.
pub(crate) fn is_gone(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error as E;
    match error {
        E::DockerResponseServerError {
            status_code: 404, ..
        } => true,
        E::DockerResponseServerError {
            status_code: 409,
            message,
        } => message.contains("already in progress"),
        _ => false,
    }
}

fn gone_is_fine(outcome: Result<(), bollard::errors::Error>, step: Step) -> Result<(), Error> {
    match outcome {
        Err(error) if !is_gone(&error) => Err(failed(step, &error)),
        _ => Ok(()),
    }
}

impl Engine {
    pub(crate) fn new(host: Option<String>, node: String) -> Self {
        Self {
            host,
            node,
            docker: OnceCell::new(),
        }
    }

    /// The engine's address, as in `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        if let Some(host) = &self.host {
            return host.clone();
        }
        let found = SOCKETS
            .iter()
            .find(|path| std::path::Path::new(path).exists());
        format!("unix://{}", found.unwrap_or(&SOCKETS[0]))
    }

    /// The engine, in the version of the API that both sides speak.
    pub(crate) async fn docker(&self, step: Step) -> Result<&Docker, Error> {
        let connect = || async {
            let host = self.host();
            let path = host.strip_prefix("unix://").ok_or_else(|| {
                let detail = format!("{host} is not the address of a socket: unix:///path");
                Error::new(step, Reason::RuntimeUnavailable, detail)
            })?;
            let docker = Docker::connect_with_unix(path, API_TIMEOUT_S, API_DEFAULT_VERSION)
                .map_err(|error| failed(step, &error))?;
            match tokio::time::timeout(CONNECT_TIMEOUT, docker.negotiate_version()).await {
                Ok(docker) => docker.map_err(|error| failed(step, &error)),
                Err(_) => {
                    let detail = format!("the engine at {host} does not answer");
                    Err(Error::new(step, Reason::RuntimeUnavailable, detail))
                }
            }
        };
        self.docker.get_or_try_init(connect).await
    }

    /// The labels by which what is ours is found.
    pub(crate) fn filter(&self, id: Option<UnitId>) -> HashMap<String, Vec<String>> {
        let mut wanted = vec![
            format!("{}={}", labels::NODE, self.node),
            format!("{}={COMPOSE}", labels::KIND),
        ];
        wanted.extend(id.map(|id| format!("{}={id}", labels::UNIT)));
        HashMap::from([("label".to_owned(), wanted)])
    }

    /// All containers of this node's units, or of one.
    pub(crate) async fn containers(
        &self,
        step: Step,
        id: Option<UnitId>,
        with_size: bool,
    ) -> Result<Vec<ContainerSummary>, Error> {
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .size(with_size)
            .filters(&self.filter(id))
            .build();
        let docker = self.docker(step).await?;
        docker
            .list_containers(Some(options))
            .await
            .map_err(|error| failed(step, &error))
    }

    /// The containers of a unit, by service and number.
    pub(crate) async fn parts(
        &self,
        step: Step,
        id: UnitId,
        with_size: bool,
    ) -> Result<Vec<Part>, Error> {
        let containers = self.containers(step, Some(id), with_size).await?;
        let mut parts: Vec<_> = containers.into_iter().filter_map(part).collect();
        parts.sort_by(|a, b| (&a.service, a.number).cmp(&(&b.service, b.number)));
        Ok(parts)
    }

    /// A container in full; `None` when it is gone.
    pub(crate) async fn inspect(
        &self,
        step: Step,
        id: &str,
    ) -> Result<Option<ContainerInspectResponse>, Error> {
        let docker = self.docker(step).await?;
        match docker
            .inspect_container(id, None::<InspectContainerOptions>)
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(failed(step, &error)),
        }
    }

    /// Removes a container with its anonymous volumes, whether it runs or not.
    pub(crate) async fn remove_container(&self, step: Step, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let docker = self.docker(step).await?;
        gone_is_fine(docker.remove_container(id, Some(options)).await, step)
    }

    /// Has a container stand still, or go on.
    pub(crate) async fn set_paused(
        &self,
        step: Step,
        id: &str,
        is_paused: bool,
    ) -> Result<(), Error> {
        let docker = self.docker(step).await?;
        let done = match is_paused {
            true => docker.pause_container(id).await,
            false => docker.unpause_container(id).await,
        };
        done.map_err(|error| failed(step, &error))
    }

    /// Asks a container to end and has it killed when it has not after `grace`.
    pub(crate) async fn stop(&self, step: Step, id: &str, grace: Duration) -> Result<(), Error> {
        let seconds = grace.as_secs_f64().ceil() as i32;
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        // The answer comes when it has ended.
        let patience = grace + Duration::from_secs(API_TIMEOUT_S);
        let docker = self.docker(step).await?.clone().with_timeout(patience);
        match docker.stop_container(id, Some(options)).await {
            // It had ended already.
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 304, ..
            }) => Ok(()),
            other => gone_is_fine(other, step),
        }
    }

    /// Whether control groups are plain directories that this machine's engine puts containers
    /// into, rather than units of systemd.
    pub(crate) async fn has_plain_groups(&self, step: Step) -> Result<bool, Error> {
        let docker = self.docker(step).await?;
        let info = docker.info().await.map_err(|error| failed(step, &error))?;
        Ok(info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::CGROUPFS))
    }

    /// Names of a unit's networks.
    pub(crate) async fn networks(
        &self,
        step: Step,
        id: Option<UnitId>,
    ) -> Result<Vec<(String, HashMap<String, String>)>, Error> {
        let options = ListNetworksOptionsBuilder::new()
            .filters(&self.filter(id))
            .build();
        let docker = self.docker(step).await?;
        let found = docker
            .list_networks(Some(options))
            .await
            .map_err(|error| failed(step, &error))?;
        let named = found
            .into_iter()
            .filter_map(|network| Some((network.id?, network.labels.unwrap_or_default())));
        Ok(named.collect())
    }

    pub(crate) async fn remove_network(&self, step: Step, name: &str) -> Result<(), Error> {
        let docker = self.docker(step).await?;
        gone_is_fine(docker.remove_network(name).await, step)
    }

    /// Names of the volumes with a label of this node.
    pub(crate) async fn volumes(&self, step: Step, label: String) -> Result<Vec<String>, Error> {
        let mut filter = self.filter(None);
        filter.entry("label".to_owned()).or_default().push(label);
        let options = ListVolumesOptionsBuilder::new().filters(&filter).build();
        let docker = self.docker(step).await?;
        let found = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| failed(step, &error))?;
        let volumes = found.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.name).collect())
    }

    pub(crate) async fn remove_volume(&self, step: Step, name: &str) -> Result<(), Error> {
        let docker = self.docker(step).await?;
        gone_is_fine(
            docker
                .remove_volume(name, None::<RemoveVolumeOptions>)
                .await,
            step,
        )
    }

    /// Whether the engine has an image.
    pub(crate) async fn has_image(&self, step: Step, image: &str) -> Result<bool, Error> {
        let docker = self.docker(step).await?;
        match docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(failed(step, &error)),
        }
    }

    /// Removes the images that were built for a unit.
    pub(crate) async fn remove_images(&self, step: Step, id: UnitId) -> Result<(), Error> {
        let options = ListImagesOptionsBuilder::new()
            .all(false)
            .filters(&self.filter(Some(id)))
            .build();
        let docker = self.docker(step).await?;
        let images = docker
            .list_images(Some(options))
            .await
            .map_err(|error| failed(step, &error))?;
        for image in images {
            let options = RemoveImageOptionsBuilder::new().force(true).build();
            let removed = docker.remove_image(&image.id, Some(options), None).await;
            gone_is_fine(removed.map(|_| ()), step)?;
        }
        Ok(())
    }
}

fn part(container: ContainerSummary) -> Option<Part> {
    let labels = container.labels.unwrap_or_default();
    Some(Part {
        id: container.id?,
        service: labels.get(SERVICE)?.clone(),
        number: labels
            .get(NUMBER)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1),
        is_running: container.state == Some(ContainerSummaryStateEnum::RUNNING),
        is_paused: container.state == Some(ContainerSummaryStateEnum::PAUSED),
        written: container
            .size_rw
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or(0),
    })
}

/// The names of parts: that of the service, with a number when it has several containers.
pub(crate) fn names(parts: &[Part]) -> Vec<String> {
    let several = |service: &str| parts.iter().filter(|part| part.service == service).count() > 1;
    parts
        .iter()
        .map(|part| match several(&part.service) {
            true => format!("{}-{}", part.service, part.number),
            false => part.service.clone(),
        })
        .collect()
}
