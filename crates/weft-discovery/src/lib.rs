//! Finding servers on the local network with mDNS (RFC 6762) and DNS-SD (RFC 6763).
//!
//! A server [`advertise`]s itself as `_weft._tcp.local.`; a machine that wants to join and was
//! given no address [`find`]s it. What is found is a hint and nothing more: anybody on the network
//! can answer. Whether a server is the right one, the CA fingerprint in the join token decides in
//! the TLS handshake.
//!
//! Architecture invariant: this crate knows neither tokens nor certificates nor the cluster's state;
//! a fingerprint is text to it.

mod error;
mod found;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use if_addrs::Interface;
use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};

pub use error::{Error, Result};
pub use found::FoundServer;

/// The DNS-SD service type of a Weft server.
pub const SERVICE_TYPE: &str = "_weft._tcp.local.";
/// Longest time that a search takes, whatever the caller asks for.
pub const MAX_SEARCH: Duration = Duration::from_secs(30);
/// Most servers in an answer; on a network with more, a server has to be named.
pub const MAX_SERVERS: usize = 64;

/// The multicast groups of mDNS (RFC 6762, section 3).
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// How long [`find_first`] waits for more addresses of a server that it has found.
const MORE_ADDRESSES_MS: u64 = 200;
/// How long a withdrawal may take to be sent.
const WITHDRAW_MS: u64 = 500;

/// Names of the TXT record's fields.
const CLUSTER_KEY: &str = "cluster";
const FINGERPRINT_KEY: &str = "ca";
const SERVER_KEY: &str = "server";

/// Keeps a server known on the local network; dropping it withdraws the server, which can block for
/// up to half a second.
#[must_use = "the advertisement is withdrawn when this is dropped"]
pub struct Advertisement {
    daemon: ServiceDaemon,
    fullname: String,
}

impl fmt::Debug for Advertisement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Advertisement({})", self.fullname)
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        let wait = Duration::from_millis(WITHDRAW_MS);
        // A withdrawal that cannot be sent does no harm: the records expire by themselves.
        let _ = self
            .daemon
            .unregister(&self.fullname)
            .map(|sent| sent.recv_timeout(wait));
        let _ = self.daemon.shutdown();
    }
}

/// Makes a server known on all interfaces of this machine, and on those that appear later.
///
/// `port` is where it listens, `ca_fingerprint` the hexadecimal SHA-256 of the cluster CA's
/// certificate. Returns at once; the announcement happens in a thread of its own. A server that
/// listens on loopback only should not be advertised. On a machine without multicast nobody hears
/// it, which is no error here: the network may come later.
///
/// # Errors
/// [`Error::Multicast`] when no mDNS responder can be started; [`Error::Advertisement`] when a text
/// does not fit into a DNS record.
pub fn advertise(
    cluster: &str,
    port: u16,
    ca_fingerprint: &str,
    server_id: &str,
) -> Result<Advertisement> {
    let properties = [
        (CLUSTER_KEY, cluster),
        (FINGERPRINT_KEY, ca_fingerprint),
        (SERVER_KEY, server_id),
    ];
    let instance = instance_label(server_id, ca_fingerprint);
    let host = format!("weft-{instance}.local.");
    let service = ServiceInfo::new(SERVICE_TYPE, &instance, &host, (), port, &properties[..])
        .map_err(|error| Error::Advertisement(error.to_string()))?
        .enable_addr_auto();
    let fullname = service.get_fullname().to_owned();
    let daemon = start()?;
    let advertisement = Advertisement { daemon, fullname };
    advertisement
        .daemon
        .register(service)
        .map_err(|error| Error::Multicast(error.to_string()))?;
    tracing::debug!(
        service = advertisement.fullname,
        port,
        "advertising on the local network"
    );
    Ok(advertisement)
}

/// One DNS label (RFC 1035: at most 63 bytes) for a server. The CA is part of it, to tell apart
/// servers of the same id in clusters that do not know of each other.
fn instance_label(server_id: &str, ca_fingerprint: &str) -> String {
    const MAX_ID_CHARS: usize = 40;
    const CA_CHARS: usize = 8;
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let id: String = server_id.chars().take(MAX_ID_CHARS).map(plain).collect();
    let ca: String = ca_fingerprint.chars().take(CA_CHARS).map(plain).collect();
    format!("{id}-{ca}")
}

/// All servers that answer within `timeout` (at most [`MAX_SEARCH`]), at most [`MAX_SERVERS`], in
/// the order of their clusters and ids.
///
/// # Errors
/// [`Error::Multicast`] when this machine cannot ask.
pub async fn find(timeout: Duration) -> Result<Vec<FoundServer>> {
    search(timeout, |_| false).await
}

