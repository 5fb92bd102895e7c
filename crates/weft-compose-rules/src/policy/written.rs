//! What can be said of an inline file as it is written, before anybody fills in its variables.

use serde_json::{Map, Value as Json};

use super::{Checked, Rights, Use, check_model, check_raw, mapping, refuse};

/// Checks an inline file: what needs a right or is never allowed is refused as far as it does not
/// depend on a variable. The rest is for the node to say.
pub fn check_written(doc: &Json, rights: Rights) -> Checked {
    let read = check_raw(doc, rights)?;
    if let Some(reference) = read.first() {
        return refuse(&reference.field, NO_FILES);
    }
    let model = check_model(&without_variables(doc)?, rights)?;
    for reference in &model.references {
        match reference.purpose {
            // What Weft makes of a context depends on where the file lies on the node.
            Use::Context => {}
            Use::Mount if reference.path.starts_with('/') => {
                rights.need(&reference.field, super::mounts::OF_THE_NODE)?;
            }
            Use::Mount | Use::File | Use::Extends => return refuse(&reference.field, NO_FILES),
        }
    }
    Ok(())
}

const NO_FILES: &str =
    "there are no files beside an inline file; keep both in a Git repository and give `git`";

/// The file without everything that a variable has a part in, and without what is built.
fn without_variables(doc: &Json) -> Checked<Json> {
    let mut top = mapping("", doc)?.clone();
    if let Some(Json::Object(services)) = top.get_mut("services") {
        for service in services.values_mut().filter_map(Json::as_object_mut) {
            service.remove("build");
        }
    }
    prune(&mut top);
    Ok(Json::Object(top))
}

fn prune(map: &mut Map<String, Json>) {
    map.retain(|_, value| !is_variable(value));
    for value in map.values_mut() {
        match value {
            Json::Object(inner) => prune(inner),
            // Half an item could mean anything.
            Json::Array(items) => items.retain(|item| !depends(item)),
            _ => {}
        }
    }
}

fn is_variable(value: &Json) -> bool {
    value.as_str().is_some_and(|text| text.contains('$'))
}

fn depends(value: &Json) -> bool {
    match value {
        Json::Array(items) => items.iter().any(depends),
        Json::Object(map) => map.values().any(depends),
        other => is_variable(other),
    }
}
