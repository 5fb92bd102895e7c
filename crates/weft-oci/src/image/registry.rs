//! Speaking to registries: the distribution API, with credentials and over TLS.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use weft_unit::Credentials;

use super::manifest::{ACCEPTED, MAX_MANIFEST_BYTES};
use super::reference::{Digest, Reference};
use crate::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that says nothing for so long is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
const MAX_TOKEN_BYTES: usize = 1 << 20;

/// Clients of registries; the one for TLS is made when it is needed, as it reads the machine's
/// certificates.
pub(crate) struct Registry {
    extra_roots: Vec<u8>,
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
}

impl Registry {
    /// `extra_roots` are certificates in PEM that are trusted beside the machine's.
    pub(crate) fn new(extra_roots: Vec<u8>) -> Self {
        Self {
            extra_roots,
            plain: OnceLock::new(),
            secure: OnceLock::new(),
        }
    }

    pub(super) fn session(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session, Error> {
        let is_plain = reference.is_loopback();
        let slot = if is_plain { &self.plain } else { &self.secure };
        let http = match slot.get() {
            Some(http) => http.clone(),
            None => {
                let made = self.client(is_plain)?;
                slot.get_or_init(|| made).clone()
            }
        };
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Session {
            http,
            base: format!(
                "{scheme}://{}/v2/{}",
                reference.registry, reference.repository
            ),
            reference: reference.clone(),
            credentials: credentials.cloned(),
            authorization: Arc::new(Mutex::new(None)),
        })
    }

    fn client(&self, is_plain: bool) -> Result<reqwest::Client, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |e: &dyn std::fmt::Display| Error::Pull(format!("TLS: {e}"));
        let roots = if is_plain {
            rustls::RootCertStore::empty()
        } else {
            self.roots()?
        };
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(redirects(is_plain))
            .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|e| unusable(&e))
    }

    fn roots(&self) -> Result<rustls::RootCertStore, Error> {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(&self.extra_roots) {
            certificate
                .map_err(|e| e.to_string())
                .and_then(|der| roots.add(der).map_err(|e| e.to_string()))
                .map_err(|e| Error::Pull(format!("a certificate for registries: {e}")))?;
        }
        Ok(roots)
    }
}

/// A registry may send us to where its blobs lie, but not from TLS to plain text, and not from
/// elsewhere to this machine.
fn redirects(from_loopback: bool) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("too many redirections");
        }
        if attempt.url().scheme() == "https" || (from_loopback && is_loopback(attempt.url())) {
            return attempt.follow();
        }
        attempt.error("redirected to where there is no TLS")
    })
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// One image being fetched, with what the registry gave us to show.
#[derive(Clone)]
pub(super) struct Session {
    http: reqwest::Client,
    base: String,
    reference: Reference,
    credentials: Option<Credentials>,
    authorization: Arc<Mutex<Option<HeaderValue>>>,
}

/// A call that did not give what was asked for.
pub(super) enum Refused {
    /// Trying again may help.
    Transient(String),
    /// It will not.
    Final(Error),
}

impl Session {
    /// A manifest or an index, as it is; the caller verifies it.
    pub(super) async fn manifest(&self, version: &str) -> Result<Vec<u8>, Refused> {
        let path = format!("/manifests/{version}");
        let response = self.get(&path, Some(ACCEPTED), 0).await?;
        read_bounded(response, MAX_MANIFEST_BYTES).await
    }

    /// A blob, from an offset on. The registry may answer from its beginning.
    pub(super) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Response, Refused> {
        self.get(&format!("/blobs/{digest}"), None, offset).await
    }

    async fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> Result<Response, Refused> {
        let response = self.send(path, accept, offset).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(response);
        }
        let challenge = response
            .headers()
            .get(WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        self.authorize(&challenge).await?;
        let response = self.send(path, accept, offset).await?;
        self.judge(response)
    }

