//! The listeners of published ports: one a port, shared with other agents of the same machine,
//! tried again while another process holds the port.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol as Transport, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use weft_types::Protocol;

use crate::core::Core;
use crate::metrics::{Gauge, bump};
use crate::told::Told;
use crate::{PortError, http, tcp, wire};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// The wait before a port that could not be bound is tried again: first and longest.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// After a failed accept (out of file descriptors, most likely) the wait before the next.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listeners of a proxy.
#[derive(Debug)]
pub(crate) struct Listeners {
    core: Arc<Core>,
    listen: Option<IpAddr>,
    open: Mutex<HashMap<u16, CancellationToken>>,
    told: Arc<Told>,
}

impl Listeners {
    pub(crate) fn new(core: Arc<Core>, listen: Option<IpAddr>) -> Self {
        Self {
            core,
            listen,
            open: Mutex::default(),
            told: Arc::new(Told::new()),
        }
    }

    pub(crate) fn errors(&self) -> watch::Receiver<Vec<PortError>> {
        self.told.watch()
    }

    /// Listens on the ports that the table has, and on no others.
    pub(crate) fn follow_table(&self) {
        let mut open = self.open.lock();
        let routes = self.core.routes.load_full();
        open.retain(|port, closing| {
            let stays = routes.ports.contains_key(port);
            if !stays {
                closing.cancel();
            }
            stays
        });
        let ports = routes.ports.keys().copied().collect();
        self.told.table(&routes.conflicts, &ports);
        for &port in routes.ports.keys() {
            open.entry(port).or_insert_with(|| self.spawn(port));
        }
    }

    fn spawn(&self, port: u16) -> CancellationToken {
        let closing = self.core.stop.child_token();
        let listener = Listener {
            core: Arc::clone(&self.core),
            listen: self.listen,
            port,
            closing: closing.clone(),
            cut: self.core.stop.child_token(),
            slots: Arc::new(Semaphore::new(self.core.limits.port_connections)),
            told: Arc::clone(&self.told),
        };
        self.core.tasks.spawn(listener.run());
        closing
    }
}

/// One published port.
struct Listener {
    core: Arc<Core>,
    listen: Option<IpAddr>,
    port: u16,
    /// Cancelled when the port leaves the table.
    closing: CancellationToken,
    /// Cancelled when its connections had their time after that.
    cut: CancellationToken,
    slots: Arc<Semaphore>,
    told: Arc<Told>,
}

impl Listener {
    async fn run(self) {
        let Some(listener) = self.listen().await else {
            return;
        };
        let listening = Gauge::up(&self.core.metrics.ports_listening);
        self.accept_all(listener).await;
        drop(listening);
        tokio::select! {
            () = tokio::time::sleep(self.core.limits.linger) => self.cut.cancel(),
            () = self.core.stop.cancelled() => {}
        }
    }

    /// Binds the port, trying again while it cannot be had; `None` when it is not wanted any more.
    async fn listen(&self) -> Option<TcpListener> {
        let mut wait = FIRST_RETRY;
        loop {
            match bind(self.listen, self.port) {
                Ok(listener) => {
                    self.told.bound(self.port);
                    return Some(listener);
                }
                Err(error) => self.tell(&error),
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LAST_RETRY),
                () = self.closing.cancelled() => return None,
            }
        }
    }

    /// Says why the port is not served.
    fn tell(&self, error: &io::Error) {
        let Some(route) = self.core.routes.load().ports.get(&self.port).cloned() else {
            return;
        };
        let text = explain(self.port, error);
        tracing::warn!(service = route.name, text, "a published port is not served");
        self.told.unbound(PortError {
            port: self.port,
            workload: route.workload,
            text,
        });
    }

    async fn accept_all(&self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, client)) => self.accept(stream, client.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!(port = self.port, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn accept(&self, stream: TcpStream, client: IpAddr) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return bump(&self.core.metrics.connections_refused);
        };
        bump(&self.core.metrics.connections);
        let route = self.core.routes.load().ports.get(&self.port).cloned();
        let Some(route) = route else { return };
        let (core, port) = (Arc::clone(&self.core), self.port);
        let (closing, cut) = (self.closing.clone(), self.cut.clone());
        self.core.tasks.spawn(async move {
            let _slot = slot;
            let _open = Gauge::up(&core.metrics.connections_open);
            wire::tune(&stream);
            match route.protocol {
                Protocol::Tcp => tcp::serve(&core, port, stream, &cut).await,
                Protocol::Http => {
                    http::serve_clients(&core, port, stream, client, closing, cut).await;
                }
            }
        });
    }
}

fn explain(port: u16, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} is used by another process; stop it (`ss -ltnp 'sport = :{port}'` says which) \
             or give the service another port"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {port} may not be listened on; run the agent with CAP_NET_BIND_SERVICE or give the \
             service a port from 1024"
        ),
        _ => format!("port {port} cannot be listened on: {error}"),
    }
}

fn bind(listen: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match listen {
        Some(address) => bind_to(SocketAddr::new(address, port)),
        None => match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
            // A machine without IPv6.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind_to((Ipv4Addr::UNSPECIFIED, port).into())
            }
            bound => bound,
        },
    }
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Transport::TCP),
    )?;
    if address.ip().is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
