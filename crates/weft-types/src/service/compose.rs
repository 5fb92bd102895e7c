//! Compose applications.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::EnvFrom;

/// A Compose application to run; all its services are on one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ComposeSpec {
    /// The Compose file itself. Instead of `git`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// Where the Compose file lies. Instead of `inline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
    /// Variables for the interpolation of the Compose file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The same from secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFrom>,
    /// Profiles that are active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Secret with `username` and `password` for the images' registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_secret: Option<String>,
}

/// A place in a Git repository.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GitSource {
    /// `https://…`, `ssh://…` or `http://…`.
    pub url: String,
    /// Branch, tag or commit; the repository's default when absent.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Path of the Compose file in the repository; `compose.yaml` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Secret with `username` and `password`, or `ssh_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Secret with `webhook_secret`, the key of the HMAC that a push must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
}

/// Where a Compose file comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ComposeSource<'a> {
    /// From the workload.
    Inline(&'a str),
    /// From a repository.
    Git(&'a GitSource),
}

impl ComposeSpec {
    /// Where the Compose file comes from; `None` unless exactly one source is given.
    pub fn source(&self) -> Option<ComposeSource<'_>> {
        match (&self.inline, &self.git) {
            (Some(text), None) => Some(ComposeSource::Inline(text)),
            (None, Some(git)) => Some(ComposeSource::Git(git)),
            _ => None,
        }
    }
}
