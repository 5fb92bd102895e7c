//! Short notations: `"8080:80/http"`, `on-failure:5`, `70%`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Percent, PortSpec, Protocol, RestartPolicy, RestartWhen};

impl FromStr for PortSpec {
    type Err = String;

    /// `PORT`, `PORT:TARGET`, each with `/tcp` or `/http`.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{text:?} is not a port: write for example 8080:80 or 8080:80/http");
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "http" => Protocol::Http,
            _ => return Err(malformed()),
        };
        let (port, target) = ports.split_once(':').unwrap_or((ports, ports));
        let number = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(malformed()),
            Ok(number) => Ok(number),
        };
        Ok(Self {
            port: number(port)?,
            target: number(target)?,
            protocol,
        })
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    /// A policy, and for `on-failure` how often: `on-failure:5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || {
            format!(
                "{text:?} is not a restart policy: write no, always, on-failure, on-failure:5 or unless-stopped"
            )
        };
        let (policy, max) = match text.split_once(':') {
            Some((policy, max)) => (policy, Some(max.parse().map_err(|_| malformed())?)),
            None => (text, None),
        };
        let policy = match policy {
            "no" => RestartWhen::No,
            "always" => RestartWhen::Always,
            "on-failure" => RestartWhen::OnFailure,
            "unless-stopped" => RestartWhen::UnlessStopped,
            _ => return Err(malformed()),
        };
        Ok(Self { policy, max })
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text);
        match number.parse() {
            Ok(percent @ 1..=1_000) => Ok(Self(percent)),
            _ => Err(format!("{text:?} is not a share: write for example 70%")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortFields {
    port: u16,
    #[serde(default)]
    target: Option<u16>,
    #[serde(default)]
    protocol: Protocol,
}

impl From<PortFields> for PortSpec {
    fn from(fields: PortFields) -> Self {
        Self {
            port: fields.port,
            target: fields.target.unwrap_or(fields.port),
            protocol: fields.protocol,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartFields {
    #[serde(default)]
    policy: RestartWhen,
    #[serde(default)]
    max: Option<u32>,
}

impl From<RestartFields> for RestartPolicy {
    fn from(fields: RestartFields) -> Self {
        Self {
            policy: fields.policy,
            max: fields.max,
        }
    }
}

/// Nothing may be written in full for a share.
#[derive(Deserialize)]
enum NoFields {}

impl From<NoFields> for Percent {
    fn from(none: NoFields) -> Self {
        match none {}
    }
}

/// Reads a text, a number, or the fields one by one.
struct Either<T, F>(&'static str, std::marker::PhantomData<(T, F)>);

impl<'de, T, F> Visitor<'de> for Either<T, F>
where
    T: FromStr<Err = String> + From<F>,
    F: Deserialize<'de>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    // YAML 1.1 readers take an unquoted `no` for a truth value.
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(if value { "yes" } else { "no" })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        F::deserialize(MapAccessDeserializer::new(map)).map(T::from)
    }
}

macro_rules! deserialize_either {
    ($name:ident, $fields:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let either = Either::<Self, $fields>($expected, std::marker::PhantomData);
                deserializer.deserialize_any(either)
            }
        }
    };
}

deserialize_either!(PortSpec, PortFields, "a port such as 8080:80/http");
deserialize_either!(
    RestartPolicy,
    RestartFields,
    "a restart policy such as on-failure:5"
);
deserialize_either!(Percent, NoFields, "a share such as 70%");
