//! Requests and their answers.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::RANGE;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Response, StatusCode, Url};
use tokio::io::AsyncWriteExt;

use crate::address::{Checked, Forbidden};
use crate::{Allowed, Error, Part};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may say nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

/// What may be fetched.
#[derive(Clone, Debug)]
pub struct Options {
    /// From where.
    pub allowed: Allowed,
    /// The most bytes of one file.
    pub max_bytes: u64,
    /// How long one file may take.
    pub timeout: Duration,
}

/// Fetches files.
#[derive(Debug)]
pub struct Fetch {
    options: Options,
    /// Made when it is needed: it reads the machine's certificates.
    client: OnceLock<reqwest::Client>,
}

/// Whether the address that stands in a URL itself may be asked; names are checked as they are
/// resolved.
fn check(url: &Url, allowed: &Allowed) -> Result<(), Forbidden> {
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(address) if !allowed.allows(address) => Err(Forbidden(host.to_owned())),
        _ => Ok(()),
    }
}

fn follow(attempt: Attempt<'_>, allowed: &Allowed) -> reqwest::redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    match check(attempt.url(), allowed) {
        Ok(()) => attempt.follow(),
        Err(forbidden) => attempt.error(forbidden),
    }
}

/// An error with its causes, the last being the one that says most.
fn failed(url: &str, error: reqwest::Error) -> Error {
    let url = url.to_owned();
    // The URL is said already.
    let error = error.without_url();
    let mut why = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            let why = forbidden.to_string();
            return Error::Refused { url, why };
        }
        why = format!("{why}: {cause}");
        source = cause.source();
    }
    Error::Network { url, why }
}

