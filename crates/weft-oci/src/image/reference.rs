//! References of images: where they are and which they are.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Where images without a registry come from.
const DEFAULT_REGISTRY: &str = "registry-1.docker.io";

/// The digest of a blob.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Digest {
    /// 64 lower-case hexadecimal digits of SHA-256.
    hex: String,
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_ring(&ring::digest::digest(&ring::digest::SHA256, bytes))
    }

    pub(crate) fn from_ring(digest: &ring::digest::Digest) -> Self {
        Self {
            hex: hex::encode(digest.as_ref()),
        }
    }

    /// Its hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| format!("{text:?} is not a SHA-256 digest"))?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != 64 || !hex.bytes().all(is_hex) {
            return Err(format!("{text:?} is not a SHA-256 digest"));
        }
        Ok(Self {
            hex: hex.to_owned(),
        })
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A reference in full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// `host` or `host:port`.
    pub registry: String,
    /// Path of the repository in it.
    pub repository: String,
    /// A name that may point to another image tomorrow.
    pub tag: Option<String>,
    /// The digest of the manifest; beats the tag.
    pub digest: Option<Digest>,
}

impl Reference {
    /// What is asked for in the registry: the digest or the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// Whether the registry is on this machine, and so may be spoken to without TLS.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, tag) => write!(f, ":{}", tag.as_deref().unwrap_or("latest")),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Reference {
            reference: text.to_owned(),
            why: why.to_owned(),
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(|e: String| refuse(&e))?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        if let Some(tag) = &tag
            && !is_tag(tag)
        {
            return Err(refuse("the tag is not one"));
        }
        let (registry, repository) = split_registry(name);
        if !is_repository(&repository) {
            return Err(refuse("the name of the repository is not one"));
        }
        if !is_registry(&registry) {
            return Err(refuse("the registry is not a host with an optional port"));
        }
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

/// The first part is a registry when it looks like a host; otherwise the image is Docker Hub's.
fn split_registry(name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            let registry = match first {
                "docker.io" | "index.docker.io" => DEFAULT_REGISTRY,
                other => other,
            };
            if registry == DEFAULT_REGISTRY && !rest.contains('/') {
                return (registry.to_owned(), format!("library/{rest}"));
            }
            (registry.to_owned(), rest.to_owned())
        }
        Some(_) => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
        None => (DEFAULT_REGISTRY.to_owned(), format!("library/{name}")),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_repository(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=255).contains(&name.len())
        && name.split('/').all(|part| {
            part.bytes().next().is_some_and(plain)
                && part.bytes().last().is_some_and(plain)
                && part
                    .bytes()
                    .all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        })
}

fn is_registry(registry: &str) -> bool {
    (1..=255).contains(&registry.len())
        && registry
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_docker_hubs() {
        let reference: Reference = "busybox".parse().unwrap();
        assert_eq!(
            reference.to_string(),
            "registry-1.docker.io/library/busybox:latest"
        );
        let reference: Reference = "docker.io/redis:7".parse().unwrap();
        assert_eq!(
            reference.to_string(),
            "registry-1.docker.io/library/redis:7"
        );
    }

    #[test]
    fn a_port_is_not_a_tag_and_a_digest_beats_the_tag() {
        let reference: Reference = "localhost:5000/a/b".parse().unwrap();
        assert_eq!(reference.to_string(), "localhost:5000/a/b:latest");
        assert!(reference.is_loopback());
        let digest = "a".repeat(64);
        let reference: Reference = format!("[::1]:5000/x:1@sha256:{digest}").parse().unwrap();
        assert_eq!(reference.version(), format!("sha256:{digest}"));
        assert!(reference.is_loopback());
        assert!(
            !"127.evil.example:1/x"
                .parse::<Reference>()
                .unwrap()
                .is_loopback()
        );
    }

    #[test]
    fn what_could_become_another_path_is_refused() {
        for bad in [
            "",
            "a/../b",
            "localhost:5000/a//b",
            "x:",
            "x@sha256:abc",
            "A",
            "h:1/x?y",
            "-x",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
