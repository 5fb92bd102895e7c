//! A cluster of proxies in one process, with real certificates, sockets and replicas.
#![allow(dead_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weft_pki::{Authority, Credentials, PeerTls, PrivateKey};
use weft_proxy::{Endpoint, Local, Options, Peers, Proxy, ServicePort};
use weft_types::{NodeId, Protocol, Timestamp, UnitId, WorkloadId};

pub const TARGET: u16 = 8080;
pub const WORKLOAD: WorkloadId = WorkloadId(7);
const DAY: Duration = Duration::from_secs(86_400);
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn unit(number: u32) -> UnitId {
    UnitId {
        workload: WORKLOAD,
        number,
    }
}

pub fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A port for proxies, which nobody listens on. A socket that shares it, as proxies do, holds it
/// until the test's process ends: otherwise the system gives it to the next replica.
pub fn free_port() -> u16 {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_only_v6(false).unwrap();
    let any: SocketAddr = ([0u16; 8], 0).into();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address.port()
}

pub fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A cluster's CA.
pub struct Ca {
    pub authority: Authority,
    _dir: TempDir,
}

pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    Timestamp(0).plus(since_epoch)
}

impl Ca {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = Timestamp(now().as_millis() - 60_000);
        let authority = Authority::create(&dir.path().join("ca"), &"home".parse().unwrap(), at);
        Self {
            authority: authority.unwrap(),
            _dir: dir,
        }
    }

    pub fn credentials(&self, name: &str) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let request = key.csr().unwrap();
        let certificate = self
            .authority
            .sign_node_csr(&request, &node(name), DAY, now())
            .unwrap();
        Credentials {
            certificate,
            key,
            ca: self.authority.certificate().clone(),
        }
    }

    pub fn tls(&self, name: &str) -> Arc<PeerTls> {
        Arc::new(PeerTls::new(&self.credentials(name)).unwrap())
    }

    pub fn options(&self, name: &str) -> Options {
        Options {
            listen: Some([127, 0, 0, 1].into()),
            peers: Some(Peers {
                listen: loopback(0),
                tls: self.tls(name),
            }),
            ..Options::new(node(name))
        }
    }

    pub async fn proxy(&self, name: &str) -> Proxy {
        Proxy::start(self.options(name)).await.unwrap()
    }
}

/// A replica that runs at a node.
#[derive(Clone)]
pub struct Placed {
    pub number: u32,
    pub node: &'static str,
    pub peer: Option<SocketAddr>,
}

/// A table with one port.
pub fn table(port: u16, protocol: Protocol, placed: &[Placed]) -> Vec<ServicePort> {
    let endpoints = placed.iter().map(|placed| Endpoint {
        unit: unit(placed.number),
        node: node(placed.node),
        peer: placed.peer,
        target: TARGET,
    });
    vec![ServicePort {
        workload: WORKLOAD,
        name: "web".to_owned(),
        port,
        protocol,
        endpoints: endpoints.collect(),
    }]
}

pub fn ready(address: SocketAddr) -> Local {
    Local {
        ready: true,
        draining: false,
        targets: HashMap::from([(TARGET, address)]),
    }
}

/// A replica: an HTTP/1.1 server with keep-alive that says which one it is, in plain Tokio so
/// that nothing of the proxy's own HTTP is tested against itself.
pub struct Replica {
    pub address: SocketAddr,
    pub served: Arc<AtomicU64>,
    alive: CancellationToken,
}

impl Replica {
    pub async fn http(number: u32) -> Self {
        Self::http_after(number, Duration::ZERO).await
    }

    /// Takes its time for each answer.
    pub async fn http_after(number: u32, delay: Duration) -> Self {
        Self::start(move |stream, served| async move {
            let _ = answer_all(stream, number, delay, &served).await;
        })
        .await
    }

    /// Sends back what it gets until the client has ended, and then a farewell.
    pub async fn echo(number: u32) -> Self {
        Self::start(move |mut stream, served| async move {
            served.fetch_add(1, Ordering::SeqCst);
            let mut got = Vec::new();
            if stream.read_to_end(&mut got).await.is_ok() {
                let _ = stream.write_all(&got).await;
                let _ = stream.write_all(format!(" from {number}").as_bytes()).await;
            }
        })
        .await
    }

    pub async fn start<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<AtomicU64>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (served, alive) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let (count, token) = (served.clone(), alive.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = token.cancelled() => return,
                };
                let connection = serve(accepted.unwrap().0, count.clone());
                let token = token.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = token.cancelled() => {}
                    }
                });
            }
        });
        Self {
            address,
            served,
            alive,
        }
    }

    /// As `kill -9` does: connections break, the port refuses.
    pub fn kill(&self) {
        self.alive.cancel();
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn answer_all(
    stream: TcpStream,
    number: u32,
    delay: Duration,
    served: &AtomicU64,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(message) = read_message(&mut stream).await? {
        tokio::time::sleep(delay).await;
        served.fetch_add(1, Ordering::SeqCst);
        let body = format!("{number} {} {}", message.first, message.body.len());
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-saw: {}\r\n\r\n{body}",
            body.len(),
            message.headers.join("|"),
        );
        stream.write_all(text.as_bytes()).await?;
    }
    Ok(())
}

/// A request or an answer.
#[derive(Debug)]
pub struct Message {
    pub first: String,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let (found, value) = header.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads a message with a length or chunks; `None` at a clean end before one.
pub async fn read_message(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Message>> {
    use tokio::io::AsyncBufReadExt;
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return match lines.is_empty() {
                true => Ok(None),
                false => Err(std::io::ErrorKind::UnexpectedEof.into()),
            };
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut message = Message {
        first: lines.remove(0),
        headers: lines,
        body: Vec::new(),
    };
    if message.header("transfer-encoding").is_some() {
        read_chunks(stream, &mut message.body).await?;
    } else if let Some(length) = message.header("content-length") {
        message.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut message.body).await?;
    }
    Ok(Some(message))
}

async fn read_chunks(stream: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> std::io::Result<()> {
    use tokio::io::AsyncBufReadExt;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let length = usize::from_str_radix(line.trim(), 16)
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await?;
        body.extend_from_slice(&chunk[..length]);
        if length == 0 {
            return Ok(());
        }
    }
}

/// A client with one connection.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects, waiting until the port is listened on.
    pub async fn connect(port: u16) -> Self {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match TcpStream::connect(loopback(port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).unwrap();
                    return Self {
                        stream: BufReader::new(stream),
                    };
                }
                Err(error) => assert!(Instant::now() < deadline, "port {port}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn send(&mut self, text: &str) -> std::io::Result<Message> {
        self.stream.write_all(text.as_bytes()).await?;
        let message = tokio::time::timeout(DEADLINE, read_message(&mut self.stream)).await??;
        message.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    pub async fn get(&mut self, path: &str) -> std::io::Result<Message> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: web.lan\r\n\r\n"))
            .await
    }

    pub async fn post(&mut self, body: &str) -> std::io::Result<Message> {
        let length = body.len();
        self.send(&format!(
            "POST / HTTP/1.1\r\nhost: web.lan\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

/// One request over a connection of its own.
pub async fn get(port: u16) -> Message {
    Client::connect(port).await.get("/").await.unwrap()
}
