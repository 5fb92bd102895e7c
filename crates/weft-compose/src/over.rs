//! The override file: what Weft adds to an application.

use serde_json::{Map, Value as Json, json};
use weft_compose_rules::policy::{Model, Service};
use weft_types::Resources;
use weft_unit::{Unit, labels};

/// The value of [`labels::KIND`].
pub(crate) const COMPOSE: &str = "compose";
/// The label of volumes: whose they are, `wl-…`, and which set.
pub(crate) const SLOT: &str = "weft.slot";

/// The most processes and threads of a unit.
pub(crate) const MAX_PIDS: u64 = 4096;
/// The least memory that the engine accepts for a container, in bytes.
const MIN_MEMORY: u64 = 6 << 20;

/// How a unit's limits are put on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// All containers are in this control group, which has the limits.
    Parent(String),
    /// The engine has no control group for all: they are shared out.
    Shared,
}

/// The project of a unit, as Compose names it.
pub(crate) fn project(id: weft_types::UnitId) -> String {
    format!("weft-{id}")
}

/// Labels of everything that a unit has.
pub(crate) fn unit_labels(unit: &Unit, node: &str) -> Map<String, Json> {
    let text = |value: String| Json::String(value);
    Map::from_iter([
        (labels::NODE.to_owned(), text(node.to_owned())),
        (labels::UNIT.to_owned(), text(unit.id.to_string())),
        (labels::REVISION.to_owned(), text(unit.revision.to_string())),
        (
            labels::WORKLOAD.to_owned(),
            text(format!("{}/{}", unit.namespace, unit.name)),
        ),
        (labels::KIND.to_owned(), text(COMPOSE.to_owned())),
    ])
}

/// The value of [`SLOT`].
pub(crate) fn slot_label(id: weft_types::UnitId, slot: u32) -> String {
    format!("{}/{slot}", id.workload)
}

/// The image that is built for a service. It is the unit's own: whatever a file calls it, it must
/// not take the place of an image that others use.
pub(crate) fn built_image(id: weft_types::UnitId, service: &str, revision: u64) -> String {
    let service: String = service
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    format!("weft-built/{id}-{}:r{revision}", service.trim_matches('-'))
}

/// Writes the override of an application.
///
/// # Errors
/// When its services' own limits are more than the unit may use.
pub(crate) fn override_file(
    unit: &Unit,
    node: &str,
    slot: u32,
    model: &Model,
    bound: &Bound,
) -> Result<String, String> {
    let labels = unit_labels(unit, node);
    let mut services = Map::new();
    let share = Share::new(&unit.resources, model, bound)?;
    for (name, service) in &model.services {
        let mut extra = share.of(service);
        extra.insert("labels".to_owned(), labels.clone().into());
        if let Bound::Parent(parent) = bound {
            extra.insert("cgroup_parent".to_owned(), parent.as_str().into());
        }
        if service.build.is_some() {
            let image = built_image(unit.id, name, unit.revision);
            extra.insert("image".to_owned(), image.into());
            extra.insert("build".to_owned(), json!({"labels": labels}));
        }
        services.insert(name.clone(), extra.into());
    }
    let mut file = Map::new();
    // An older Compose refuses files of different versions.
    if let Some(version) = &model.version {
        file.insert("version".to_owned(), version.as_str().into());
    }
    file.insert("services".to_owned(), services.into());
    file.insert("networks".to_owned(), networks(unit, &labels, model).into());
    let volumes = volumes(unit, node, slot, model);
    if !volumes.is_empty() {
        file.insert("volumes".to_owned(), volumes.into());
    }
    // JSON is YAML.
    serde_json::to_string_pretty(&file).map_err(|error| error.to_string())
}

/// A definition with a name and labels; an older Compose takes the last definition as a whole, so
/// that it has to be repeated.
fn named(definition: &Json, name: String, labels: &Map<String, Json>) -> Json {
    let mut definition = definition.as_object().cloned().unwrap_or_default();
    definition.insert("name".to_owned(), name.into());
    let mut all = match definition.remove("labels") {
        Some(Json::Object(own)) => own,
        _ => Map::new(),
    };
    all.extend(labels.clone());
    definition.insert("labels".to_owned(), all.into());
    definition.into()
}

fn networks(unit: &Unit, labels: &Map<String, Json>, model: &Model) -> Map<String, Json> {
    let mut all = model.networks.clone();
    all.entry("default").or_insert(Json::Null);
    let project = project(unit.id);
    all.into_iter()
        .map(|(name, definition)| {
            let ours = named(&definition, format!("{project}_{name}"), labels);
            (name, ours)
        })
        .collect()
}

fn volumes(unit: &Unit, node: &str, slot: u32, model: &Model) -> Map<String, Json> {
    // A volume outlives its unit, and labels cannot be changed: they name the workload.
    let mut labels = unit_labels(unit, node);
    labels.remove(labels::UNIT);
    labels.remove(labels::REVISION);
    labels.insert(SLOT.to_owned(), slot_label(unit.id, slot).into());
    let name = |volume: &str| format!("weft-{}-{slot}-{volume}", unit.id.workload);
    model
        .volumes
        .iter()
        .map(|(volume, definition)| (volume.clone(), named(definition, name(volume), &labels)))
        .collect()
}