fn tls() -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Without any, https fails with a message that says so; plain http still works.
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl Fetch {
    /// Fetches nothing yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            client: OnceLock::new(),
        }
    }

    /// Writes a part of what is at a URL to a new file, which the caller removes when this fails.
    /// Each piece is shown before it is written, with the size of the whole answer if it was said.
    ///
    /// # Errors
    /// When it cannot be had, is larger than the limit, or takes too long.
    pub async fn to_file(
        &self,
        url: &str,
        part: Part,
        file: &Path,
        seen: impl FnMut(&[u8], Option<u64>),
    ) -> Result<(), Error> {
        let limit = self.options.timeout;
        let stream = self.stream(url, part, file, seen);
        let in_time = tokio::time::timeout(limit, stream).await;
        in_time.unwrap_or_else(|_| {
            Err(Error::Late {
                url: url.to_owned(),
                limit,
            })
        })
    }

    fn client(&self) -> Result<&reqwest::Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let allowed = self.options.allowed.clone();
        let made = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .dns_resolver(Checked(allowed.clone()))
            .redirect(Policy::custom(move |attempt| follow(attempt, &allowed)))
            // A proxy would resolve names itself, and reach what is refused here.
            .no_proxy()
            .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Tls(error.to_string()))?;
        Ok(self.client.get_or_init(|| made))
    }

    async fn get(&self, url: &str, part: Part) -> Result<Response, Error> {
        let invalid = |why: String| Error::Url {
            url: url.to_owned(),
            why,
        };
        let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid(format!("{} is not http or https", parsed.scheme())));
        }
        check(&parsed, &self.options.allowed).map_err(|forbidden| Error::Refused {
            url: url.to_owned(),
            why: forbidden.to_string(),
        })?;
        let mut request = self.client()?.get(parsed);
        if let Some(range) = part.header().filter(|_| !part.is_all()) {
            request = request.header(RANGE, range);
        }
        let response = request.send().await.map_err(|error| failed(url, error))?;
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN => Err(Error::Missing {
                url: url.to_owned(),
                status: status.as_u16(),
            }),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Error::Short {
                url: url.to_owned(),
                missing: part.offset,
            }),
            _ => Err(Error::Network {
                url: url.to_owned(),
                why: format!("it answers {status}"),
            }),
        }
    }

    async fn stream(
        &self,
        url: &str,
        part: Part,
        file: &Path,
        mut seen: impl FnMut(&[u8], Option<u64>),
    ) -> Result<(), Error> {
        let response = self.get(url, part).await?;
        let mut cut = part
            .cut(response.status(), response.headers())
            .map_err(|why| Error::Network {
                url: url.to_owned(),
                why,
            })?;
        let total = response.content_length();
        let limit = self.options.max_bytes;
        let too_large = || Error::TooLarge {
            url: url.to_owned(),
            limit,
        };
        if part.is_all() && total.is_some_and(|total| total > limit) {
            return Err(too_large());
        }
        let mut out = tokio::fs::File::create_new(file).await?;
        let mut pieces = response.bytes_stream();
        let mut written = 0_u64;
        while !cut.is_done() {
            let Some(piece) = pieces.next().await else {
                break;
            };
            let piece = piece.map_err(|error| failed(url, error))?;
            let wanted = cut.of(&piece);
            written += wanted.len() as u64;
            if written > limit {
                return Err(too_large());
            }
            seen(wanted, total);
            out.write_all(wanted).await?;
        }
        out.flush().await?;
        match cut.missing() {
            0 => Ok(()),
            _ => Err(Error::Short {
                url: url.to_owned(),
                missing: part.offset + written,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    fn fetch(allowed: Allowed) -> Fetch {
        Fetch::new(Options {
            allowed,
            max_bytes: 100,
            timeout: Duration::from_secs(30),
        })
    }

    /// Serves these answers, each to one connection, and tells what was asked.
    async fn serve(answers: &'static [&'static str]) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let mut asked = String::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                asked += &String::from_utf8(request).unwrap().to_lowercase();
                let answer = answer.replace("HERE", &address.to_string());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (format!("http://{address}/x"), asked)
    }

    async fn fetched(
        part: Part,
        answers: &'static [&'static str],
    ) -> (Result<String, Error>, String) {
        let (url, asked) = serve(answers).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let done = fetch(Allowed::any_private())
            .to_file(&url, part, &file, |_, _| ())
            .await;
        let text = done.map(|()| std::fs::read_to_string(&file).unwrap());
        (text, asked.await.unwrap())
    }

    #[tokio::test]
    async fn a_part_is_asked_for_and_what_servers_answer_is_understood() {
        let part = Part {
            offset: 2,
            length: Some(3),
        };
        const RANGED: &str = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-4/10\r\ncontent-length: 3\r\n\r\n234";
        let (text, asked) = fetched(part, &[RANGED]).await;
        assert_eq!(text.unwrap(), "234");
        assert!(asked.contains("range: bytes=2-4"), "{asked}");
        const ALL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
        assert_eq!(fetched(part, &[ALL]).await.0.unwrap(), "234");
        assert_eq!(
            fetched(Part::default(), &[ALL]).await.0.unwrap(),
            "0123456789"
        );
        const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n0123";
        let error = fetched(part, &[SHORT]).await.0.unwrap_err();
        assert!(matches!(error, Error::Short { missing: 4, .. }), "{error}");
        const BEYOND: &str = "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n";
        let error = fetched(part, &[BEYOND]).await.0.unwrap_err();
        assert_eq!(error.reason(), weft_types::Reason::InvalidSpec, "{error}");
    }

    #[tokio::test]
    async fn more_than_the_limit_is_refused_whether_or_not_it_is_announced() {
        const ANNOUNCED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
        let error = fetched(Part::default(), &[ANNOUNCED]).await.0.unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { limit: 100, .. }),
            "{error}"
        );
        const SILENT: &str = concat!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
            "0123456789012345678901234567890123456789012345678901234567890",
            "0123456789012345678901234567890123456789012345678901234567890"
        );
        let error = fetched(Part::default(), &[SILENT]).await.0.unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { limit: 100, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn redirects_are_followed_and_never_to_where_nothing_may_be_fetched() {
        const THERE: &str = "HTTP/1.1 302 Found\r\nlocation: http://HERE/y\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const FOUND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(
            fetched(Part::default(), &[THERE, FOUND]).await.0.unwrap(),
            "ok"
        );
        const METADATA: &str = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n";
        let error = fetched(Part::default(), &[METADATA]).await.0.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }

    #[tokio::test]
    async fn this_machine_is_not_asked_by_any_name_or_notation_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        for bad in [
            "http://localhost:1/",
            "http://127.0.0.1:1/",
            "http://2130706433:1/",
            "http://0x7f.1:1/",
            "http://[::1]:1/",
            "http://[::ffff:127.0.0.1]:1/",
            "http://169.254.169.254/latest/meta-data",
            "http://0xa9fea9fe/",
            "http://169.254.43518/",
            "http://[fe80::1]/",
        ] {
            let refused = fetch(Allowed::default())
                .to_file(bad, Part::default(), &file, |_, _| ())
                .await;
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{bad}: {error}");
        }
        for bad in [
            "file:///etc/passwd",
            "ftp://192.0.2.1/",
            "nonsense",
            "http://",
        ] {
            let refused = fetch(Allowed::default())
                .to_file(bad, Part::default(), &file, |_, _| ())
                .await;
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Url { .. }), "{bad}: {error}");
        }
        assert!(!file.exists());
    }
}