    async fn send(
        &self,
        path: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> Result<Response, Refused> {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let authorization = self.authorization.lock().clone();
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|e| self.broken(&e))
    }

    pub(super) fn broken(&self, error: &reqwest::Error) -> Refused {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let text = format!("registry {}: {cause}", self.reference.registry);
        match error.is_redirect() || error.is_builder() {
            true => Refused::Final(Error::Pull(text)),
            false => Refused::Transient(text),
        }
    }

    fn judge(&self, response: Response) -> Result<Response, Refused> {
        let status = response.status();
        let text = format!("{}: the registry answered {status}", self.reference);
        match status {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(Refused::Final(Error::ImageNotFound(format!(
                "{}: the registry has no such image",
                self.reference
            )))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Refused::Final(Error::Denied(
                format!("{text}; name a secret with a username and password in registry_secret"),
            ))),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Refused::Final(Error::Corrupt(format!(
                "{}: a blob is shorter than its manifest says",
                self.reference
            )))),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(Refused::Transient(text))
            }
            status if status.is_server_error() => Err(Refused::Transient(text)),
            _ => Err(Refused::Final(Error::Pull(text))),
        }
    }

    /// Gets what the registry wants to see.
    async fn authorize(&self, challenge: &str) -> Result<(), Refused> {
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let value = match scheme.to_ascii_lowercase().as_str() {
            "basic" => match &self.credentials {
                Some(credentials) => basic(credentials),
                None => return Ok(()),
            },
            "bearer" => format!("Bearer {}", self.token(parameters).await?),
            _ => return Ok(()),
        };
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| self.refuse_token("is not a header"))?;
        value.set_sensitive(true);
        *self.authorization.lock() = Some(value);
        Ok(())
    }

    async fn token(&self, parameters: &str) -> Result<String, Refused> {
        let realm = parameter(parameters, "realm")
            .and_then(|realm| Url::parse(&realm).ok())
            .ok_or_else(|| self.refuse_token("has no realm"))?;
        // Credentials go to the realm: it has to be as safe as the registry itself.
        let is_safe =
            realm.scheme() == "https" || (self.reference.is_loopback() && is_loopback(&realm));
        if !is_safe {
            return Err(self.refuse_token("names a realm without TLS"));
        }
        let scope = parameter(parameters, "scope")
            .unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let mut query = vec![("scope", scope)];
        if let Some(service) = parameter(parameters, "service") {
            query.push(("service", service));
        }
        let mut request = self.http.get(realm).query(&query);
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, basic(credentials));
        }
        let response = request.send().await.map_err(|e| self.broken(&e))?;
        let body = read_bounded(self.judge(response)?, MAX_TOKEN_BYTES).await?;
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        serde_json::from_slice::<Token>(&body)
            .ok()
            .and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(|| self.refuse_token("gave no token"))
    }

    fn refuse_token(&self, why: &str) -> Refused {
        Refused::Final(Error::Denied(format!(
            "{}: the registry's way of logging in {why}",
            self.reference
        )))
    }
}

fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}

/// The value of `name="value"` in a challenge.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_start_matches([',', ' ']);
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = after;
    }
    None
}

async fn read_bounded(mut response: Response, limit: usize) -> Result<Vec<u8>, Refused> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| Refused::Transient(format!("the registry broke off: {e}")))?
    {
        if body.len() + chunk.len() > limit {
            return Err(Refused::Final(Error::Corrupt(format!(
                "the registry answers with more than {limit} bytes"
            ))));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn challenges_are_taken_apart() {
        let text =
            r#"realm="https://auth.example/token",service=reg,scope="repository:a:pull,push""#;
        assert_eq!(parameter(text, "service").as_deref(), Some("reg"));
        let scope = parameter(text, "scope");
        assert_eq!(scope.as_deref(), Some("repository:a:pull,push"));
        assert_eq!(parameter(text, "nothing"), None);
        assert_eq!(parameter("realm=\"", "realm"), None);
    }
}
