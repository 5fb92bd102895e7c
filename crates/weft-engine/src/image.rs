//! Images: there already, or pulled.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error as Api;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use weft_types::{PullPolicy, Reason};
use weft_unit::{Credentials, Error, Progress, Step};

use crate::error::{failed, said, status};
use crate::pulled::Pulled;
use crate::reference::Reference;

/// How long a pull may go without a word from the engine.
const SILENCE: Duration = Duration::from_secs(300);
/// The most layers that are counted for people.
const MAX_LAYERS: usize = 1_024;

/// Which image, when its registry is asked for it, and as whom.
pub(crate) struct Wanted<'a> {
    pub(crate) image: &'a str,
    pub(crate) pull: PullPolicy,
    pub(crate) credentials: Option<&'a Credentials>,
}

/// Makes an image be there.
pub(crate) async fn ensure(
    docker: &Docker,
    pulled: &Pulled,
    wanted: &Wanted<'_>,
    progress: &Progress,
) -> Result<(), Error> {
    let reference = Reference::parse(wanted.image);
    let image = reference.canonical();
    let before = find(docker, &image).await?;
    match (wanted.pull, &before) {
        (PullPolicy::Always, Some(_)) if !reference.is_digest() => {}
        (_, Some(_)) => return pulled.touch(&image).await,
        (PullPolicy::Never, None) => return Err(must_be_there(&image)),
        (_, None) => {}
    }
    // Before it is pulled: an agent that is killed meanwhile knows what is its own.
    match &before {
        None => pulled.add(&image).await?,
        Some(before) => pulled.may_lose_name(&image, before.id.clone()).await?,
    }
    let outcome = pull(docker, &reference, wanted.credentials, progress).await;
    let found = match outcome {
        Ok(()) => find(docker, &image).await?.ok_or_else(|| {
            let detail = format!("{image} was pulled, and yet the engine does not have it");
            Error::new(Step::Prepare, Reason::ImagePullFailed, detail)
        }),
        Err(error) => Err(error),
    };
    if found.is_err() && before.is_none() {
        pulled.remove(&image).await?;
    }
    found.map(drop)
}

fn must_be_there(image: &str) -> Error {
    let detail = format!("the node does not have {image}, and `container.pull` is `never`");
    Error::new(Step::Prepare, Reason::ImageNotFound, detail)
}

/// An image that the engine has; `None` when it has not.
pub(crate) async fn find(docker: &Docker, image: &str) -> Result<Option<ImageInspect>, Error> {
    match docker.inspect_image(image).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(failed(Step::Prepare, &error)),
    }
}

/// What an image is by its content: its digest at the registry, or its id.
pub(crate) fn source(image: &str, found: &ImageInspect) -> String {
    let name = Reference::parse(image).name;
    let digests = found.repo_digests.iter().flatten();
    let of_name = digests
        .filter_map(|digest| digest.split_once('@'))
        .find(|(of, _)| *of == name || of.ends_with(&format!("/{name}")));
    match of_name {
        Some((name, digest)) => format!("{name}@{digest}"),
        None => found.id.clone().unwrap_or_default(),
    }
}

async fn pull(
    docker: &Docker,
    reference: &Reference,
    credentials: Option<&Credentials>,
    progress: &Progress,
) -> Result<(), Error> {
    let options = CreateImageOptionsBuilder::new()
        .from_image(&reference.name)
        .tag(&reference.tag_or_digest)
        .build();
    let login = credentials.map(|login| DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.clone()),
        serveraddress: Some(reference.registry().to_owned()),
        ..DockerCredentials::default()
    });
    let mut layers = Layers::default();
    progress.send_replace(format!("pulling {}", reference.canonical()));
    let stream = docker.create_image(Some(options), None, login);
    let mut stream = std::pin::pin!(stream);
    loop {
        let next = tokio::time::timeout(SILENCE, stream.next()).await;
        match next {
            Err(_) => {
                let detail = format!("no word from the engine for {SILENCE:?}");
                return Err(Error::new(Step::Prepare, Reason::ImagePullFailed, detail));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => return Err(pull_failed(reference, &error)),
            Ok(Some(Ok(line))) => {
                layers.note(&line);
                progress.send_replace(layers.to_string());
            }
        }
    }
}

