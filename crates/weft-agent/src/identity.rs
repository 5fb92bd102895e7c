//! Who this node is: joining, coming back, remembering.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use tonic::Code;
use weft_pki::{Certificate, ClientTls, Credentials, Identity, JoinToken, NodeIdentity};
use weft_proto::v1;
use weft_types::{NodeId, NodeValidity, Timestamp};

use crate::backoff::Backoff;
use crate::channel::connect;
use crate::{Config, Error, machine};

/// How long a server is looked for on the local network.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agent that was killed may still be there by a process that it was just making: that
/// has the lock until it runs its own program.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// The waits between asking whether a node whose certificate expired may come back.
const FIRST_REJOIN: Duration = Duration::from_secs(1);
const MAX_REJOIN: Duration = Duration::from_secs(10);

/// What the clock on the wall says.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(since_epoch.as_millis().try_into().unwrap_or(u64::MAX))
}

/// A node that is part of a cluster.
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) identity: NodeIdentity,
    pub(crate) credentials: Credentials,
    pub(crate) tls: ClientTls,
    pub(crate) addresses: Vec<String>,
    /// Whether it joined just now, by its token.
    pub(crate) is_new: bool,
    /// Held as long as the agent runs: two agents must not share an identity.
    _lock: File,
}

impl Member {
    /// The member that the data directory remembers, or a new one by its token.
    pub(crate) async fn load_or_join(config: &Config) -> Result<Self, Error> {
        make_private_dir(&config.data_dir)?;
        let lock = lock(&config.data_dir, LOCK_TIMEOUT).await?;
        let identity = NodeIdentity::load_or_generate_key(&config.data_dir.join("identity"))?;
        let known = identity.credentials()?;
        let is_new = known.is_none();
        let (credentials, addresses) = match known {
            Some(credentials) => {
                let addresses = known_addresses(config, &credentials).await?;
                if credentials.certificate.validity(now()) == NodeValidity::Expired {
                    (
                        rejoin(&identity, &credentials, &addresses).await?,
                        addresses,
                    )
                } else {
                    (credentials, addresses)
                }
            }
            None => join(config, &identity).await?,
        };
        let Identity::Node(id) = credentials.identity()? else {
            return Err(Error::Machine(
                "the certificate in the data directory is not that of a node".to_owned(),
            ));
        };
        remember(&config.data_dir, &addresses)?;
        let tls = ClientTls::with_identity(&credentials)?;
        Ok(Self {
            id,
            identity,
            credentials,
            tls,
            addresses,
            is_new,
            _lock: lock,
        })
    }

    /// Takes over a renewed certificate; the next connection uses it.
    pub(crate) fn renewed(&mut self, certificate_der: &[u8]) -> Result<(), Error> {
        let certificate = Certificate::from_der(certificate_der)?;
        let credentials = self.identity.install(&certificate, &self.credentials.ca)?;
        self.tls.replace(&credentials)?;
        self.credentials = credentials;
        Ok(())
    }

    /// Asks to come back when the certificate has expired meanwhile.
    pub(crate) async fn ensure_valid(&mut self) -> Result<(), Error> {
        if self.credentials.certificate.validity(now()) == NodeValidity::Expired {
            self.credentials = rejoin(&self.identity, &self.credentials, &self.addresses).await?;
            self.tls.replace(&self.credentials)?;
        }
        Ok(())
    }
}

