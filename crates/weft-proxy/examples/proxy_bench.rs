//! Requests a second and added latency of a published port beside the backend alone.
//!
//! `cargo run --release -p weft-proxy --example proxy_bench [-- SECONDS]`
//!
//! One process has it all: the load generator, the proxies, the backend. Each figure is the median
//! of five rounds; a table for people on stderr, one line of JSON on stdout.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_pki::{Authority, Credentials, PeerTls, PrivateKey};
use weft_proxy::{Endpoint, Local, Options, Peers, Proxy, ServicePort};
use weft_types::{NodeId, Protocol, Timestamp, UnitId, WorkloadId};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: web.lan\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const UNIT: UnitId = UnitId {
    workload: WorkloadId(1),
    number: 1,
};
const TARGET: u16 = 8080;
const ROUNDS: usize = 5;
const CONNECTIONS: usize = 32;
const HTTP_PORT: u16 = 28_080;
const TCP_PORT: u16 = 28_081;
/// The same ports of the node that has no replica.
const AWAY: u16 = 2;

#[tokio::main]
async fn main() -> Outcome<()> {
    let seconds = std::env::args()
        .nth(1)
        .map_or(Ok(2.0), |text| text.parse())?;
    let round = Duration::from_secs_f64(seconds);
    let backend = backend().await?;
    let (near, far) = nodes(backend).await?;
    let ways = [
        ("backend alone", backend),
        ("tcp, same node", loopback(TCP_PORT)),
        ("http, same node", loopback(HTTP_PORT)),
        ("tcp, other node", loopback(TCP_PORT + AWAY)),
        ("http, other node", loopback(HTTP_PORT + AWAY)),
    ];
    let mut figures = Vec::new();
    eprintln!(
        "{:<18} {:>11} {:>11} {:>11}",
        "way", "requests/s", "p50 1 conn", "p99 1 conn"
    );
    for (way, address) in ways {
        let loaded = median(measure(address, CONNECTIONS, round).await?, |r| {
            r.per_second
        });
        let alone = measure(address, 1, round).await?;
        let (p50, p99) = (median(alone.clone(), |r| r.p50), median(alone, |r| r.p99));
        eprintln!("{way:<18} {loaded:>11.0} {p50:>8.0} µs {p99:>8.0} µs");
        figures.push(format!(
            "{{\"way\":\"{way}\",\"per_second\":{loaded:.0},\"p50_us\":{p50:.1},\"p99_us\":{p99:.1}}}"
        ));
    }
    println!("[{}]", figures.join(","));
    near.shutdown().await;
    far.shutdown().await;
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Answers each request with the same bytes.
async fn backend() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind(loopback(0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// A node with the replica, and one without.
async fn nodes(backend: SocketAddr) -> Outcome<(Proxy, Proxy)> {
    let dir = std::env::temp_dir().join(format!("weft-proxy-bench-{}", std::process::id()));
    let authority = Authority::create(&dir, &"bench".parse()?, now()?)?;
    std::fs::remove_dir_all(&dir)?;
    let (near, far) = (node(&authority, "n1").await?, node(&authority, "n2").await?);
    near.set_local(
        UNIT,
        Local {
            ready: true,
            draining: false,
            targets: HashMap::from([(TARGET, backend)]),
        },
    );
    let peer = near.peer_port().map(loopback);
    let ports = |offset| {
        let http = port(HTTP_PORT + offset, Protocol::Http, peer)?;
        Outcome::Ok(vec![http, port(TCP_PORT + offset, Protocol::Tcp, peer)?])
    };
    for proxy in [&near, &far] {
        proxy.set_members([id("n1")?, id("n2")?]);
    }
    near.set_table(ports(0)?);
    far.set_table(ports(AWAY)?);
    Ok((near, far))
}

fn port(port: u16, protocol: Protocol, peer: Option<SocketAddr>) -> Outcome<ServicePort> {
    Ok(ServicePort {
        workload: UNIT.workload,
        name: "bench".to_owned(),
        port,
        protocol,
        endpoints: vec![Endpoint {
            unit: UNIT,
            node: id("n1")?,
            peer,
            target: TARGET,
        }],
    })
}

fn id(name: &str) -> Outcome<NodeId> {
    Ok(name.parse()?)
}

fn now() -> Outcome<Timestamp> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp(0).plus(since_epoch))
}

async fn node(authority: &Authority, name: &str) -> Outcome<Proxy> {
    let key = PrivateKey::generate()?;
    let day = Duration::from_secs(86_400);
    let certificate = authority.sign_node_csr(&key.csr()?, &id(name)?, day, now()?)?;
    let credentials = Credentials {
        certificate,
        key,
        ca: authority.certificate().clone(),
    };
    let options = Options {
        listen: Some([127, 0, 0, 1].into()),
        peers: Some(Peers {
            listen: loopback(0),
            tls: Arc::new(PeerTls::new(&credentials)?),
        }),
        ..Options::new(id(name)?)
    };
    Ok(Proxy::start(options).await?)
}

/// What one round measured; latencies in microseconds.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn median(rounds: Vec<Round>, figure: impl Fn(&Round) -> f64) -> f64 {
    let mut figures: Vec<_> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn measure(address: SocketAddr, connections: usize, length: Duration) -> Outcome<Vec<Round>> {
    // Warm: connections to replicas and between nodes are there.
    one_round(address, connections, length / 10).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(one_round(address, connections, length).await?);
    }
    Ok(rounds)
}

async fn one_round(address: SocketAddr, connections: usize, length: Duration) -> Outcome<Round> {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(client(address, stop.clone())))
        .collect();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await??);
    }
    let per_second = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        latencies
            .get(index)
            .map_or(f64::NAN, |l| l.as_secs_f64() * 1e6)
    };
    Ok(Round {
        per_second,
        p50: at(0.5),
        p99: at(0.99),
    })
}

/// One request after the other over one connection, until told to stop.
async fn client(address: SocketAddr, stop: Arc<AtomicBool>) -> Outcome<Vec<Duration>> {
    let mut stream = connect(address).await?;
    let mut latencies = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        stream.write_all(REQUEST).await?;
        let mut got = 0;
        while !buffer[..got].ends_with(b"\r\n\r\nhello") {
            match stream.read(&mut buffer[got..]).await? {
                0 => return Err(format!("{address} closed: {got} bytes").into()),
                read => got += read,
            }
        }
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

/// The ports are listened on soon after the table is there.
async fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