fn pull_failed(reference: &Reference, error: &Api) -> Error {
    let message = said(error);
    let reason = classify(&message);
    let detail = format!("{}: {message}", reference.canonical());
    Error::new(Step::Prepare, reason, detail)
}

/// Engines give most failures of a pull the same status: what they say decides.
fn classify(message: &str) -> Reason {
    let message = message.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if any(&[
        "verification failed",
        "does not match",
        "digest mismatch",
        "invalid checksum",
    ]) {
        Reason::ArtifactCorrupt
    } else if any(&[
        "manifest unknown",
        "name unknown",
        "not found",
        "does not exist",
        "no such image",
        "unauthorized",
        "access denied",
        "authentication required",
        "no basic auth",
        "requested access to the resource is denied",
        "repository name not known",
    ]) && !any(&["no such host", "connection refused"])
    {
        Reason::ImageNotFound
    } else if any(&["no space left"]) {
        Reason::StorageError
    } else if any(&[
        "invalid reference format",
        "invalid tag format",
        "must be lowercase",
    ]) {
        Reason::InvalidSpec
    } else {
        Reason::ImagePullFailed
    }
}

/// How far each layer is, in bytes.
#[derive(Default)]
struct Layers {
    all: HashMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    current: i64,
    total: i64,
    is_done: bool,
}

impl Layers {
    fn note(&mut self, line: &CreateImageInfo) {
        let (Some(id), Some(said)) = (&line.id, &line.status) else {
            return;
        };
        // The first line has the tag for its id.
        if said.starts_with("Pulling from")
            || (self.all.len() >= MAX_LAYERS && !self.all.contains_key(id))
        {
            return;
        }
        let layer = self.all.entry(id.clone()).or_default();
        if said == "Downloading"
            && let Some(detail) = &line.progress_detail
        {
            layer.current = detail.current.unwrap_or(layer.current);
            layer.total = detail.total.unwrap_or(layer.total);
        }
        if said == "Pull complete" || said == "Already exists" {
            layer.is_done = true;
            layer.current = layer.total;
        }
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = self.all.values().filter(|layer| layer.is_done).count();
        let current: i64 = self.all.values().map(|layer| layer.current).sum();
        let total: i64 = self.all.values().map(|layer| layer.total).sum();
        write!(f, "pulled {done} of {} layers", self.all.len())?;
        if total > 0 {
            write!(f, ", {} of {} MB", current / 1_000_000, total / 1_000_000)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_says_of_a_pull_has_a_reason() {
        for (message, reason) in [
            (
                "manifest for r:5000/x:1 not found: manifest unknown: manifest unknown",
                Reason::ImageNotFound,
            ),
            (
                "pull access denied for x, repository does not exist or may require 'docker login'",
                Reason::ImageNotFound,
            ),
            (
                "Get \"http://r:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
                Reason::ImagePullFailed,
            ),
            (
                "initializing source docker://x: pinging container registry x: dial tcp: lookup x: no such host",
                Reason::ImagePullFailed,
            ),
            (
                "filesystem layer verification failed for digest sha256:00",
                Reason::ArtifactCorrupt,
            ),
            ("write /x: no space left on device", Reason::StorageError),
            ("invalid reference format", Reason::InvalidSpec),
        ] {
            assert_eq!(classify(message), reason, "{message}");
        }
    }

    #[test]
    fn layers_are_counted_for_people() {
        let mut layers = Layers::default();
        for json in [
            r#"{"id": "1.0", "status": "Pulling from x"}"#,
            r#"{"id": "a", "status": "Pulling fs layer"}"#,
            r#"{"id": "b", "status": "Already exists"}"#,
            r#"{"id": "a", "status": "Downloading", "progressDetail": {"current": 40000000, "total": 120000000}}"#,
        ] {
            layers.note(&serde_json::from_str(json).unwrap());
        }
        assert_eq!(layers.to_string(), "pulled 1 of 2 layers, 40 of 120 MB");
    }
}