/// What a service without limits of its own gets.
struct Share {
    memory: u64,
    millicores: Option<u64>,
    pids: Option<u64>,
}

impl Share {
    fn new(resources: &Resources, model: &Model, bound: &Bound) -> Result<Self, String> {
        let total = (resources.memory.0, resources.cpu.0);
        if matches!(bound, Bound::Parent(_)) {
            // The group bounds the sum; each may use all of it.
            return Ok(Self {
                memory: total.0,
                millicores: None,
                pids: None,
            });
        }
        let memory = rest(total.0, model, |service| service.memory)
            .filter(|share| *share >= MIN_MEMORY)
            .ok_or("the services' limits on memory leave too little of `resources.memory`")?;
        let millicores = rest(total.1, model, |service| service.cpu)
            .filter(|share| *share > 0)
            .ok_or("the services' limits on CPU leave nothing of `resources.cpu`")?;
        Ok(Self {
            memory,
            millicores: Some(millicores),
            pids: Some(MAX_PIDS / model.containers().max(1)),
        })
    }

    fn of(&self, service: &Service) -> Map<String, Json> {
        let mut limits = Map::new();
        if service.memory.is_none() {
            limits.insert("mem_limit".to_owned(), self.memory.into());
            limits.insert("memswap_limit".to_owned(), self.memory.into());
        }
        if let Some(millicores) = self.millicores.filter(|_| service.cpu.is_none()) {
            let cpus = millicores as f64 / 1000.0;
            limits.insert("cpus".to_owned(), cpus.into());
        }
        if let Some(pids) = self.pids.filter(|_| !service.limits_pids) {
            limits.insert("pids_limit".to_owned(), pids.into());
        }
        limits
    }
}

/// What is left for each container without a limit of its own; all of it when each has one.
fn rest(total: u64, model: &Model, own: impl Fn(&Service) -> Option<u64>) -> Option<u64> {
    let (mut left, mut without) = (total, 0);
    for service in model.services.values() {
        match own(service) {
            Some(limit) => left = left.checked_sub(limit.checked_mul(service.replicas)?)?,
            None => without += service.replicas,
        }
    }
    Some(left.checked_div(without).unwrap_or(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_compose_rules::parse_yaml as parse;
    use weft_compose_rules::policy::{Rights, check_model};

    fn unit(memory: u64) -> Unit {
        Unit {
            id: weft_types::UnitId {
                workload: weft_types::WorkloadId(1),
                number: 3,
            },
            namespace: Default::default(),
            name: "app".parse().unwrap(),
            revision: 2,
            work: weft_unit::UnitWork::Compose(Default::default()),
            resources: Resources {
                memory: weft_types::Bytes(memory),
                ..Resources::default()
            },
            secrets: Default::default(),
            may_be_privileged: false,
        }
    }

    fn model(text: &str) -> Model {
        check_model(&parse(text).unwrap(), Rights { privileged: false }).unwrap()
    }

    const APP: &str = "version: '3.8'
services:
  web: {image: a, volumes: ['data:/d'], mem_limit: 40m, scale: 2}
  worker: {build: {context: /srv/p}}
  other: {image: b}
volumes: {data: {labels: {mine: '1'}}}
networks: {back: {internal: true}}
";

    #[test]
    fn labels_names_and_limits_are_added_and_definitions_kept() {
        let bound = Bound::Parent("/weft/x".into());
        let text = override_file(&unit(128 << 20), "n1", 4, &model(APP), &bound).unwrap();
        let read = parse(&text).unwrap();
        let id = unit(0).id;
        assert_eq!(read["version"], "3.8");
        assert_eq!(read["services"]["web"]["cgroup_parent"], "/weft/x");
        assert_eq!(
            read["services"]["web"]["labels"]["weft.unit"],
            id.to_string()
        );
        assert!(read["services"]["web"]["mem_limit"].is_null());
        assert_eq!(read["services"]["other"]["mem_limit"], 128 << 20);
        assert_eq!(
            read["services"]["worker"]["image"],
            format!("weft-built/{id}-worker:r2")
        );
        assert_eq!(read["networks"]["back"]["internal"], true);
        assert_eq!(
            read["networks"]["default"]["name"],
            format!("weft-{id}_default")
        );
        let data = &read["volumes"]["data"];
        assert_eq!(data["name"], format!("weft-{}-4-data", id.workload));
        assert_eq!(data["labels"]["mine"], "1");
        assert!(data["labels"][labels::UNIT].is_null());
    }

    #[test]
    fn without_a_group_the_sum_of_the_shares_is_the_unit() {
        let text = override_file(&unit(128 << 20), "n1", 0, &model(APP), &Bound::Shared).unwrap();
        let read = parse(&text).unwrap();
        let share = read["services"]["other"]["mem_limit"].as_u64().unwrap();
        assert_eq!(2 * (40 << 20) + 2 * share, 128 << 20);
        assert!(read["services"]["other"]["cpus"].as_f64().unwrap() <= 0.125);
        let error = override_file(&unit(64 << 20), "n1", 0, &model(APP), &Bound::Shared);
        assert!(error.unwrap_err().contains("resources.memory"));
    }
}
