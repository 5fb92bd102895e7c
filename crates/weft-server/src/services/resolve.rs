//! Which secrets a specification names, and their values for one unit.

use std::collections::BTreeMap;

use weft_proto::v1;
use weft_types::{EnvFrom, FieldError, Namespace, Workload};

use super::cache::Tables;
use super::secrets::Sealer;

/// A secret that a specification names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<'a> {
    /// The field that names it.
    pub path: String,
    /// Its name.
    pub name: &'a str,
    /// The keys it must have, or in place of all of them the last; any will do when empty.
    pub keys: &'static [&'static str],
}

const LOGIN: &[&str] = &["username", "password"];

/// The secrets that a specification names.
pub fn named(spec: &Workload) -> Vec<Named<'_>> {
    let mut named = Vec::new();
    for (field, from) in env_from(spec) {
        for (index, from) in from.iter().enumerate() {
            named.push(Named {
                path: format!("{field}.env_from[{index}].secret"),
                name: &from.secret,
                keys: &[],
            });
        }
    }
    let git = spec.compose.as_ref().and_then(|c| c.git.as_ref());
    let login = spec.vm.as_ref().and_then(|vm| vm.login.as_ref());
    let single = [
        (
            "container.registry_secret",
            spec.container
                .as_ref()
                .and_then(|c| c.registry_secret.as_deref()),
            LOGIN,
        ),
        (
            "compose.registry_secret",
            spec.compose
                .as_ref()
                .and_then(|c| c.registry_secret.as_deref()),
            LOGIN,
        ),
        (
            "compose.git.credentials",
            git.and_then(|git| git.credentials.as_deref()),
            &["username", "password", "ssh_key"],
        ),
        (
            "compose.git.webhook",
            git.and_then(|git| git.webhook.as_deref()),
            &[WEBHOOK_KEY],
        ),
        (
            "vm.login.password_secret",
            login.and_then(|login| login.password_secret.as_deref()),
            &["password"],
        ),
    ];
    named.extend(single.into_iter().filter_map(|(path, name, keys)| {
        name.map(|name| Named {
            path: path.to_owned(),
            name,
            keys,
        })
    }));
    named
}

/// The key of a webhook's secret that signs pushes.
pub const WEBHOOK_KEY: &str = "webhook_secret";

fn env_from(spec: &Workload) -> impl Iterator<Item = (&'static str, &[EnvFrom])> {
    let container = spec.container.iter();
    let compose = spec.compose.iter();
    container
        .map(|c| ("container", c.env_from.as_slice()))
        .chain(compose.map(|c| ("compose", c.env_from.as_slice())))
}

/// Whether every secret is there, with the keys it must have.
///
/// # Errors
/// The field that names one that is not.
pub fn check(tables: &Tables, spec: &Workload) -> Result<(), FieldError> {
    for named in named(spec) {
        let Some(secret) = tables.secret(&spec.namespace, named.name) else {
            return Err(FieldError::new(
                named.path,
                format!(
                    "there is no secret {:?} in the namespace {}; make it with `weft secret set {}`",
                    named.name, spec.namespace, named.name
                ),
            ));
        };
        let has = |key: &&str| secret.value.keys.iter().any(|known| known == key);
        let required = named.keys;
        let complete = match required {
            [both @ .., "ssh_key"] => has(&"ssh_key") || both.iter().all(has),
            keys => keys.iter().all(has),
        };
        if !complete {
            return Err(FieldError::new(
                named.path,
                format!(
                    "the secret {:?} has the keys {}, not {}",
                    named.name,
                    secret.value.keys.join(", "),
                    required.join(", ")
                ),
            ));
        }
    }
    Ok(())
}

/// The values that one unit gets.
///
/// # Errors
/// What is missing, in a sentence that names no value.
pub fn resolve(
    tables: &Tables,
    sealer: &Sealer,
    spec: &Workload,
) -> Result<v1::UnitSecrets, String> {
    let open = |name: &str| values(tables, sealer, &spec.namespace, name);
    let mut secrets = v1::UnitSecrets::default();
    for (_, from) in env_from(spec) {
        for from in from {
            for (key, value) in open(&from.secret)? {
                secrets.env.insert(format!("{}{key}", from.prefix), value);
            }
        }
    }
    let registry = spec
        .container
        .as_ref()
        .and_then(|c| c.registry_secret.as_deref());
    let compose = spec.compose.as_deref();
    let registry = registry.or(compose.and_then(|c| c.registry_secret.as_deref()));
    if let Some(name) = registry {
        let mut values = open(name)?;
        secrets.registry_username = take(&mut values, "username");
        secrets.registry_password = take(&mut values, "password");
    }
    let git = compose.and_then(|c| c.git.as_ref());
    if let Some(name) = git.and_then(|git| git.credentials.as_deref()) {
        let mut values = open(name)?;
        secrets.git_username = take(&mut values, "username");
        secrets.git_password = take(&mut values, "password");
        secrets.git_ssh_key = take(&mut values, "ssh_key");
    }
    let login = spec.vm.as_ref().and_then(|vm| vm.login.as_ref());
    if let Some(name) = login.and_then(|login| login.password_secret.as_deref()) {
        secrets.login_password = take(&mut open(name)?, "password");
    }
    Ok(secrets)
}

/// The values of a secret.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn values(
    tables: &Tables,
    sealer: &Sealer,
    namespace: &Namespace,
    name: &str,
) -> Result<BTreeMap<String, String>, String> {
    let secret = tables.secret(namespace, name).ok_or_else(|| {
        format!("there is no secret {name:?} in the namespace {namespace}; make it with `weft secret set {name}`")
    })?;
    sealer
        .open(&secret.value)
        .map_err(|error| error.to_string())
}

fn take(values: &mut BTreeMap<String, String>, key: &str) -> String {
    values.remove(key).unwrap_or_default()
}
