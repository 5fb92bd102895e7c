//! What a service mounts.

use serde_json::Value as Json;

use super::{Checked, Reference, Rights, Use, mapping, refuse};

/// Checks one entry of a service's `volumes`, in either form.
pub(super) fn check(
    at: &str,
    entry: &Json,
    rights: Rights,
    references: &mut Vec<Reference>,
) -> Checked {
    let Some(short) = entry.as_str() else {
        return check_long(at, entry, rights, references);
    };
    let mut parts = short.split(':');
    let source = parts.next().unwrap_or_default();
    if parts.next().is_none() || !is_path(source) {
        return Ok(());
    }
    let options: Vec<_> = parts.flat_map(|options| options.split(',')).collect();
    let shares = ["shared", "rshared", "slave", "rslave"];
    if options.iter().any(|option| shares.contains(option)) {
        rights.need(at, "shares mounts with the node")?;
    }
    bind(at, source, options.contains(&"ro"), rights, references)
}

fn check_long(at: &str, entry: &Json, rights: Rights, references: &mut Vec<Reference>) -> Checked {
    let entry = mapping(at, entry)?;
    let text = |key: &str| entry.get(key).and_then(Json::as_str).unwrap_or_default();
    match text("type") {
        "volume" if is_path(text("source")) => refuse(at, "a volume has a name, not a path"),
        "volume" | "tmpfs" => Ok(()),
        "bind" => {
            let options = mapping(at, entry.get("bind").unwrap_or(&Json::Null))?;
            let propagation = options.get("propagation").and_then(Json::as_str);
            if !matches!(propagation, None | Some("private" | "rprivate")) {
                rights.need(at, "shares mounts with the node")?;
            }
            let read_only = entry.get("read_only") == Some(&Json::Bool(true));
            bind(at, text("source"), read_only, rights, references)
        }
        other => refuse(
            at,
            format!("type {other:?} is not supported; use volume, bind or tmpfs"),
        ),
    }
}

fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

/// What is said of a directory that is not the application's own.
pub const OF_THE_NODE: &str = "mounts a directory of the node";

/// A directory beside the Compose file may be mounted for reading. Were one written to, a container
/// could put a link to anywhere into the next mount, or change the very file it is made from.
fn bind(
    at: &str,
    source: &str,
    read_only: bool,
    rights: Rights,
    references: &mut Vec<Reference>,
) -> Checked {
    if rights.privileged {
        return Ok(());
    }
    if !read_only {
        return rights.need(
            at,
            "mounts a directory for writing: append `:ro`, or use a named volume",
        );
    }
    references.push(Reference {
        field: at.to_owned(),
        path: source.to_owned(),
        purpose: Use::Mount,
    });
    Ok(())
}
