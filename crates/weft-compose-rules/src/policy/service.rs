//! One service.

use serde_json::{Map, Value as Json};

use super::{Checked, Reference, Rights, Use, is_nothing, items, keys, mapping, mounts, refuse};

/// What is built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Build {
    /// The directory it is built from, absolute.
    pub context: String,
}

/// What a service is made of, and what it asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Its image, unless it is only built.
    pub image: Option<String>,
    /// How its image is built.
    pub build: Option<Build>,
    /// How many containers it has.
    pub replicas: u64,
    /// Its own limit on memory, in bytes.
    pub memory: Option<u64>,
    /// Its own limit on CPU, in millicores.
    pub cpu: Option<u64>,
    /// With which it is active; always, when there are none.
    pub profiles: Vec<String>,
    /// Services that are there before it.
    pub depends_on: Vec<String>,
    /// Whether it has its own limit on processes.
    pub limits_pids: bool,
}

const BUILD_KEYS: &[&str] = &[
    "args",
    "cache_from",
    "context",
    "dockerfile",
    "dockerfile_inline",
    "labels",
    "no_cache",
    "platforms",
    "pull",
    "shm_size",
    "tags",
    "target",
];
const RUNTIMES: &[&str] = &["runc", "crun", "runsc", "kata"];
const LOG_DRIVERS: &[&str] = &["json-file", "local"];

/// The files that Compose would read for a service, as they are written.
pub(super) fn files_read(at: &str, service: &Map<String, Json>) -> Checked<Vec<Reference>> {
    let mut files = Vec::new();
    let mut add = |field: String, path: Option<&Json>, purpose| {
        let Some(path) = path.and_then(Json::as_str) else {
            return refuse(field, "not a path");
        };
        if path.contains('$') {
            return refuse(field, "a file that is read may not depend on a variable");
        }
        files.push(Reference {
            field,
            path: path.to_owned(),
            purpose,
        });
        Ok(())
    };
    for entry in items(service.get("env_file")) {
        let path = entry.as_object().map_or(Some(entry), |map| map.get("path"));
        add(format!("{at}.env_file"), path, Use::File)?;
    }
    if let Some(Json::Object(extends)) = service.get("extends")
        && extends.contains_key("file")
    {
        add(
            format!("{at}.extends.file"),
            extends.get("file"),
            Use::Extends,
        )?;
    }
    Ok(files)
}

pub(super) fn check(
    at: &str,
    service: &Map<String, Json>,
    rights: Rights,
    references: &mut Vec<Reference>,
) -> Checked<Service> {
    keys::check_service(at, service, rights)?;
    check_namespaces(at, service, rights)?;
    check_options(at, service, rights)?;
    for (index, entry) in items(service.get("volumes")).iter().enumerate() {
        mounts::check(&format!("{at}.volumes[{index}]"), entry, rights, references)?;
    }
    for entry in items(service.get("volumes_from")) {
        if entry
            .as_str()
            .is_none_or(|from| from.starts_with("container:"))
        {
            rights.need(format!("{at}.volumes_from"), "mounts volumes of others")?;
        }
    }
    let deploy = mapping(at, service.get("deploy").unwrap_or(&Json::Null))?;
    let resources = deploy.get("resources").unwrap_or(&Json::Null);
    if !is_nothing(&resources["reservations"]["devices"]) {
        rights.need(
            format!("{at}.deploy.resources"),
            "opens devices of the node",
        )?;
    }
    let limits = &resources["limits"];
    Ok(Service {
        image: check_image(at, service)?,
        build: check_build(at, service, references)?,
        replicas: replicas(at, service, deploy)?,
        profiles: texts(service.get("profiles")),
        depends_on: depends_on(service),
        memory: limit(at, "mem_limit", service, &limits["memory"], bytes)?,
        cpu: limit(at, "cpus", service, &limits["cpus"], millicores)?,
        limits_pids: service.contains_key("pids_limit") || !limits["pids"].is_null(),
    })
}

fn texts(value: Option<&Json>) -> Vec<String> {
    let texts = items(value).iter().filter_map(Json::as_str);
    texts.map(str::to_owned).collect()
}

fn depends_on(service: &Map<String, Json>) -> Vec<String> {
    match service.get("depends_on") {
        Some(Json::Object(map)) => map.keys().cloned().collect(),
        list => texts(list),
    }
}

/// What a service shares with others.
fn check_namespaces(at: &str, service: &Map<String, Json>, rights: Rights) -> Checked {
    let own: [(&str, &[&str], &str); 3] = [
        (
            "network_mode",
            &["bridge", "none"],
            "uses a network of the node or of others",
        ),
        (
            "pid",
            &["private"],
            "sees processes of the node or of others",
        ),
        (
            "ipc",
            &["private", "shareable", "none"],
            "shares memory with the node or with others",
        ),
    ];
    for (key, allowed, why) in own {
        let Some(value) = service.get(key).filter(|value| !is_nothing(value)) else {
            continue;
        };
        let inside = value
            .as_str()
            .is_some_and(|mode| allowed.contains(&mode) || mode.starts_with("service:"));
        if !inside {
            rights.need(format!("{at}.{key}"), why)?;
        }
    }
    Ok(())
}

