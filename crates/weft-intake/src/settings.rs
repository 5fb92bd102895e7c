//! Settings of the queues, as the config file has them.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_types::serde_duration;

use crate::Error;

/// Bounds that every queue has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most jobs that are taken and not ended.
    pub max_in_flight: usize,
    /// A job that was delivered more often than this is a dead letter.
    pub max_deliveries: u32,
}

/// `[queue.redis]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// As in `redis://[USER:PASSWORD@]HOST:PORT/DB`; `rediss://` for TLS.
    pub url: String,
    /// What every key begins with.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// How long this server may be silent before another one takes over what it held.
    #[serde(default = "default_redis_lease", with = "serde_duration")]
    pub lease: Duration,
    /// The most jobs that are taken and not ended.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: usize,
    /// A job that was delivered more often than this is a dead letter.
    #[serde(default = "default_deliveries")]
    pub max_deliveries: u32,
}

/// `[queue.nats]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSettings {
    /// As in `nats://[USER:PASSWORD@]HOST:PORT`; `tls://` for TLS; several with commas.
    pub url: String,
    /// The stream that jobs are published to. Results are in `<stream>_RESULTS`, dead letters in
    /// `<stream>_DEAD`. A stream that is not there is made.
    #[serde(default = "default_stream")]
    pub stream: String,
    /// The subject of jobs. Results go to `<subject>.results.<id>`, dead letters to `<subject>.dead`.
    #[serde(default = "default_subject")]
    pub subject: String,
    /// The durable consumer that all servers of a cluster share.
    #[serde(default = "default_consumer")]
    pub consumer: String,
    /// A credentials file (`.creds`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// A CA certificate (PEM) for TLS, beside those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Copies of each message in a cluster of NATS servers, for streams that are made.
    #[serde(default = "default_replicas")]
    pub replicas: usize,
    /// How long a server may be silent before a job it took is delivered again.
    #[serde(default = "default_nats_lease", with = "serde_duration")]
    pub lease: Duration,
    /// The most jobs that are taken and not ended, for each server.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: usize,
    /// A job that was delivered more often than this is a dead letter.
    #[serde(default = "default_deliveries")]
    pub max_deliveries: u32,
}

fn default_prefix() -> String {
    "packetfs".to_owned()
}

fn default_stream() -> String {
    "WEFT_JOBS".to_owned()
}

fn default_subject() -> String {
    "weft.jobs".to_owned()
}

fn default_consumer() -> String {
    "weft".to_owned()
}

fn default_replicas() -> usize {
    1
}

fn default_redis_lease() -> Duration {
    Duration::from_secs(10)
}

fn default_nats_lease() -> Duration {
    Duration::from_secs(30)
}

fn default_in_flight() -> usize {
    1_024
}

/// High, because a server that is killed again and again counts as well.
fn default_deliveries() -> u32 {
    100
}

impl RedisSettings {
    /// The defaults, for an address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: default_prefix(),
            lease: default_redis_lease(),
            max_in_flight: default_in_flight(),
            max_deliveries: default_deliveries(),
        }
    }

    /// Its bounds.
    pub fn limits(&self) -> Limits {
        Limits {
            max_in_flight: self.max_in_flight,
            max_deliveries: self.max_deliveries,
        }
    }

    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn check(&self) -> Result<(), Error> {
        let scheme = ["redis://", "rediss://", "redis+unix://", "unix://"];
        if !scheme.iter().any(|scheme| self.url.starts_with(scheme)) {
            let detail = "not an address; write for example redis://127.0.0.1:6379/0";
            return Err(Error::setting("queue.redis.url", detail));
        }
        if self.prefix.is_empty() || self.prefix.len() > 128 {
            return Err(Error::setting("queue.redis.prefix", "not 1 to 128 bytes"));
        }
        check_lease("queue.redis.lease", self.lease)?;
        check_bounds(
            ["queue.redis.max_in_flight", "queue.redis.max_deliveries"],
            &self.limits(),
        )
    }
}

impl NatsSettings {
    /// The defaults, for an address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            stream: default_stream(),
            subject: default_subject(),
            consumer: default_consumer(),
            credentials: None,
            ca: None,
            replicas: default_replicas(),
            lease: default_nats_lease(),
            max_in_flight: default_in_flight(),
            max_deliveries: default_deliveries(),
        }
    }

    /// Its bounds.
    pub fn limits(&self) -> Limits {
        Limits {
            max_in_flight: self.max_in_flight,
            max_deliveries: self.max_deliveries,
        }
    }

    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn check(&self) -> Result<(), Error> {
        if self.url.is_empty() {
            let detail = "empty; write for example nats://127.0.0.1:4222";
            return Err(Error::setting("queue.nats.url", detail));
        }
        for (field, name) in [
            ("queue.nats.stream", &self.stream),
            ("queue.nats.consumer", &self.consumer),
        ] {
            if !is_token(name) {
                let detail = format!("{name:?} is not 1 to 128 letters, digits, `-` and `_`");
                return Err(Error::setting(field, detail));
            }
        }
        if !self.subject.split('.').all(is_token) {
            let detail = format!("{:?} is not words with dots between them", self.subject);
            return Err(Error::setting("queue.nats.subject", detail));
        }
        if !(1..=5).contains(&self.replicas) {
            return Err(Error::setting("queue.nats.replicas", "not 1 to 5"));
        }
        check_lease("queue.nats.lease", self.lease)?;
        check_bounds(
            ["queue.nats.max_in_flight", "queue.nats.max_deliveries"],
            &self.limits(),
        )
    }
}

/// Whether a text can be one word of a NATS subject, and a name of a stream or consumer.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn check_lease(field: &'static str, lease: Duration) -> Result<(), Error> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    if bounds.contains(&lease) {
        return Ok(());
    }
    Err(Error::setting(field, "not between 1s and 1h"))
}

fn check_bounds(fields: [&'static str; 2], limits: &Limits) -> Result<(), Error> {
    if !(1..=65_536).contains(&limits.max_in_flight) {
        return Err(Error::setting(fields[0], "not 1 to 65536"));
    }
    if limits.max_deliveries == 0 {
        return Err(Error::setting(fields[1], "zero; 1 is the least"));
    }
    Ok(())
}

/// Addresses may carry passwords: they are not for logs.
macro_rules! without_url {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

without_url!(RedisSettings);
without_url!(NatsSettings);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_used_are_refused_by_name() {
        let redis = RedisSettings::new("localhost:6379");
        assert!(
            redis
                .check()
                .unwrap_err()
                .to_string()
                .contains("queue.redis.url")
        );
        let redis = RedisSettings {
            lease: Duration::ZERO,
            ..RedisSettings::new("redis://localhost")
        };
        assert!(
            redis
                .check()
                .unwrap_err()
                .to_string()
                .contains("queue.redis.lease")
        );
        let nats = NatsSettings {
            subject: "a.*".to_owned(),
            ..NatsSettings::new("nats://localhost")
        };
        assert!(
            nats.check()
                .unwrap_err()
                .to_string()
                .contains("queue.nats.subject")
        );
        assert_eq!(NatsSettings::new("nats://localhost").check(), Ok(()));
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        let shown = format!("{:?}", RedisSettings::new("redis://u:secret@h/"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
