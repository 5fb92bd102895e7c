//! Secrets: set and removed, never shown.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use weft_api::{Page, Problem, SecretRequest, SecretView};
use weft_store::{Op, Txn};
use weft_types::{FieldError, Namespace, Reason, WorkloadName, parse_json};

use super::App;
use super::page::{Params, page_limit};
use super::problem::ApiError;
use crate::Error;
use crate::records::{put_json, unchanged};
use crate::services::apply::name_of;
use crate::services::find;
use crate::services::resolve;
use crate::services::secrets::SecretRecord;
use crate::state::Server;

/// The most secrets of a cluster.
const MAX_SECRETS: usize = 20_000;
/// How often a write that lost a race begins again.
const MAX_TRIES: usize = 8;

/// Which secrets.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretParams {
    namespace: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// `PUT /v1/secrets/{name}`: sets all values of a secret.
pub async fn put(
    State(server): App,
    Path(name): Path<String>,
    Params(params): Params<SecretParams>,
    body: Bytes,
) -> Result<(StatusCode, Json<SecretView>), ApiError> {
    let (namespace, name) = named(&params, &name)?;
    // What the parser says could show a value, or a key that is one: it is not passed on.
    let request: SecretRequest = parse_json(&body)
        .map_err(|_| FieldError::new("values", "not `{\"values\": {KEY: TEXT, …}}`"))?;
    let key = SecretRecord::key(&namespace, name.as_str());
    for _ in 0..MAX_TRIES {
        let current = server.records.get::<SecretRecord>(&key).await?;
        let count = server
            .services
            .workloads
            .read(|t| t.secrets_after("").count());
        if current.is_none() && count >= MAX_SECRETS {
            return Err(ApiError::too_many(format!("there are {count} secrets"), 60));
        }
        let version = current.as_ref().map_or(0, |(old, _)| old.version) + 1;
        let now = server.clock.wall();
        let sealer = &server.services.sealer;
        let record = sealer.seal(&namespace, &name, &request.values, version, now)?;
        let since = current.map(|(_, since)| since);
        let txn = Txn::new()
            .when(unchanged(&key, since))
            .then(put_json(&key, &record)?);
        let outcome = server.records.txn(txn).await?;
        if outcome.succeeded {
            server.services.workloads.reached(outcome.revision).await;
            let data = json!({ "namespace": namespace, "keys": record.keys, "version": version });
            let events = &server.events;
            events.emit(now, "secret.set", name.as_str(), data);
            let status = if since.is_none() {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            return Ok((status, Json(record.view())));
        }
    }
    Err(ApiError::too_many(
        "others set the same secret all the time",
        1,
    ))
}

/// `GET /v1/secrets/{name}`.
pub async fn show(
    State(server): App,
    Path(name): Path<String>,
    Params(params): Params<SecretParams>,
) -> Result<Json<SecretView>, ApiError> {
    let (namespace, name) = named(&params, &name)?;
    let found = server.services.workloads.read(|tables| {
        let kept = tables.secret(&namespace, name.as_str());
        kept.map(|kept| kept.value.view())
    });
    found.map(Json).ok_or_else(|| unknown(&name).into())
}

/// `GET /v1/secrets`.
pub async fn list(
    State(server): App,
    Params(params): Params<SecretParams>,
) -> Result<Json<Page<SecretView>>, ApiError> {
    let namespace = params.namespace.as_deref().filter(|text| !text.is_empty());
    let namespace = namespace
        .map(|text| find::namespace(Some(text)))
        .transpose()?;
    let limit = page_limit(params.limit);
    let after = params.cursor.unwrap_or_default();
    let page = server.services.workloads.read(|tables| {
        let rest = tables.secrets_after(&after);
        let mut rest = rest.filter(|(_, kept)| {
            let theirs = &kept.value.namespace;
            namespace.as_ref().is_none_or(|wanted| wanted == theirs)
        });
        let taken: Vec<_> = rest.by_ref().take(limit).collect();
        let last = taken.last().map(|(key, _)| (*key).clone());
        Page {
            items: taken.iter().map(|(_, kept)| kept.value.view()).collect(),
            next: last.filter(|_| rest.next().is_some()),
        }
    });
    Ok(Json(page))
}

/// `DELETE /v1/secrets/{name}`: refused while a service names it.
pub async fn remove(
    State(server): App,
    Path(name): Path<String>,
    Params(params): Params<SecretParams>,
) -> Result<StatusCode, ApiError> {
    let (namespace, name) = named(&params, &name)?;
    let key = SecretRecord::key(&namespace, name.as_str());
    let current = server.records.get::<SecretRecord>(&key).await?;
    let (_, since) = current.ok_or_else(|| unknown(&name))?;
    if let Some(user) = user_of(&server, &namespace, name.as_str()) {
        return Err(Problem::new(
            409,
            "secret-in-use",
            Reason::InvalidSpec,
            format!("the service {user:?} uses the secret {:?}", name.as_str()),
        )
        .with_next("delete that service or apply it without the secret, then try again")
        .into());
    }
    let txn = Txn::new()
        .when(unchanged(&key, Some(since)))
        .then(Op::delete(&key));
    let outcome = server.records.txn(txn).await?;
    server.services.workloads.reached(outcome.revision).await;
    if !outcome.succeeded {
        return Err(ApiError::too_many("somebody set the secret meanwhile", 1));
    }
    let now = server.clock.wall();
    let data = json!({ "namespace": namespace });
    server
        .events
        .emit(now, "secret.removed", name.as_str(), data);
    Ok(StatusCode::NO_CONTENT)
}

/// A service that names a secret.
fn user_of(server: &Server, namespace: &Namespace, name: &str) -> Option<String> {
    server.services.workloads.read(|tables| {
        let mut users = tables.workloads().filter(|kept| {
            let spec = &kept.value.spec;
            let mut names = resolve::named(spec).into_iter();
            spec.namespace == *namespace && names.any(|named| named.name == name)
        });
        users
            .next()
            .map(|kept| name_of(&kept.value.spec).to_owned())
    })
}

fn named(params: &SecretParams, name: &str) -> Result<(Namespace, WorkloadName), FieldError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    let name = name.parse().map_err(|error: String| {
        FieldError::new("name", error.replace("workload name", "secret's name"))
    })?;
    Ok((namespace, name))
}

fn unknown(name: &WorkloadName) -> Error {
    Error::NotFound {
        what: "secret",
        id: name.to_string(),
    }
}
