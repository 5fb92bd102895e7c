//! Published ports: no two services of a cluster have the same one.

use weft_api::{Problem, ProblemField};
use weft_types::{Namespace, PortSpec, Reason, Workload};

use super::apply::name_of;
use super::cache::Tables;
use crate::rest::problem::ApiError;
use crate::state::Server;

/// Changes with every change of published ports: two services never get the same one.
pub(super) const KEY: &str = "meta/published-ports";

/// The published ports of a specification, each with the field that publishes it.
pub fn published(spec: &Workload) -> Vec<(String, PortSpec)> {
    let container = spec.container.iter().flat_map(|container| {
        let ports = container.ports.iter().enumerate();
        ports.map(|(index, port)| (format!("container.ports[{index}]"), *port))
    });
    let networks = spec.vm.iter().flat_map(|vm| vm.networks.iter().enumerate());
    let vm = networks.flat_map(|(network, spec)| {
        let ports = spec.ports.iter().enumerate();
        ports.map(move |(index, port)| (format!("vm.networks[{network}].ports[{index}]"), *port))
    });
    container.chain(vm).collect()
}

/// Whether every port that a specification publishes is free.
///
/// # Errors
/// The field with one that is not.
pub async fn check(server: &Server, spec: &Workload) -> Result<(), ApiError> {
    reserve(server, spec).await.map(|_| ())
}

/// The revision that the claims of ports have, when the specification publishes any: nobody else
/// has one of them as of then.
pub(super) async fn reserve(
    server: &Server,
    spec: &Workload,
) -> Result<Option<Option<u64>>, ApiError> {
    let wanted = published(spec);
    if wanted.is_empty() {
        return Ok(None);
    }
    let (claims, revision) = server.records.list_raw(KEY).await?;
    server.services.workloads.reached(revision).await;
    let mine = (&spec.namespace, name_of(spec));
    let problem = server
        .services
        .workloads
        .read(|tables| taken(tables, mine, &wanted));
    match problem {
        Some(problem) => Err(problem.into()),
        None => Ok(Some(claims.first().map(|kv| kv.mod_revision))),
    }
}

fn taken(
    tables: &Tables,
    mine: (&Namespace, &str),
    wanted: &[(String, PortSpec)],
) -> Option<Problem> {
    tables.workloads().find_map(|other| {
        let theirs = &other.value.spec;
        if (&theirs.namespace, name_of(theirs)) == mine {
            return None;
        }
        let published = published(theirs);
        let is_taken = |port: u16| published.iter().any(|(_, other)| other.port == port);
        let (path, port) = wanted.iter().find(|(_, port)| is_taken(port.port))?;
        let message = format!(
            "port {} is published by the service {:?} in the namespace {}",
            port.port,
            name_of(theirs),
            theirs.namespace
        );
        let mut problem = Problem::new(
            409,
            "port-taken",
            Reason::InvalidSpec,
            format!("{path}: {message}"),
        )
        .with_next("publish another port, or delete that service");
        problem.errors.push(ProblemField {
            path: path.clone(),
            message,
        });
        Some(problem)
    })
}