/// Exchanges the token for a certificate.
async fn join(
    config: &Config,
    identity: &NodeIdentity,
) -> Result<(Credentials, Vec<String>), Error> {
    let token: JoinToken = config
        .token
        .as_deref()
        .ok_or(Error::NotJoined)?
        .trim()
        .parse()?;
    token.check_expiry(now())?;
    let addresses = match &config.join {
        Some(address) => vec![address.clone()],
        None if !token.addresses.is_empty() => token.addresses.clone(),
        None => discover(&token.ca_fingerprint.to_string()).await?,
    };
    let mut client = connect(&addresses, &ClientTls::pinned(token.ca_fingerprint)?).await?;
    let request = v1::JoinRequest {
        token_id: token.id.to_string(),
        token_secret: hex::encode(token.secret.as_bytes()),
        node_id: wished_id(config)?.to_string(),
        csr: identity.csr()?.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = client
        .join(request)
        .await
        .map_err(|status| Error::Refused(status.message().to_owned()))?;
    let answer = answer.into_inner();
    let ca = Certificate::from_der(&answer.ca)?;
    if ca.fingerprint() != token.ca_fingerprint {
        return Err(Error::Refused(
            "it answered with another cluster's CA".to_owned(),
        ));
    }
    let credentials = identity.install(&Certificate::from_der(&answer.certificate)?, &ca)?;
    Ok((credentials, addresses))
}

/// Asks to come back, again and again until somebody approves it.
async fn rejoin(
    identity: &NodeIdentity,
    old: &Credentials,
    addresses: &[String],
) -> Result<Credentials, Error> {
    let Identity::Node(id) = old.identity()? else {
        return Err(Error::Machine(
            "the certificate in the data directory is not that of a node".to_owned(),
        ));
    };
    let tls = ClientTls::ca_only(&old.ca)?;
    tracing::warn!(
        "the certificate of {id} has expired; approve its return on the server with `weft node approve {id} {}`",
        identity.short_code()
    );
    let mut backoff = Backoff::new(FIRST_REJOIN, MAX_REJOIN);
    loop {
        let request = v1::RejoinRequest {
            node_id: id.to_string(),
            csr: identity.csr()?.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match connect(addresses, &tls).await {
            Ok(mut client) => match client.rejoin(request).await {
                Ok(answer) if !answer.get_ref().certificate.is_empty() => {
                    let certificate = Certificate::from_der(&answer.get_ref().certificate)?;
                    return Ok(identity.install(&certificate, &old.ca)?);
                }
                Err(status) if status.code() == Code::PermissionDenied => {
                    return Err(Error::Removed);
                }
                Ok(_) => {}
                Err(status) => tracing::debug!(%status, "asking to come back failed"),
            },
            Err(error) => tracing::debug!(%error, "asking to come back failed"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn discover(fingerprint: &str) -> Result<Vec<String>, Error> {
    let found = weft_discovery::find_first(Some(fingerprint), DISCOVERY_TIMEOUT).await;
    match found {
        Ok(Some(server)) => Ok(server.addresses.iter().map(ToString::to_string).collect()),
        Ok(None) => Err(Error::NoServer),
        Err(error) => Err(Error::Machine(error.to_string())),
    }
}

/// The id to ask for: as wished, or the host name with something random behind it.
fn wished_id(config: &Config) -> Result<NodeId, Error> {
    if let Some(id) = &config.node_id {
        return Ok(id.clone());
    }
    let mut random = [0u8; 3];
    getrandom::fill(&mut random)
        .map_err(|error| Error::Machine(format!("no random numbers: {error}")))?;
    let host: String = machine::host_name()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(48)
        .collect();
    let host = host.trim_matches('-');
    let host = if host.is_empty() { "node" } else { host };
    format!("{host}-{}", hex::encode(random))
        .parse()
        .map_err(Error::Machine)
}

fn make_private_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::file(dir))
}

async fn lock(dir: &Path, patience: Duration) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(Error::file(&path))?;
    let locked = async {
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
    };
    let locked = tokio::time::timeout(patience, locked).await;
    locked.map_err(|_| Error::Locked(dir.to_path_buf()))?;
    Ok(file)
}

fn servers_file(dir: &Path) -> PathBuf {
    dir.join("servers")
}

fn remember(dir: &Path, addresses: &[String]) -> Result<(), Error> {
    let path = servers_file(dir);
    std::fs::write(&path, addresses.join("\n")).map_err(Error::file(&path))
}

/// Where to find the cluster again: as told, as remembered, or as seen on the local network.
async fn known_addresses(config: &Config, credentials: &Credentials) -> Result<Vec<String>, Error> {
    if let Some(address) = &config.join {
        return Ok(vec![address.clone()]);
    }
    let text = std::fs::read_to_string(servers_file(&config.data_dir)).unwrap_or_default();
    let addresses: Vec<String> = text
        .lines()
        .map(str::to_owned)
        .filter(|line| !line.is_empty())
        .collect();
    if addresses.is_empty() {
        discover(&credentials.ca.fingerprint().to_string()).await
    } else {
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_data_directory_is_taken_once_its_lock_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), Duration::ZERO).await.unwrap();
        let refused = lock(dir.path(), LOCK_INTERVAL).await.unwrap_err();
        assert!(matches!(refused, Error::Locked(_)), "{refused}");
        let patient = lock(dir.path(), Duration::from_secs(60));
        let let_go = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        let (taken, ()) = tokio::join!(patient, let_go);
        taken.unwrap();
    }
}
