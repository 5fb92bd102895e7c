//! Names of the parties: SPIFFE IDs and what they mean in Weft.
//!
//! Source of the syntax: the SPIFFE-ID standard, sections 2.1 to 2.3
//! (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weft_types::NodeId;

use crate::{Error, Result};

/// Longest trust domain, in bytes (SPIFFE-ID 2.3).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Longest SPIFFE ID, in bytes (SPIFFE-ID 2.3).
const MAX_SPIFFE_ID_BYTES: usize = 2048;
/// Longest user name, in bytes.
const MAX_USER_NAME_BYTES: usize = 63;
const SCHEME: &str = "spiffe://";

/// The name of a cluster, which is its SPIFFE trust domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterName(Box<str>);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN_BYTES || !name.bytes().all(allowed) {
            return Err(Error::ClusterName {
                name: shorten(name),
            });
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ClusterName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClusterName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A SPIFFE ID, strictly checked: `spiffe://<trust domain>[/<segment>]…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpiffeId {
    cluster: ClusterName,
    path: Box<str>,
}

impl SpiffeId {
    /// The ID of the cluster itself, which its CA certificate carries: a trust domain without path.
    pub(crate) fn of_cluster(cluster: &ClusterName) -> Self {
        Self {
            cluster: cluster.clone(),
            path: "".into(),
        }
    }

    /// The trust domain.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The path: empty, or `/` before each segment.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for SpiffeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why| Error::SpiffeId {
            text: shorten(text),
            why,
        };
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(refuse("it is longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| refuse("it does not begin with spiffe://"))?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let cluster = domain
            .parse()
            .map_err(|_| refuse("its trust domain is not well-formed"))?;
        for segment in path.split('/').skip(1) {
            check_segment(segment).map_err(refuse)?;
        }
        Ok(Self {
            cluster,
            path: path.into(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.cluster, self.path)
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err("a path segment is empty"),
        "." | ".." => Err("a path segment is relative"),
        _ if !segment.bytes().all(allowed) => {
            Err("a path segment has a character other than letters, digits, `.`, `-`, `_`")
        }
        _ => Ok(()),
    }
}

/// Error texts must not carry kilobytes of somebody else's bytes.
fn shorten(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 80;
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

/// Who a certificate says its holder is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Identity {
    /// `spiffe://<cluster>/node/<id>`: may open agent sessions as this node.
    Node(NodeId),
    /// `spiffe://<cluster>/server/<id>`: a control-plane server.
    Server(NodeId),
    /// `spiffe://<cluster>/user/<name>`: a person or program that uses the API.
    User(String),
}

impl Identity {
    /// Its SPIFFE ID within a cluster.
    ///
    /// # Errors
    /// [`Error::UserName`] for a user whose name does not fit into a SPIFFE ID.
    pub fn spiffe_id(&self, cluster: &ClusterName) -> Result<SpiffeId> {
        if let Self::User(name) = self
            && (name.len() > MAX_USER_NAME_BYTES || check_segment(name).is_err())
        {
            return Err(Error::UserName {
                name: shorten(name),
            });
        }
        Ok(SpiffeId {
            cluster: cluster.clone(),
            path: format!("/{self}").into(),
        })
    }

    /// The last segment: the node's or server's id, the user's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Node(id) | Self::Server(id) => id.as_str(),
            Self::User(name) => name,
        }
    }

    /// What a SPIFFE ID means in `cluster`.
    ///
    /// # Errors
    /// [`Error::OtherCluster`], or [`Error::UnknownIdentity`] for any other path.
    pub fn from_spiffe_id(id: &SpiffeId, cluster: &ClusterName) -> Result<Self> {
        if id.cluster != *cluster {
            return Err(Error::OtherCluster {
                expected: cluster.clone(),
                found: id.cluster.clone(),
            });
        }
        let unknown = || Error::UnknownIdentity { id: id.to_string() };
        let (kind, name) = id
            .path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .ok_or_else(unknown)?;
        match kind {
            "node" => Ok(Self::Node(name.parse().map_err(|_| unknown())?)),
            "server" => Ok(Self::Server(name.parse().map_err(|_| unknown())?)),
            "user" if name.len() <= MAX_USER_NAME_BYTES && !name.contains('/') => {
                Ok(Self::User(name.to_owned()))
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Server(id) => write!(f, "server/{id}"),
            Self::User(name) => write!(f, "user/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cluster() -> ClusterName {
        "home.lan".parse().unwrap()
    }

    #[test]
    fn every_identity_survives_its_spiffe_id() {
        for identity in [
            Identity::Node("n-1".parse().unwrap()),
            Identity::Server("s1".parse().unwrap()),
            Identity::User("Admin".to_owned()),
        ] {
            let text = identity.spiffe_id(&cluster()).unwrap().to_string();
            let parsed: SpiffeId = text.parse().unwrap();
            assert_eq!(
                Identity::from_spiffe_id(&parsed, &cluster()).unwrap(),
                identity,
                "{text}"
            );
        }
    }

    #[test]
    fn ids_outside_the_standard_are_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe:///node/a",
            "SPIFFE://home/node/a",
            "https://home/node/a",
            "spiffe://Home/node/a",
            "spiffe://home:8443/node/a",
            "spiffe://user@home/node/a",
            "spiffe://home/",
            "spiffe://home/node/",
            "spiffe://home/node//a",
            "spiffe://home/node/../a",
            "spiffe://home/./a",
            "spiffe://home/node/a?x=1",
            "spiffe://home/node/a#x",
            "spiffe://home/node/%61",
            "spiffe://home/node/ä",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_longer_path_another_kind_or_another_cluster_is_nobody() {
        for bad in [
            "spiffe://home.lan",
            "spiffe://home.lan/node",
            "spiffe://home.lan/node/a/b",
            "spiffe://home.lan/user/a/b",
            "spiffe://home.lan/robot/a",
            "spiffe://home.lan/node/UPPER",
            "spiffe://other.lan/node/a",
        ] {
            let id: SpiffeId = bad.parse().unwrap();
            assert!(Identity::from_spiffe_id(&id, &cluster()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_name_cannot_add_path_segments() {
        let sneaky = Identity::User("x/../node/a".to_owned());
        assert!(matches!(
            sneaky.spiffe_id(&cluster()),
            Err(Error::UserName { .. })
        ));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_prints_the_same(text in "(spiffe://)?[a-z./%A-Z0-9_-]{0,40}|\\PC*") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
