//! The config file: contexts, and settings for `up`, `server` and `agent`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_api::AdminFile;

use crate::exit::Failed;

/// What the config file may hold.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// The context in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Clusters by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, AdminFile>,
    /// Settings of `up` and `server`.
    pub server: ServerSettings,
}

/// Settings of `up` and `server`, where no flag says otherwise.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Where keys, jobs and results are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Address and port to listen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// How long a node may be silent before its tasks go elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ttl: Option<String>,
    /// How long the certificates of nodes live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_ttl: Option<String>,
    /// How long results are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl: Option<String>,
}

/// The path of the config file: the flag's, or the one of the XDG base directory specification.
pub fn path(flag: Option<&Path>) -> PathBuf {
    flag.map_or_else(
        || xdg("XDG_CONFIG_HOME", ".config").join("weft/config.toml"),
        Path::to_path_buf,
    )
}

/// Where a server keeps its data unless told otherwise.
pub fn default_data_dir() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share").join("weft")
}

/// Where an agent keeps its data unless told otherwise.
pub fn default_agent_dir() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share").join("weft-agent")
}

fn xdg(variable: &str, beneath_home: &str) -> PathBuf {
    match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(beneath_home)
        }
    }
}

/// Reads the config file; a file that is not there is an empty one, unless it was asked for.
pub fn load(flag: Option<&Path>) -> Result<ConfigFile, Failed> {
    let path = path(flag);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && flag.is_none() => {
            return Ok(ConfigFile::default());
        }
        Err(error) => {
            return Err(Failed::usage(format!(
                "config file {}: {error}",
                path.display()
            )));
        }
    };
    toml::from_str(&text).map_err(|error| {
        Failed::usage(format!(
            "config file {}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

/// Writes the config file, readable by its owner only: it may hold a token.
pub fn save(flag: Option<&Path>, config: &ConfigFile) -> Result<(), Failed> {
    let path = path(flag);
    let text =
        toml::to_string_pretty(config).map_err(|error| Failed::internal(error.to_string()))?;
    let failed = |error: &dyn std::fmt::Display| {
        Failed::internal(format!(
            "the config file {} cannot be written: {error}",
            path.display()
        ))
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    }
    weft_pki::write_secret_file(&path, text.as_bytes()).map_err(|error| failed(&error))
}
