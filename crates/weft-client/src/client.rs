//! The connection and the plain calls on it.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_api::{Health, Page, Problem};
use weft_types::Reason;

use crate::error::root_cause;
use crate::{Endpoint, Error};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a plain call may take in all.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an idle connection is probed, so that a vanished server is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The largest plain answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How many entries a page of a list is asked for.
const PAGE_ENTRIES: u32 = 1_000;

/// A client of one cluster; cloning shares the connection.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
    tls: Option<weft_pki::ClientTls>,
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// When the TLS configuration is not usable.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(8 << 20)
            .http2_initial_connection_window_size(32 << 20)
            .tcp_nodelay(true)
            .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")));
        if let Some(tls) = &endpoint.tls {
            builder = builder.tls_backend_preconfigured((*tls.config()).clone());
        }
        let http = builder.build().map_err(|error| Error::Endpoint {
            what: endpoint.server.clone(),
            detail: root_cause(&error),
        })?;
        Ok(Self {
            http,
            server: endpoint.server.trim_end_matches('/').to_owned(),
            token: endpoint.token.clone(),
            tls: endpoint.tls.clone(),
        })
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(crate) fn tls(&self) -> Option<&weft_pki::ClientTls> {
        self.tls.as_ref()
    }

    /// The address of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether the server lives, without credentials.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn health(&self) -> Result<Health, Error> {
        self.get("/health").await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; an error status becomes [`Error::Refused`].
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| Error::Unreachable {
            server: self.server.clone(),
            detail: root_cause(&error),
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            Problem::new(
                status.as_u16(),
                "unexpected-answer",
                Reason::Internal,
                format!("the server answered {status}"),
            )
        });
        Err(Error::Refused(Box::new(problem)))
    }

    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, Error> {
        let response = self.send(request).await?;
        let call = response.url().path().to_owned();
        if response
            .content_length()
            .is_some_and(|length| length > MAX_ANSWER_BYTES as u64)
        {
            return Err(Error::Garbled {
                call,
                detail: format!("larger than {MAX_ANSWER_BYTES} bytes"),
            });
        }
        let body = response.bytes().await.map_err(|error| Error::Unreachable {
            server: self.server.clone(),
            detail: root_cause(&error),
        })?;
        serde_json::from_slice(&body).map_err(|error| Error::Garbled {
            call,
            detail: error.to_string(),
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(self.request(Method::GET, path).timeout(CALL_TIMEOUT))
            .await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Error> {
        self.json(
            self.request(Method::POST, path)
                .timeout(CALL_TIMEOUT)
                .json(body),
        )
        .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, path).timeout(CALL_TIMEOUT))
            .await
            .map(drop)
    }

    /// All pages of a list, one after the other, up to `limit` entries.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: usize,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = self
                .request(Method::GET, path)
                .timeout(CALL_TIMEOUT)
                .query(&[("limit", PAGE_ENTRIES)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<T> = self.json(request).await?;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() || items.len() >= limit {
                items.truncate(limit);
                return Ok(items);
            }
        }
    }
}
