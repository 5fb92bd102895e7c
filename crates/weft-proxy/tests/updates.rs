//! No request is lost while replicas come, go, and are killed.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use weft_proxy::{Limits, Options, Proxy};
use weft_types::Protocol;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const CLIENTS: usize = 6;

/// Three nodes with one published port each (they share one machine, but not the port here, so
/// that each is known to be asked).
struct Cluster {
    _ca: Ca,
    proxies: Vec<Proxy>,
    ports: Vec<u16>,
    /// By number, with the index of its node.
    replicas: BTreeMap<u32, (usize, Replica)>,
    next: u32,
}

impl Cluster {
    async fn new() -> Self {
        let ca = Ca::new();
        let mut proxies = Vec::new();
        for name in NODES {
            let proxy = ca.proxy(name).await;
            proxy.set_members(NODES.map(node));
            proxies.push(proxy);
        }
        let ports = NODES.map(|_| free_port()).to_vec();
        let mut cluster = Self {
            _ca: ca,
            proxies,
            ports,
            replicas: BTreeMap::new(),
            next: 1,
        };
        for at in 0..NODES.len() {
            cluster.start(at).await;
        }
        cluster.publish();
        cluster
    }

    /// A new replica that is ready on its node; others do not know of it yet.
    async fn start(&mut self, at: usize) -> u32 {
        let number = self.next;
        self.next += 1;
        let replica = Replica::http_after(number, Duration::from_millis(2)).await;
        self.proxies[at].set_local(unit(number), ready(replica.address));
        self.replicas.insert(number, (at, replica));
        number
    }

    /// Sends the table to all nodes, as the server does.
    fn publish(&self) {
        let placed: Vec<_> = self
            .replicas
            .iter()
            .map(|(number, (at, _))| Placed {
                number: *number,
                node: NODES[*at],
                peer: self.proxies[*at].peer_port().map(loopback),
            })
            .collect();
        for (proxy, port) in self.proxies.iter().zip(&self.ports) {
            proxy.set_table(table(*port, Protocol::Http, &placed));
        }
    }

    /// Stops a replica as the agent does: drain, stop, forget. Only afterwards do others hear.
    async fn stop(&mut self, number: u32) {
        let (at, replica) = self.replicas.remove(&number).unwrap();
        let drained = self.proxies[at].drain(unit(number), DEADLINE).await;
        assert_eq!(drained.remaining, 0);
        replica.kill();
        self.proxies[at].remove_local(unit(number));
    }
}

/// What a client has seen.
#[derive(Default)]
struct Seen {
    answered: u64,
    failed: Vec<String>,
}

/// Sends requests over kept connections until told to stop; every third is not idempotent.
async fn load(port: u16, stop: Arc<AtomicBool>, posts: bool) -> (Seen, Seen) {
    let (mut gets, mut others) = (Seen::default(), Seen::default());
    let mut client = Client::connect(port).await;
    for count in 0u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let post = posts && count % 3 == 0;
        let answer = match post {
            true => client.post("pay").await,
            false => client.get("/").await,
        };
        let seen = if post { &mut others } else { &mut gets };
        match answer {
            Ok(answer) if answer.first == "HTTP/1.1 200 OK" => seen.answered += 1,
            Ok(answer) => seen
                .failed
                .push(format!("{} {}", answer.first, answer.text())),
            Err(error) => {
                seen.failed.push(error.to_string());
                client = Client::connect(port).await;
            }
        }
    }
    (gets, others)
}

struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<(Seen, Seen)>>,
}

impl Load {
    fn on(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|client| cluster.ports[client % NODES.len()])
            .map(|port| tokio::spawn(load(port, stop.clone(), true)))
            .collect();
        Self { stop, clients }
    }

    async fn end(self) -> (Seen, Seen) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut gets, mut others) = (Seen::default(), Seen::default());
        for client in self.clients {
            let (get, other) = client.await.unwrap();
            for (sum, one) in [(&mut gets, get), (&mut others, other)] {
                sum.answered += one.answered;
                sum.failed.extend(one.failed);
            }
        }
        (gets, others)
    }
}

fn served(cluster: &Cluster) -> u64 {
    cluster.replicas.values().map(|(_, r)| r.served()).sum()
}

async fn more(cluster: &Cluster, requests: u64) {
    let before = served(cluster);
    until("requests are served", || {
        served(cluster) >= before + requests
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_loses_no_request() {
    let mut cluster = Cluster::new().await;
    let load = Load::on(&cluster);
    for round in 0..24 {
        let at = round % NODES.len();
        let old = *cluster
            .replicas
            .iter()
            .find(|(_, (on, _))| *on == at)
            .unwrap()
            .0;
        cluster.start(at).await;
        cluster.publish();
        more(&cluster, 20).await;
        // Other nodes go on sending to the old one until they hear of it.
        cluster.stop(old).await;
        more(&cluster, 20).await;
        cluster.publish();
    }
    let (gets, others) = load.end().await;
    println!("{} and {} requests", gets.answered, others.answered);
    assert_eq!(gets.failed, Vec::<String>::new());
    assert_eq!(others.failed, Vec::<String>::new());
    assert!(gets.answered > 500 && others.answered > 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_killed_replicas_only_requests_that_must_not_run_twice_may_fail() {
    let mut cluster = Cluster::new().await;
    let load = Load::on(&cluster);
    for round in 0..12 {
        let at = round % NODES.len();
        let old = *cluster
            .replicas
            .iter()
            .find(|(_, (on, _))| *on == at)
            .unwrap()
            .0;
        cluster.start(at).await;
        cluster.publish();
        more(&cluster, 20).await;
        let (_, replica) = cluster.replicas.remove(&old).unwrap();
        replica.kill();
        more(&cluster, 20).await;
        cluster.proxies[at].remove_local(unit(old));
        cluster.publish();
    }
    let (gets, others) = load.end().await;
    println!(
        "{} and {} requests, {} failed",
        gets.answered,
        others.answered,
        others.failed.len()
    );
    assert_eq!(gets.failed, Vec::<String>::new());
    // At most those that were in flight at the killed replica.
    assert!(others.failed.len() <= 12 * CLIENTS, "{:?}", others.failed);
    assert!(gets.answered > 200 && others.answered > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_restarts_in_place_and_no_request_is_lost() {
    let ca = Ca::new();
    let limits = Limits {
        ready_wait: DEADLINE,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..ca.options("n1")
    };
    let proxy = Proxy::start(options).await.unwrap();
    let port = free_port();
    let placed = [Placed {
        number: 1,
        node: "n1",
        peer: None,
    }];
    let mut replica = Replica::http(1).await;
    proxy.set_local(unit(1), ready(replica.address));
    proxy.set_table(table(port, Protocol::Http, &placed));
    let stop = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(load(port, stop.clone(), true));
    for _ in 0..10 {
        until("requests are served", || replica.served() > 20).await;
        assert_eq!(proxy.drain(unit(1), DEADLINE).await.remaining, 0);
        proxy.remove_local(unit(1));
        replica = Replica::http(1).await;
        proxy.set_local(unit(1), ready(replica.address));
    }
    stop.store(true, Ordering::SeqCst);
    let (gets, others) = client.await.unwrap();
    assert_eq!((gets.failed, others.failed), (Vec::new(), Vec::new()));
}
