//! How clients find a cluster, and whether it lives.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `<data-dir>/admin.json`: how the first administrator reaches the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdminFile {
    /// `https://ADDRESS:PORT`.
    pub server: String,
    /// Path of the cluster's CA certificate (PEM).
    pub ca: String,
    /// Path of the client certificate (PEM).
    pub cert: String,
    /// Path of its key (PEM).
    pub key: String,
    /// A bearer token that opens the API as well.
    pub token: String,
}

/// Whether the server lives and is ready.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or what is not.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
}

/// Versions of the client, the server and its nodes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// The client's.
    pub client: String,
    /// The server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// How many nodes have which version.
    #[serde(default)]
    pub nodes: std::collections::BTreeMap<String, u32>,
}
