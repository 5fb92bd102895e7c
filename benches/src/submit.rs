//! Single durable submissions over HTTPS, with as little client as possible: hyper over rustls, one
//! thread, no retries.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_client::Endpoint;

use crate::process;

/// Every request waits for its job's end this long; a server that takes longer has failed.
const PATH: &str = "/v1/jobs?wait=60s";

/// How requests share connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP/2: all requests on one connection.
    Http2,
    /// HTTP/1.1: a connection for each request in flight, kept alive.
    Http1,
}

/// How submissions went.
pub struct Submitted {
    /// From the first request to the last result.
    pub took: Duration,
    /// CPU time of this process meanwhile.
    pub client_cpu: Duration,
    /// Milliseconds from each request to its answer.
    pub round_trips_ms: Vec<f64>,
    /// The id of each job, by the number that was its input.
    pub ids: Vec<(u32, String)>,
}

/// Submits jobs of one no-op task, each in a request of its own that is answered when its job has
/// ended; `in_flight` at any time. The input of each is its number, little-endian.
///
/// # Panics
/// When a request fails or a job does not succeed.
pub fn submit_singly(
    admin_file: &Path,
    protocol: Protocol,
    jobs: u32,
    in_flight: u32,
) -> Submitted {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let endpoint = Endpoint::from_admin_file(admin_file).expect("admin.json");
    tokio::task::LocalSet::new().block_on(&runtime, run(endpoint, protocol, jobs, in_flight))
}

async fn run(endpoint: Endpoint, protocol: Protocol, jobs: u32, in_flight: u32) -> Submitted {
    let senders = connect(&endpoint, protocol, in_flight).await;
    let work = Rc::new(RefCell::new(Work {
        next: 0,
        jobs,
        round_trips_ms: Vec::with_capacity(jobs as usize),
        ids: Vec::with_capacity(jobs as usize),
    }));
    let cpu = process::cpu(std::process::id());
    let started = Instant::now();
    let workers: Vec<_> = senders
        .into_iter()
        .map(|sender| tokio::task::spawn_local(submit_all(sender, Rc::clone(&work))))
        .collect();
    for worker in workers {
        worker.await.expect("every job succeeds");
    }
    let took = started.elapsed();
    let client_cpu = process::cpu(std::process::id()).saturating_sub(cpu);
    let work = work.take();
    Submitted {
        took,
        client_cpu,
        round_trips_ms: work.round_trips_ms,
        ids: work.ids,
    }
}

/// What is left to do and what has been done.
#[derive(Default)]
struct Work {
    next: u32,
    jobs: u32,
    round_trips_ms: Vec<f64>,
    ids: Vec<(u32, String)>,
}

async fn submit_all(mut sender: Sender, work: Rc<RefCell<Work>>) {
    loop {
        let number = {
            let mut work = work.borrow_mut();
            if work.next == work.jobs {
                return;
            }
            work.next += 1;
            work.next - 1
        };
        let started = Instant::now();
        let answer = sender.submit(number).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        let elapsed = started.elapsed();
        let job: Job = serde_json::from_slice(&body).expect("a job");
        assert!(
            head.status == StatusCode::CREATED && job.state == "succeeded",
            "{}: {}",
            head.status,
            String::from_utf8_lossy(&body)
        );
        let mut work = work.borrow_mut();
        work.round_trips_ms.push(elapsed.as_secs_f64() * 1e3);
        work.ids.push((number, job.id.to_owned()));
    }
}

/// What is looked at of an answer.
#[derive(serde::Deserialize)]
struct Job<'a> {
    id: &'a str,
    state: &'a str,
}

/// The way of one worker's requests to the server.
struct Sender {
    /// Address and port of the server.
    authority: Rc<str>,
    connection: Connection,
}

enum Connection {
    Http2(http2::SendRequest<Full<Bytes>>),
    Http1(http1::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn submit(&mut self, number: u32) -> Response<Incoming> {
        let request = Request::post(self.target())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(job(number)));
        let mut request = request.expect("a request");
        let sent = match &mut self.connection {
            Connection::Http2(sender) => sender.send_request(request).await,
            Connection::Http1(sender) => {
                let host = HeaderValue::from_str(&self.authority).expect("an address");
                request.headers_mut().insert(HOST, host);
                sender.ready().await.expect("the connection lives");
                sender.send_request(request).await
            }
        };
        sent.expect("an answer")
    }

    /// HTTP/2 has the authority in the target, HTTP/1.1 in a header.
    fn target(&self) -> Uri {
        let target = match &self.connection {
            Connection::Http2(_) => format!("https://{}{PATH}", self.authority).parse(),
            Connection::Http1(_) => PATH.parse(),
        };
        target.expect("a target")
    }
}

fn job(number: u32) -> Bytes {
    let data = base64::engine::general_purpose::STANDARD.encode(number.to_le_bytes());
    format!(r#"{{"runtime":"op","op":{{"op":"crc32c"}},"tasks":[{{"data":"{data}"}}]}}"#).into()
}

async fn connect(endpoint: &Endpoint, protocol: Protocol, in_flight: u32) -> Vec<Sender> {
    let authority: Rc<str> = endpoint.server.trim_start_matches("https://").into();
    let mut connections = Vec::new();
    match protocol {
        Protocol::Http2 => {
            let io = TokioIo::new(handshake(endpoint, &authority, b"h2").await);
            let handshake = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = handshake.expect("HTTP/2");
            tokio::task::spawn_local(connection);
            connections.extend((0..in_flight).map(|_| Connection::Http2(sender.clone())));
        }
        Protocol::Http1 => {
            for _ in 0..in_flight {
                let io = TokioIo::new(handshake(endpoint, &authority, b"http/1.1").await);
                let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
                tokio::task::spawn_local(connection);
                connections.push(Connection::Http1(sender));
            }
        }
    }
    let with_authority = |connection| Sender {
        authority: Rc::clone(&authority),
        connection,
    };
    connections.into_iter().map(with_authority).collect()
}

/// Mutual TLS with the administrator's certificate.
async fn handshake(endpoint: &Endpoint, authority: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
    let tls = endpoint.tls.as_ref().expect("the server has TLS");
    let mut config = (*tls.config()).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(authority).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let name = host.to_owned().try_into().expect("an address");
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    connector.connect(name, stream).await.expect("TLS")
}