/// The addresses of this machine under which others may reach it: no loopback, no link-local.
pub fn local_addresses() -> Vec<std::net::IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = interfaces
        .iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local());
    addresses.map(Interface::ip).collect()
}

/// The first server that answers within `timeout` and whose CA has this fingerprint (any server for
/// `None`); `None` when there is none.
///
/// # Errors
/// [`Error::Multicast`] when this machine cannot ask.
pub async fn find_first(
    ca_fingerprint: Option<&str>,
    timeout: Duration,
) -> Result<Option<FoundServer>> {
    let wanted = ca_fingerprint.map(str::to_ascii_lowercase);
    let fits = move |server: &FoundServer| {
        wanted
            .as_ref()
            .is_none_or(|wanted| *wanted == server.fingerprint)
    };
    let found = search(timeout, fits.clone()).await?;
    Ok(found.into_iter().find(fits))
}

/// Searches until the time is over, or a moment after a server satisfies `enough`.
async fn search(
    timeout: Duration,
    enough: impl Fn(&FoundServer) -> bool + Send + 'static,
) -> Result<Vec<FoundServer>> {
    let deadline = Instant::now() + timeout.min(MAX_SEARCH);
    let search = move || {
        let daemon = start()?;
        let found = collect(&daemon, deadline, enough);
        // The thread of the daemon ends by itself; nothing of it is needed any more.
        let _ = daemon.shutdown();
        found
    };
    tokio::task::spawn_blocking(search)
        .await
        .map_err(|_| Error::Stopped)?
}

fn start() -> Result<ServiceDaemon> {
    ServiceDaemon::new().map_err(|error| Error::Multicast(error.to_string()))
}

fn collect(
    daemon: &ServiceDaemon,
    mut deadline: Instant,
    enough: impl Fn(&FoundServer) -> bool,
) -> Result<Vec<FoundServer>> {
    let events = daemon
        .browse(SERVICE_TYPE)
        .map_err(|error| Error::Multicast(error.to_string()))?;
    let mut servers = BTreeMap::new();
    while let Ok(event) = events.recv_deadline(deadline) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let Some(server) = FoundServer::from_service(&service) else {
                    continue;
                };
                if enough(&server) {
                    deadline =
                        deadline.min(Instant::now() + Duration::from_millis(MORE_ADDRESSES_MS));
                }
                if servers.len() < MAX_SERVERS || servers.contains_key(&service.fullname) {
                    servers.insert(service.fullname, server);
                }
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                servers.remove(&fullname);
            }
            _ => {}
        }
    }
    if servers.is_empty() {
        check_multicast()?;
    }
    let mut servers: Vec<_> = servers.into_values().collect();
    servers.sort_by(|a, b| (&a.cluster, &a.server_id).cmp(&(&b.cluster, &b.server_id)));
    Ok(servers)
}

/// Nobody answered: was it that nobody could be asked? The responder does not say, so this tries to
/// join the group on every interface, as it does.
fn check_multicast() -> Result<()> {
    let unavailable = |error: std::io::Error| Error::Multicast(error.to_string());
    let mut problem = "no network interface is up".to_owned();
    for interface in if_addrs::get_if_addrs().map_err(unavailable)? {
        match join_group(&interface) {
            Ok(()) => return Ok(()),
            Err(error) => problem = format!("{}: {error}", interface.name),
        }
    }
    Err(Error::Multicast(problem))
}

fn join_group(interface: &Interface) -> std::io::Result<()> {
    match interface.ip() {
        IpAddr::V4(address) => {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.join_multicast_v4(&GROUP_V4, &address)
        }
        IpAddr::V6(_) => {
            let index = interface.index.unwrap_or_default();
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?.join_multicast_v6(&GROUP_V6, index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_server_id_becomes_one_dns_label() {
        assert_eq!(
            instance_label("rack.1_a", "0123456789abcdef"),
            "rack-1-a-01234567"
        );
        let longest = instance_label(&"x".repeat(63), &"f".repeat(64));
        assert!("weft-".len() + longest.len() <= 63, "{longest}");
    }

    #[test]
    fn a_text_too_long_for_a_dns_record_is_refused() {
        let refused = advertise(&"x".repeat(255), 1, &"f".repeat(64), "s1").unwrap_err();
        assert!(matches!(refused, Error::Advertisement(_)), "{refused}");
    }
}
