//! Fetching a file over HTTP: streamed, hashed while it streams, bounded in size and time.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Response, StatusCode, Url};
use ring::digest::{Context, SHA256};
use tokio::io::AsyncWriteExt;
use weft_types::Reason;
use weft_unit::{Error, Progress, Step};

use crate::{Options, fail};

use super::address::{Checked, is_allowed, refusal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may say nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;
/// How often progress is told, in bytes.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Fetches files.
#[derive(Debug)]
pub(super) struct Fetch {
    client: reqwest::Client,
    allow_private: bool,
    max_bytes: u64,
    timeout: Duration,
}

fn failed(reason: Reason, detail: impl Into<String>) -> Error {
    Error::new(Step::Prepare, reason, detail)
}

/// Every cause of an error, the last being the one that says most.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Refuses addresses that stand in the URL itself; names are checked as they are resolved.
fn check(url: &Url, allow_private: bool) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} is not http or https", url.scheme()));
    }
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(address) if !is_allowed(address, allow_private) => Err(refusal(host)),
        _ => Ok(()),
    }
}

fn follow(attempt: Attempt<'_>, allow_private: bool) -> reqwest::redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    match check(attempt.url(), allow_private) {
        Ok(()) => attempt.follow(),
        Err(why) => attempt.error(why),
    }
}

fn tls() -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Without any, https fails with a message that says so; plain http still works.
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(Reason::Internal, e.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl Fetch {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let allow_private = options.allow_private_urls;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .dns_resolver(Checked { allow_private })
            .redirect(Policy::custom(move |attempt| {
                follow(attempt, allow_private)
            }))
            // A proxy would resolve names itself, and reach what is refused here.
            .no_proxy()
            .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(Reason::Internal, causes(&error)))?;
        Ok(Self {
            client,
            allow_private,
            max_bytes: options.max_image_bytes,
            timeout: options.fetch_timeout,
        })
    }

    /// Writes what is at a URL to a new file, when it has the wanted SHA-256.
    pub(super) async fn to_file(
        &self,
        url: &str,
        sha256: &str,
        file: &Path,
        progress: &Progress,
    ) -> Result<(), Error> {
        let late = |_| {
            let detail = format!("{url} takes longer than {:?}", self.timeout);
            failed(Reason::ImagePullFailed, detail)
        };
        tokio::time::timeout(self.timeout, self.stream(url, sha256, file, progress))
            .await
            .map_err(late)?
    }

    async fn get(&self, url: &str) -> Result<Response, Error> {
        let parsed = Url::parse(url).map_err(|e| fail::refused("vm.image.url", e))?;
        check(&parsed, self.allow_private)
            .map_err(|why| failed(Reason::PermissionDenied, format!("{url}: {why}")))?;
        let response = self.client.get(parsed).send().await;
        let response = response.map_err(|error| failed(Reason::ImagePullFailed, causes(&error)))?;
        let reason = match response.status() {
            status if status.is_success() => return Ok(response),
            StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN => Reason::ImageNotFound,
            _ => Reason::ImagePullFailed,
        };
        Err(failed(
            reason,
            format!("{url} answers {}", response.status()),
        ))
    }

    async fn stream(
        &self,
        url: &str,
        sha256: &str,
        file: &Path,
        progress: &Progress,
    ) -> Result<(), Error> {
        let response = self.get(url).await?;
        let total = response.content_length();
        let too_large = || {
            let detail = format!("{url} is larger than {} bytes", self.max_bytes);
            failed(Reason::ImagePullFailed, detail)
        };
        if total.is_some_and(|total| total > self.max_bytes) {
            return Err(too_large());
        }
        let storage = |e: io::Error| fail::file(Step::Prepare, "writing", file, &e);
        let mut out = tokio::fs::File::create_new(file).await.map_err(storage)?;
        let mut hash = Context::new(&SHA256);
        let mut pieces = response.bytes_stream();
        let (mut read, mut told) = (0_u64, 0);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| failed(Reason::ImagePullFailed, causes(&error)))?;
            read += piece.len() as u64;
            if read > self.max_bytes {
                return Err(too_large());
            }
            hash.update(&piece);
            out.write_all(&piece).await.map_err(storage)?;
            if read >= told {
                told = read + PROGRESS_BYTES;
                let of = total.map_or_else(String::new, |total| format!(" of {}", total >> 20));
                progress.send_replace(format!("fetching {url}: {}{of} MiB", read >> 20));
            }
        }
        out.flush().await.map_err(storage)?;
        out.sync_data().await.map_err(storage)?;
        let found = hex::encode(hash.finish());
        if found != sha256 {
            let detail = format!("{url} has SHA-256 {found}, not {sha256}");
            return Err(failed(Reason::ArtifactCorrupt, detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_urls_are_checked_in_every_notation() {
        for bad in [
            "http://169.254.169.254/latest/meta-data",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://169.254.43518/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "file:///etc/passwd",
            "ftp://192.0.2.1/",
        ] {
            let url = Url::parse(bad).unwrap();
            assert!(check(&url, true).is_err(), "{bad}");
        }
        let url = Url::parse("http://127.0.0.1:8080/x").unwrap();
        assert!(check(&url, true).is_ok() && check(&url, false).is_err());
    }
}