fn check_options(at: &str, service: &Map<String, Json>, rights: Rights) -> Checked {
    for option in items(service.get("security_opt")) {
        let harmless = [
            "no-new-privileges",
            "no-new-privileges:true",
            "no-new-privileges=true",
        ];
        if option.as_str().is_none_or(|text| !harmless.contains(&text)) {
            rights.need(
                format!("{at}.security_opt"),
                "weakens the container's sandbox",
            )?;
        }
    }
    if let Some(runtime) = service.get("runtime").and_then(Json::as_str)
        && !RUNTIMES.contains(&runtime)
    {
        return refuse(
            format!("{at}.runtime"),
            format!("{runtime:?} is not known; use {}", RUNTIMES.join(", ")),
        );
    }
    let logging = mapping(at, service.get("logging").unwrap_or(&Json::Null))?;
    if let Some(driver) = logging.get("driver").and_then(Json::as_str)
        && !LOG_DRIVERS.contains(&driver)
    {
        rights.need(
            format!("{at}.logging.driver"),
            "sends what is printed elsewhere: use json-file or local",
        )?;
    }
    Ok(())
}

fn check_image(at: &str, service: &Map<String, Json>) -> Checked<Option<String>> {
    let Some(image) = service.get("image").filter(|image| !image.is_null()) else {
        return Ok(None);
    };
    let plain = |text: &&str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match image.as_str().filter(plain) {
        Some(text) => Ok(Some(text.to_owned())),
        None => refuse(format!("{at}.image"), "not the reference of an image"),
    }
}

fn check_build(
    at: &str,
    service: &Map<String, Json>,
    references: &mut Vec<Reference>,
) -> Checked<Option<Build>> {
    let at = format!("{at}.build");
    let (context, dockerfile) = match service.get("build") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(context)) => (context.clone(), None),
        Some(Json::Object(build)) => {
            if let Some(key) = build.keys().find(|key| !BUILD_KEYS.contains(&key.as_str())) {
                return refuse(format!("{at}.{key}"), "is not supported; leave it out");
            }
            let text = |key: &str| build.get(key).and_then(Json::as_str).map(str::to_owned);
            (text("context").unwrap_or_default(), text("dockerfile"))
        }
        Some(_) => return refuse(at, "not a mapping"),
    };
    if !context.starts_with('/') {
        return refuse(
            format!("{at}.context"),
            "not a directory beneath the Compose file's repository",
        );
    }
    let dockerfile = dockerfile.unwrap_or_else(|| "Dockerfile".to_owned());
    if dockerfile.starts_with('/') || dockerfile.split('/').any(|part| part == "..") {
        return refuse(format!("{at}.dockerfile"), "not a path beneath the context");
    }
    references.push(Reference {
        field: format!("{at}.context"),
        path: context.clone(),
        purpose: Use::Context,
    });
    Ok(Some(Build { context }))
}

fn replicas(at: &str, service: &Map<String, Json>, deploy: &Map<String, Json>) -> Checked<u64> {
    for (key, value) in [
        ("scale", service.get("scale")),
        ("deploy.replicas", deploy.get("replicas")),
    ] {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            let written = value.as_str().and_then(|text| text.trim().parse().ok());
            return match value.as_u64().or(written) {
                Some(count @ 0..=64) => Ok(count),
                _ => refuse(format!("{at}.{key}"), "not between 0 and 64"),
            };
        }
    }
    Ok(1)
}

/// A service's own limit, by its key or that of `deploy.resources.limits`.
fn limit(
    at: &str,
    key: &str,
    service: &Map<String, Json>,
    deployed: &Json,
    read: fn(&Json) -> Option<u64>,
) -> Checked<Option<u64>> {
    let value = service
        .get(key)
        .filter(|value| !value.is_null())
        .unwrap_or(deployed);
    match (value, read(value)) {
        (Json::Null, _) | (_, Some(0)) => Ok(None),
        (_, Some(amount)) => Ok(Some(amount)),
        (_, None) => refuse(format!("{at}.{key}"), "not an amount"),
    }
}

/// An amount as Compose writes it: `64m`, `64MiB`, `1.5g`, bytes.
fn bytes(value: &Json) -> Option<u64> {
    if let Some(bytes) = value.as_u64() {
        return Some(bytes);
    }
    let text = value.as_str()?.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..]
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let amount: f64 = digits.trim().parse().ok().filter(|amount| *amount >= 0.0)?;
    Some((amount * (1u64 << shift) as f64) as u64)
}

/// CPUs as Compose writes them: `0.5`, `"2"`.
fn millicores(value: &Json) -> Option<u64> {
    let cpus = match value {
        Json::Number(number) => number.as_f64()?,
        Json::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (cpus >= 0.0).then_some((cpus * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_read_as_compose_writes_them() {
        for (text, expected) in [
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("12", 12),
        ] {
            assert_eq!(bytes(&json!(text)), Some(expected), "{text}");
        }
        assert_eq!(bytes(&json!(4096)), Some(4096));
        assert_eq!(bytes(&json!("much")), None);
        assert_eq!(millicores(&json!("0.5")), Some(500));
        assert_eq!(millicores(&json!(2)), Some(2000));
        assert_eq!(millicores(&json!("-1")), None);
    }
}
