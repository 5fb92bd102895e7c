//! What a path means: a service by id, unique prefix or name, and one of its units.

use weft_core::service::record::{Assignment, Intent};
use weft_types::{FieldError, Namespace, UnitId, WorkloadId};

use super::apply::{name_of, unknown};
use super::cache::{Kept, Service, Tables};
use crate::Error;
use crate::rest::problem::ApiError;
use crate::state::Server;

/// What the ids of services begin with.
const ID_PREFIX: &str = "wl-";

/// The namespace of a request.
///
/// # Errors
/// When it is not a name.
pub fn namespace(text: Option<&str>) -> Result<Namespace, FieldError> {
    match text {
        None | Some("") => Ok(Namespace::default()),
        Some(text) => text
            .parse()
            .map_err(|error| FieldError::new("namespace", error)),
    }
}

/// The service that an id, a unique prefix of one, or a name in a namespace means.
///
/// # Errors
/// When there is none, or more than one.
pub fn service(server: &Server, wanted: &str, namespace: &Namespace) -> Result<Service, Error> {
    server.services.workloads.read(|tables| {
        let id = id_of(tables, wanted, namespace)?;
        tables.service(id).ok_or_else(|| unknown(wanted))
    })
}

fn id_of(tables: &Tables, wanted: &str, namespace: &Namespace) -> Result<WorkloadId, Error> {
    if let Ok(id) = wanted.parse::<WorkloadId>()
        && tables.by_id(id).is_some()
    {
        return Ok(id);
    }
    if let Some(kept) = tables.by_name(namespace, wanted) {
        return Ok(kept.value.id);
    }
    if !wanted.starts_with(ID_PREFIX) {
        return Err(unknown(wanted));
    }
    let mut matches = tables
        .workloads()
        .map(|kept| kept.value.id)
        .filter(|id| id.to_string().starts_with(wanted));
    match (matches.next(), matches.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(unknown(wanted)),
        (Some(_), Some(_)) => Err(Error::Ambiguous {
            what: "workload",
            id: wanted.to_owned(),
        }),
    }
}

/// The key of a service's record.
pub fn key(service: &Service) -> String {
    let spec = &service.record.value.spec;
    weft_core::service::record::WorkloadRecord::key(&spec.namespace, name_of(spec))
}

/// The unit that a number or an id means; without one, the first that is ready, or else the first
/// that is to run.
///
/// # Errors
/// When there is no such unit.
pub fn unit(service: &Service, wanted: Option<&str>) -> Result<Kept<Assignment>, ApiError> {
    let units = || service.units.iter();
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        let number = number_of(service, wanted)?;
        let found = units().find(|(kept, _)| kept.value.unit.number == number);
        return found.map(|(kept, _)| kept.clone()).ok_or_else(|| {
            Error::NotFound {
                what: "unit",
                id: wanted.to_owned(),
            }
            .into()
        });
    }
    let ready = units().find(|(kept, status)| {
        let is_ready = status.as_ref().is_some_and(|status| status.value.ready);
        is_ready && kept.value.intent == Intent::Run
    });
    let any = || units().find(|(kept, _)| kept.value.intent == Intent::Run);
    let found = ready.or_else(any).map(|(kept, _)| kept.clone());
    found.ok_or_else(|| {
        let name = name_of(&service.record.value.spec);
        FieldError::new(
            "unit",
            format!("the service {name:?} has no unit now; `weft explain {name}` tells why"),
        )
        .into()
    })
}

fn number_of(service: &Service, wanted: &str) -> Result<u32, FieldError> {
    let malformed = || {
        FieldError::new(
            "unit",
            format!("{wanted:?} is not a unit of this service: write its number or its id"),
        )
    };
    if let Ok(number) = wanted.parse() {
        return Ok(number);
    }
    let unit: UnitId = wanted.parse().map_err(|_| malformed())?;
    if unit.workload == service.record.value.id {
        Ok(unit.number)
    } else {
        Err(malformed())
    }
}
