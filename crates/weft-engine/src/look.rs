//! Looking at containers, also at those in a state that only Podman has.

use std::collections::HashMap;
use std::path::Path;

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Step};

use crate::hijack::{get, message};
use crate::request::name;

/// A container in a list: what is needed of it.
#[derive(Deserialize)]
pub(crate) struct Listed {
    #[serde(rename = "Labels", default)]
    pub labels: Option<HashMap<String, String>>,
}

/// Gets JSON; `None` when there is nothing at the path.
async fn json<T: DeserializeOwned>(
    docker: &Docker,
    socket: &Path,
    path: &str,
    step: Step,
) -> Result<Option<T>, Error> {
    let version = docker.client_version();
    let path = format!(
        "/v{}.{}{path}",
        version.major_version, version.minor_version
    );
    let silent = |error: &dyn std::fmt::Display| {
        let detail = format!("{}: {error}", socket.display());
        Error::new(step, Reason::RuntimeUnavailable, detail)
    };
    let (status, body) = get(socket, &path).await.map_err(|error| silent(&error))?;
    match status {
        200 => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| silent(&error)),
        404 => Ok(None),
        _ => {
            let said = message(&body).unwrap_or_else(|| format!("answered with {status}"));
            Err(Error::new(step, Reason::RuntimeError, said))
        }
    }
}

/// A unit's container, whoever made it.
pub(crate) async fn inspect(
    docker: &Docker,
    socket: &Path,
    id: UnitId,
    step: Step,
) -> Result<Option<ContainerInspectResponse>, Error> {
    let path = format!("/containers/{}/json", name(id));
    let found: Option<Value> = json(docker, socket, &path, step).await?;
    let Some(mut found) = found else {
        return Ok(None);
    };
    in_dockers_words(&mut found);
    serde_json::from_value(found)
        .map(Some)
        .map_err(|error| Error::new(step, Reason::RuntimeError, error.to_string()))
}

/// Podman has more states than Docker: made ready but not started, and ended but not cleared up.
fn in_dockers_words(container: &mut Value) {
    let Some(state) = container.get_mut("State").and_then(Value::as_object_mut) else {
        return;
    };
    state.remove("Health");
    let status = state.get("Status").and_then(Value::as_str);
    let known = match status {
        Some("configured" | "initialized") => "created",
        Some("stopped" | "unknown") => "exited",
        _ => return,
    };
    state.insert("Status".to_owned(), known.into());
}

/// All containers.
pub(crate) async fn list(docker: &Docker, socket: &Path) -> Result<Vec<Listed>, Error> {
    let all = json(docker, socket, "/containers/json?all=true", Step::Run).await?;
    Ok(all.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_podman_are_told_in_dockers_words() {
        for (podman, docker) in [
            ("stopped", "exited"),
            ("initialized", "created"),
            ("running", "running"),
        ] {
            let mut found = serde_json::json!({
                "State": {"Status": podman, "Health": {"Status": "none of them"}}
            });
            in_dockers_words(&mut found);
            let read: ContainerInspectResponse = serde_json::from_value(found).unwrap();
            let status = read.state.unwrap().status.unwrap();
            assert_eq!(status.to_string(), docker);
        }
    }
}
