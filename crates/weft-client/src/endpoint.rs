//! Where a cluster is and how to be let in.

use std::path::Path;

use weft_api::AdminFile;
use weft_pki::{Certificate, ClientTls, Credentials, PrivateKey};

use crate::Error;

/// Where a cluster is and how to be let in.
#[derive(Clone)]
pub struct Endpoint {
    /// `https://ADDRESS:PORT`, or `http://` on loopback.
    pub server: String,
    /// The cluster's CA and, if there is one, the client's own certificate.
    pub tls: Option<ClientTls>,
    /// A bearer token, if there is one.
    pub token: Option<String>,
}

impl Endpoint {
    /// Reads `admin.json` and the files it names.
    ///
    /// # Errors
    /// When one of them cannot be read or understood.
    pub fn from_admin_file(path: &Path) -> Result<Self, Error> {
        let text = read(path)?;
        let admin: AdminFile = serde_json::from_str(&text).map_err(|error| Error::Endpoint {
            what: path.display().to_string(),
            detail: error.to_string(),
        })?;
        Self::from_admin(&admin)
    }

    /// Takes the details of an `admin.json`.
    ///
    /// # Errors
    /// When a file it names cannot be read or understood.
    pub fn from_admin(admin: &AdminFile) -> Result<Self, Error> {
        let ca = certificate(&admin.ca)?;
        let credentials = Credentials {
            certificate: certificate(&admin.cert)?,
            key: PrivateKey::from_pem(&read(admin.key.as_ref())?)
                .map_err(|e| unusable(&admin.key, &e))?,
            ca,
        };
        let tls = ClientTls::with_identity(&credentials).map_err(|e| unusable(&admin.cert, &e))?;
        Ok(Self {
            server: admin.server.clone(),
            tls: Some(tls),
            token: Some(admin.token.clone()).filter(|token| !token.is_empty()),
        })
    }

    /// A server known by its CA certificate, opened with a bearer token.
    ///
    /// # Errors
    /// When the CA file cannot be read or understood.
    pub fn with_token(
        server: String,
        ca: Option<&Path>,
        token: Option<String>,
    ) -> Result<Self, Error> {
        let tls = match ca {
            Some(path) => {
                let ca = certificate(&path.display().to_string())?;
                Some(
                    ClientTls::ca_only(&ca)
                        .map_err(|e| unusable(&path.display().to_string(), &e))?,
                )
            }
            None => None,
        };
        Ok(Self { server, tls, token })
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.display().to_string(),
        source,
    })
}

fn certificate(path: &str) -> Result<Certificate, Error> {
    Certificate::from_pem(&read(path.as_ref())?).map_err(|error| unusable(path, &error))
}

fn unusable(path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Endpoint {
        what: path.to_owned(),
        detail: error.to_string(),
    }
}
