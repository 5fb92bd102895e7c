//! What a Compose file may ask of the node. Pure: paths are collected, and looked at by the caller.
//!
//! Two passes on the node. The *raw* pass sees the text before Compose does: which keys there are,
//! and which files Compose would read. The *model* pass sees values as Compose resolved them, with
//! variables put in. A key that is in no list is refused, so that what a later Compose brings is
//! looked at before it is let through. Before them, the server looks at inline files *as written*.

mod keys;
mod mounts;
mod service;
mod top;
mod written;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value as Json};

pub use mounts::OF_THE_NODE;
pub use service::{Build, Service};
pub use written::check_written;

/// The most services of an application.
const MAX_SERVICES: usize = 64;
/// The most containers of an application.
const MAX_CONTAINERS: u64 = 256;

/// A part of a Compose file that is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Where: `services.web.privileged`.
    pub field: String,
    /// Why, and what to write instead.
    pub message: String,
    /// Whether the right to privileged work would allow it.
    pub needs_right: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A verdict.
pub type Checked<T = ()> = Result<T, Refusal>;

fn refuse<T>(field: impl Into<String>, message: impl Into<String>) -> Checked<T> {
    Err(Refusal {
        field: field.into(),
        message: message.into(),
        needs_right: false,
    })
}

/// What may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Whatever reaches the node: devices, its networks, its directories.
    pub privileged: bool,
}

impl Rights {
    /// Refuses what only privileged work may have.
    ///
    /// # Errors
    /// That it is refused, unless there is the right.
    pub fn need(self, field: impl Into<String>, what: &str) -> Checked {
        if self.privileged {
            return Ok(());
        }
        Err(Refusal {
            field: field.into(),
            message: what.to_owned(),
            needs_right: true,
        })
    }
}

/// What a path in a Compose file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Read by Compose: more of the file, to be checked like it.
    Extends,
    /// Read by Compose, or mounted: a file.
    File,
    /// Mounted: a file or a directory.
    Mount,
    /// A directory to build from.
    Context,
}

/// A path that a Compose file refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Where.
    pub field: String,
    /// As written in the raw pass; absolute in the model pass.
    pub path: String,
    /// What for.
    pub purpose: Use,
}

/// What Compose made of its files.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Model {
    /// `version`, which an override has to repeat.
    pub version: Option<String>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Named volumes that are the application's own, as they are defined.
    pub volumes: Map<String, Json>,
    /// Networks that are the application's own, as they are defined.
    pub networks: Map<String, Json>,
    /// Paths of the node that it refers to.
    pub references: Vec<Reference>,
}

impl Model {
    /// Leaves only the services whose profiles are active.
    pub fn activate(&mut self, profiles: &[String]) -> Checked {
        self.services.retain(|_, service| {
            let theirs = &service.profiles;
            theirs.is_empty() || theirs.iter().any(|name| profiles.contains(name))
        });
        if self.services.is_empty() {
            return refuse(
                "services",
                "none is active; list some, or activate a profile",
            );
        }
        Ok(())
    }

    /// In which order services are started: each one after those that it depends on.
    pub fn stages(&self) -> BTreeMap<&str, u32> {
        let mut stages: BTreeMap<&str, u32> = self
            .services
            .keys()
            .map(|name| (name.as_str(), 0))
            .collect();
        // A longer chain than there are services is a circle, which Compose itself refuses.
        for _ in 0..self.services.len() {
            for (name, service) in &self.services {
                let above = |other: &String| stages.get(other.as_str()).map(|stage| stage + 1);
                let stage = service
                    .depends_on
                    .iter()
                    .filter_map(above)
                    .max()
                    .unwrap_or(0);
                stages.insert(name, stage);
            }
        }
        stages
    }

    /// How many containers the application has.
    pub fn containers(&self) -> u64 {
        self.services.values().map(|service| service.replicas).sum()
    }
}

/// Checks a file before Compose reads it, and tells which further files Compose would read.
pub fn check_raw(doc: &Json, rights: Rights) -> Checked<Vec<Reference>> {
    let top = mapping("", doc)?;
    keys::check_top(top)?;
    let Some(services) = top.get("services") else {
        return refuse("services", "missing; list the application's services there");
    };
    let mut references = Vec::new();
    for (name, service) in mapping("services", services)? {
        let at = format!("services.{name}");
        check_name(&at, name)?;
        let service = mapping(&at, service)?;
        keys::check_service(&at, service, rights)?;
        references.extend(service::files_read(&at, service)?);
    }
    top::check_names_left_out(top)?;
    Ok(references)
}

/// Checks what Compose made of the files.
pub fn check_model(doc: &Json, rights: Rights) -> Checked<Model> {
    let top = mapping("", doc)?;
    keys::check_top(top)?;
    let mut model = Model {
        version: top.get("version").and_then(Json::as_str).map(str::to_owned),
        ..Model::default()
    };
    let services = mapping("services", top.get("services").unwrap_or(&Json::Null))?;
    if services.is_empty() {
        return refuse(
            "services",
            "none is active; list some, or activate a profile",
        );
    }
    if services.len() > MAX_SERVICES {
        return refuse("services", format!("more than {MAX_SERVICES}"));
    }
    for (name, service) in services {
        let at = format!("services.{name}");
        check_name(&at, name)?;
        let checked = service::check(&at, mapping(&at, service)?, rights, &mut model.references)?;
        model.services.insert(name.clone(), checked);
    }
    if model.containers() > MAX_CONTAINERS {
        return refuse("services", format!("more than {MAX_CONTAINERS} containers"));
    }
    model.volumes = top::check_volumes(top, rights)?;
    model.networks = top::check_networks(top, rights)?;
    for section in ["secrets", "configs"] {
        top::check_files(section, top, rights, &mut model.references)?;
    }
    Ok(model)
}

/// Names of services reach command lines and labels.
fn check_name(at: &str, name: &str) -> Checked {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 63
        && name.chars().all(allowed);
    if plain {
        return Ok(());
    }
    refuse(at, "a name has 1 to 63 letters, digits, `-`, `_` and `.`")
}

static NOTHING: std::sync::LazyLock<Map<String, Json>> = std::sync::LazyLock::new(Map::new);

/// A mapping; nothing at all is an empty one.
fn mapping<'a>(at: &str, value: &'a Json) -> Checked<&'a Map<String, Json>> {
    match value {
        Json::Object(map) => Ok(map),
        Json::Null => Ok(&NOTHING),
        _ => refuse(at, "not a mapping"),
    }
}

/// The items of a list; a single value is a list of one, nothing is an empty one.
fn items(value: Option<&Json>) -> &[Json] {
    match value {
        None | Some(Json::Null) => &[],
        Some(Json::Array(items)) => items,
        Some(single) => std::slice::from_ref(single),
    }
}

/// Whether a value asks for nothing.
fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
