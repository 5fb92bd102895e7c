//! Volumes, networks, secrets and configs.

use serde_json::{Map, Value as Json};

use super::{Checked, Reference, Rights, Use, check_name, is_nothing, mapping, refuse};

type Section = Map<String, Json>;

fn section<'a>(name: &str, top: &'a Section) -> Checked<&'a Section> {
    mapping(name, top.get(name).unwrap_or(&Json::Null))
}

/// Names in the engine are made by Weft; Compose fills them in, so that only the raw file tells
/// whether somebody wrote one.
pub(super) fn check_names_left_out(top: &Section) -> Checked {
    for name in ["volumes", "networks"] {
        for (entry, definition) in section(name, top)? {
            let at = format!("{name}.{entry}");
            let definition = mapping(&at, definition)?;
            let external = definition
                .get("external")
                .is_some_and(|value| !is_nothing(value));
            if definition.contains_key("name") && !external {
                return refuse(
                    format!("{at}.name"),
                    "would be shared by every replica and with others; leave it out",
                );
            }
        }
    }
    Ok(())
}

/// Whether it is made by somebody else.
fn is_external(at: &str, definition: &Section, rights: Rights) -> Checked<bool> {
    if definition.get("external").is_none_or(is_nothing) {
        return Ok(false);
    }
    rights.need(format!("{at}.external"), "is not the application's own")?;
    Ok(true)
}

fn check_driver(at: &str, definition: &Section, usual: &str, rights: Rights) -> Checked {
    let driver = definition
        .get("driver")
        .and_then(Json::as_str)
        .unwrap_or_default();
    if !driver.is_empty() && driver != usual {
        rights.need(
            format!("{at}.driver"),
            &format!("{driver:?} is not {usual}"),
        )?;
    }
    if definition
        .get("driver_opts")
        .is_some_and(|value| !is_nothing(value))
    {
        rights.need(
            format!("{at}.driver_opts"),
            "reaches directories or interfaces of the node",
        )?;
    }
    Ok(())
}

/// Named volumes that are the application's own.
pub(super) fn check_volumes(top: &Section, rights: Rights) -> Checked<Section> {
    check_own("volumes", "local", top, rights)
}

/// Networks that are the application's own.
pub(super) fn check_networks(top: &Section, rights: Rights) -> Checked<Section> {
    check_own("networks", "bridge", top, rights)
}

fn check_own(name: &str, usual: &str, top: &Section, rights: Rights) -> Checked<Section> {
    let mut own = Map::new();
    for (entry, definition) in section(name, top)? {
        let at = format!("{name}.{entry}");
        check_name(&at, entry)?;
        let definition = mapping(&at, definition)?;
        if is_external(&at, definition, rights)? {
            continue;
        }
        check_driver(&at, definition, usual, rights)?;
        let ipam = definition.get("ipam").unwrap_or(&Json::Null)["driver"].as_str();
        if !matches!(ipam, None | Some("" | "default")) {
            rights.need(format!("{at}.ipam.driver"), "is not the engine's own")?;
        }
        own.insert(entry.clone(), Json::Object(definition.clone()));
    }
    Ok(own)
}

/// Secrets and configs that come from files.
pub(super) fn check_files(
    name: &str,
    top: &Section,
    rights: Rights,
    references: &mut Vec<Reference>,
) -> Checked {
    for (entry, definition) in section(name, top)? {
        let at = format!("{name}.{entry}");
        let definition = mapping(&at, definition)?;
        if is_external(&at, definition, rights)? || rights.privileged {
            continue;
        }
        if let Some(path) = definition.get("file").and_then(Json::as_str) {
            references.push(Reference {
                field: format!("{at}.file"),
                path: path.to_owned(),
                purpose: Use::File,
            });
        }
    }
    Ok(())
}
