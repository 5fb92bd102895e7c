//! What of a specification needs a right that its namespace may not have.
//!
//! Compose files inside a specification are looked at here, as they are written. Those in a
//! repository only their node sees; it is told whether the namespace has the right.

use weft_api::{Problem, ProblemField};
use weft_compose_rules::parse_yaml;
use weft_compose_rules::policy::{Rights, check_written};
use weft_types::{FieldError, Namespace, NetworkMode, Reason, Workload};

use crate::rest::problem::ApiError;
use crate::state::Server;

/// Checks a specification.
///
/// # Errors
/// The field that is refused, or that needs a right which the namespace does not have.
pub fn check(server: &Server, spec: &Workload) -> Result<(), ApiError> {
    let is_allowed = server.services.allow_privileged.contains(&spec.namespace);
    if !is_allowed && let Some(path) = privileged_field(spec) {
        return Err(missing(&spec.namespace, path, "gives rights over the node"));
    }
    let inline = spec.compose.as_ref().and_then(|it| it.inline.as_deref());
    match inline {
        Some(text) => check_inline(&spec.namespace, text, is_allowed),
        None => Ok(()),
    }
}

fn check_inline(namespace: &Namespace, text: &str, is_allowed: bool) -> Result<(), ApiError> {
    const FIELD: &str = "compose.inline";
    let doc = parse_yaml(text).map_err(|why| FieldError::new(FIELD, why))?;
    let rights = Rights {
        privileged: is_allowed,
    };
    let Err(refusal) = check_written(&doc, rights) else {
        return Ok(());
    };
    let path = match refusal.field.as_str() {
        "" => FIELD.to_owned(),
        field => format!("{FIELD}.{field}"),
    };
    if refusal.needs_right {
        return Err(missing(namespace, path, &refusal.message));
    }
    Err(FieldError::new(path, refusal.message).into())
}

fn missing(namespace: &Namespace, path: String, why: &str) -> ApiError {
    let message = format!("{why}; not allowed in the namespace {namespace}");
    let mut problem = Problem::new(
        403,
        "permission-denied",
        Reason::PermissionDenied,
        format!("{path}: {message}"),
    )
    .with_next(format!(
        "leave it out, or have an administrator add {namespace:?} to the server's `allow_privileged`"
    ));
    problem.errors.push(ProblemField { path, message });
    problem.into()
}

/// The first field that gives a container rights over its node.
fn privileged_field(spec: &Workload) -> Option<String> {
    let container = spec.container.as_deref()?;
    if container.privileged {
        return Some("container.privileged".to_owned());
    }
    if container.network == NetworkMode::Host {
        return Some("container.network".to_owned());
    }
    let mut volumes = container.volumes.iter();
    let index = volumes.position(|volume| volume.host.is_some())?;
    Some(format!("container.volumes[{index}].host"))
}
