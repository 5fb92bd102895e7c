//! Secrets: sealed in the store with a key that lies beside it, never in it.
//!
//! A value is sealed with ChaCha20-Poly1305 under a random nonce; the name of its record is
//! authenticated with it, so that nobody with the store in hand can put one secret in the place of
//! another. Values are opened only for the nodes that need them, and for signatures of webhooks.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use weft_api::SecretView;
use weft_pki::write_secret_file;
use weft_types::{FieldError, Namespace, Timestamp, WorkloadName};

use crate::Error;

/// The version of the record's layout.
const VERSION: u32 = 1;
/// The most keys of one secret, and the most bytes of all its values.
const MAX_KEYS: usize = 256;
const MAX_VALUE_BYTES: usize = 256 << 10;
const MAX_KEY_BYTES: usize = 253;
const KEY_BYTES: usize = 32;

/// What the store keeps under `secrets/<ns>/<name>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Version of the layout.
    pub v: u32,
    /// Whose it is.
    pub namespace: Namespace,
    /// Its name.
    pub name: WorkloadName,
    /// The keys of its values, which are no secret.
    pub keys: Vec<String>,
    /// Grows with each change.
    pub version: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    pub changed_ms: u64,
    /// Nonce and sealed values, base64.
    sealed: String,
}

impl SecretRecord {
    /// Its key in the store.
    pub fn key(namespace: &Namespace, name: &str) -> String {
        format!("secrets/{namespace}/{name}")
    }

    /// What the API shows of it.
    pub fn view(&self) -> SecretView {
        SecretView {
            name: self.name.to_string(),
            namespace: self.namespace.to_string(),
            keys: self.keys.clone(),
            version: self.version,
            changed_at: weft_api::rfc3339(Timestamp(self.changed_ms)),
        }
    }
}

/// The key that seals secrets. Its debug form shows nothing of it.
pub struct Sealer {
    key: LessSafeKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Reads the key of a data directory, or makes it.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not a key.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        let bytes = match std::fs::read(path) {
            Ok(text) => hex::decode(text.trim_ascii()).map_err(|_| damaged(path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = vec![0; KEY_BYTES];
                fill(&mut bytes)?;
                write_secret_file(path, hex::encode(&bytes).as_bytes())?;
                bytes
            }
            Err(source) => {
                return Err(Error::File {
                    path: path.to_path_buf(),
                    source,
                });
            }
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| damaged(path))?;
        Ok(Self {
            key: LessSafeKey::new(key),
        })
    }

    /// Seals the values of a secret.
    ///
    /// # Errors
    /// When a key or value is malformed or too large.
    pub fn seal(
        &self,
        namespace: &Namespace,
        name: &WorkloadName,
        values: &BTreeMap<String, String>,
        version: u64,
        now: Timestamp,
    ) -> Result<SecretRecord, Error> {
        check(values)?;
        let mut bytes = serde_json::to_vec(values).map_err(|error| Error::Corrupt {
            what: "a secret".to_owned(),
            detail: error.to_string(),
        })?;
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce)?;
        let aad = SecretRecord::key(namespace, name.as_str());
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad.as_bytes()),
                &mut bytes,
            )
            .map_err(|_| Error::not_written("the secret could not be sealed"))?;
        let sealed = [nonce.as_slice(), &bytes].concat();
        Ok(SecretRecord {
            v: VERSION,
            namespace: namespace.clone(),
            name: name.clone(),
            keys: values.keys().cloned().collect(),
            version,
            changed_ms: now.as_millis(),
            sealed: STANDARD.encode(sealed),
        })
    }

    /// The values of a secret.
    ///
    /// # Errors
    /// When it was sealed with another key or for another name.
    pub fn open(&self, record: &SecretRecord) -> Result<BTreeMap<String, String>, Error> {
        let key = SecretRecord::key(&record.namespace, record.name.as_str());
        let unreadable = || Error::Corrupt {
            what: key.clone(),
            detail: "it was sealed with another key; set it again with `weft secret set`"
                .to_owned(),
        };
        let mut bytes = STANDARD.decode(&record.sealed).map_err(|_| unreadable())?;
        if bytes.len() < NONCE_LEN {
            return Err(unreadable());
        }
        let mut sealed = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| unreadable())?;
        let values = self
            .key
            .open_in_place(nonce, Aad::from(key.as_bytes()), &mut sealed)
            .map_err(|_| unreadable())?;
        serde_json::from_slice(values).map_err(|_| unreadable())
    }
}

fn check(values: &BTreeMap<String, String>) -> Result<(), FieldError> {
    if values.is_empty() || values.len() > MAX_KEYS {
        let message = format!("{} keys, not 1 to {MAX_KEYS}", values.len());
        return Err(FieldError::new("values", message));
    }
    let size: usize = values.values().map(String::len).sum();
    if size > MAX_VALUE_BYTES {
        let message = format!("{size} bytes together, more than {MAX_VALUE_BYTES}");
        return Err(FieldError::new("values", message));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    for key in values.keys() {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.chars().all(allowed) {
            return Err(FieldError::new(
                "values",
                format!("{key:?} is not a key: letters, digits, `-`, `_` and `.`"),
            ));
        }
    }
    Ok(())
}

fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|error| Error::Corrupt {
        what: "random numbers".to_owned(),
        detail: error.to_string(),
    })
}

fn damaged(path: &Path) -> Error {
    Error::Corrupt {
        what: path.display().to_string(),
        detail: format!(
            "it is not {KEY_BYTES} bytes in hexadecimal digits; restore it from a backup, secrets cannot be read without it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<String, String> {
        [("password".to_owned(), "hunter2-in-the-clear".to_owned())].into()
    }

    fn sealed(sealer: &Sealer) -> SecretRecord {
        let name = "db".parse().expect("a name");
        sealer
            .seal(&Namespace::default(), &name, &values(), 1, Timestamp(1))
            .expect("sealed")
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_file_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secrets.key");
        let record = sealed(&Sealer::load_or_create(&path).expect("a key"));
        assert!(
            !serde_json::to_string(&record)
                .expect("JSON")
                .contains("hunter2")
        );
        let again = Sealer::load_or_create(&path).expect("the same key");
        assert_eq!(again.open(&record).expect("opened"), values());
        let other = Sealer::load_or_create(&dir.path().join("other")).expect("another key");
        let error = other.open(&record).expect_err("another key").to_string();
        assert!(error.contains("weft secret set"), "{error}");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path)
            .expect("the file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn one_secret_does_not_open_under_the_name_of_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let sealer = Sealer::load_or_create(&dir.path().join("key")).expect("a key");
        let mut record = sealed(&sealer);
        record.name = "admin".parse().expect("a name");
        assert!(sealer.open(&record).is_err());
    }

    #[test]
    fn malformed_secrets_are_refused_without_their_values() {
        for (key, value) in [("", "x"), ("a b", "x"), ("../a", "x")] {
            let values = [(key.to_owned(), value.to_owned())].into();
            assert!(check(&values).is_err(), "{key:?}");
        }
        let large = [("key".to_owned(), "s3cret".repeat(100_000))].into();
        let error = check(&large).expect_err("too large").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
