//! What manifests and configurations say, with bounds on all of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reference::Digest;
use crate::Error;

/// The largest manifest or index, in bytes; as registries have it.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// The largest configuration, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// The most layers; the names of more would not fit into the options of one mount.
pub const MAX_LAYERS: usize = 127;
/// The most entries of an index.
const MAX_INDEX_ENTRIES: usize = 1024;

pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How the archive of a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By Zstandard.
    Zstd,
}

/// A blob that a manifest names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
}

/// A layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// The archive.
    pub blob: Blob,
    /// Its compression.
    pub compression: Compression,
}

/// The manifest of one image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Its configuration.
    pub config: Blob,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// What a registry answers: an image, or where those for several platforms are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// The manifest for this machine.
    Index(Blob),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<RawBlob>,
    layers: Option<Vec<RawBlob>>,
    manifests: Option<Vec<RawBlob>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBlob {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
}

impl RawBlob {
    fn blob(self) -> Blob {
        Blob {
            digest: self.digest,
            size: self.size,
        }
    }
}

#[derive(Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
}

/// The machine's architecture, as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Reads a manifest or an index.
///
/// # Errors
/// When it is neither, larger than allowed, or names nothing for this machine.
pub fn parse_document(bytes: &[u8]) -> Result<Document, Error> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(corrupt("the manifest is larger than 4 MiB"));
    }
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|e| corrupt(format!("the manifest: {e}")))?;
    if raw.schema_version != 2 {
        return Err(corrupt(format!(
            "the manifest has version {}; push the image again with a tool that writes version 2",
            raw.schema_version
        )));
    }
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), Some(layers), None) => {
            parse_manifest(config, layers).map(Document::Manifest)
        }
        (None, None, Some(entries)) => choose(entries).map(Document::Index),
        _ => Err(corrupt(format!(
            "the manifest ({}) is neither one image nor an index of images",
            raw.media_type.unwrap_or_default()
        ))),
    }
}

fn parse_manifest(config: RawBlob, layers: Vec<RawBlob>) -> Result<Manifest, Error> {
    if layers.len() > MAX_LAYERS {
        return Err(corrupt(format!(
            "the image has {} layers; at most {MAX_LAYERS} can be mounted",
            layers.len()
        )));
    }
    if config.size > MAX_CONFIG_BYTES {
        return Err(corrupt("the configuration is larger than 8 MiB"));
    }
    let layers = layers
        .into_iter()
        .map(|raw| {
            let compression = compression(&raw.media_type)?;
            Ok(Layer {
                blob: raw.blob(),
                compression,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Manifest {
        config: config.blob(),
        layers,
    })
}

fn compression(media_type: &str) -> Result<Compression, Error> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        other => Err(corrupt(format!(
            "a layer is of kind {other:?}, which is not an archive that can be unpacked"
        ))),
    }
}

fn choose(entries: Vec<RawBlob>) -> Result<Blob, Error> {
    if entries.len() > MAX_INDEX_ENTRIES {
        return Err(corrupt("the index has more than 1024 entries"));
    }
    let offered: Vec<String> = entries
        .iter()
        .filter_map(|e| e.platform.as_ref())
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect();
    entries
        .into_iter()
        .find(|entry| {
            entry
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "linux" && p.architecture == architecture())
        })
        .map(RawBlob::blob)
        .ok_or_else(|| {
            Error::ImageNotFound(format!(
                "the image is not made for linux/{}, only for {}",
                architecture(),
                offered.join(", ")
            ))
        })
}

/// What of an image's configuration matters for running it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// For which architecture.
    #[serde(default)]
    pub architecture: String,
    /// How its program is run.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// Digests of the layers before compression, the lowest first.
    pub rootfs: RootFs,
}

/// Digests of layers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Before compression, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// How an image's program is run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user`, `uid` or `uid:gid`.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The program.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program when there is no entry point.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Where it is started.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// What asks it to end.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// What it is called.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a configuration and compares it with its manifest.
///
/// # Errors
/// When it cannot be read, or is for other layers or another machine.
pub fn parse_config(bytes: &[u8], layers: usize) -> Result<ImageConfig, Error> {
    let config: ImageConfig =
        serde_json::from_slice(bytes).map_err(|e| corrupt(format!("the configuration: {e}")))?;
    if config.rootfs.diff_ids.len() != layers {
        return Err(corrupt(format!(
            "the configuration names {} layers and the manifest {layers}",
            config.rootfs.diff_ids.len()
        )));
    }
    if !config.architecture.is_empty() && config.architecture != architecture() {
        return Err(Error::ImageNotFound(format!(
            "the image is made for {}, this machine is {}",
            config.architecture,
            architecture()
        )));
    }
    Ok(config)
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::Corrupt(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: &str) -> String {
        format!(
            r#"{{"mediaType":"{kind}","digest":"sha256:{}","size":7}}"#,
            "b".repeat(64)
        )
    }

    #[test]
    fn a_manifest_of_either_dialect_is_read() {
        for kind in [
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            let text = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                blob("application/json"),
                blob(kind)
            );
            let Document::Manifest(manifest) = parse_document(text.as_bytes()).unwrap() else {
                panic!("an index")
            };
            assert_eq!(manifest.layers[0].compression, Compression::Gzip);
        }
    }

    #[test]
    fn too_many_layers_and_foreign_ones_are_refused() {
        let many = vec![blob("application/vnd.oci.image.layer.v1.tar"); MAX_LAYERS + 1].join(",");
        let foreign = blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        for layers in [many, foreign] {
            let text = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#,
                blob("application/json")
            );
            assert!(matches!(
                parse_document(text.as_bytes()),
                Err(Error::Corrupt(_))
            ));
        }
    }

    #[test]
    fn an_index_gives_the_manifest_of_this_machine_or_says_what_there_is() {
        let entry = |arch: &str, fill: &str| {
            format!(
                r#"{{"mediaType":"x","digest":"sha256:{}","size":7,"platform":{{"os":"linux","architecture":"{arch}"}}}}"#,
                fill.repeat(64)
            )
        };
        let index = |entries: String| format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
        let both = index(format!(
            "{},{}",
            entry("s390x", "1"),
            entry(architecture(), "2")
        ));
        let Document::Index(chosen) = parse_document(both.as_bytes()).unwrap() else {
            panic!("a manifest")
        };
        assert_eq!(chosen.digest.hex(), "2".repeat(64));
        let error = parse_document(index(entry("s390x", "1")).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }

    #[test]
    fn null_fields_of_a_configuration_are_empty() {
        let text = r#"{"config":{"Cmd":null,"Env":["A=b"]},"rootfs":{"diff_ids":[]}}"#;
        let config = parse_config(text.as_bytes(), 0).unwrap();
        assert_eq!(config.config.env, ["A=b"]);
        assert!(parse_config(text.as_bytes(), 1).is_err());
    }
}
