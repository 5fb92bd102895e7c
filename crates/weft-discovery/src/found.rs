//! A server as somebody on the network describes it. Nothing in it is trusted; it is checked only
//! as far as it takes to print and compare it.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mdns_sd::{ResolvedService, ScopedIp};

use crate::{CLUSTER_KEY, FINGERPRINT_KEY, SERVER_KEY};

/// Most addresses of one server.
const MAX_ADDRESSES: usize = 16;
/// Hexadecimal digits of a SHA-256 fingerprint.
const FINGERPRINT_CHARS: usize = 64;
/// The high bits of an IPv6 link-local address, `fe80::/10`.
const LINK_LOCAL_MASK: u16 = 0xffc0;
const LINK_LOCAL: u16 = 0xfe80;

/// A server that has answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundServer {
    /// Where it listens, the most useful address first: at least one, at most sixteen.
    pub addresses: Vec<SocketAddr>,
    /// The name of its cluster.
    pub cluster: String,
    /// SHA-256 of its CA's certificate, in lower-case hexadecimal.
    pub fingerprint: String,
    /// Its id within the cluster.
    pub server_id: String,
}

impl FoundServer {
    /// `None` when a field is missing or could not be shown safely.
    pub(crate) fn from_service(service: &ResolvedService) -> Option<Self> {
        let text = |key| service.txt_properties.get_property_val_str(key);
        let fingerprint = text(FINGERPRINT_KEY)
            .filter(|text| is_fingerprint(text))?
            .to_ascii_lowercase();
        let mut addresses: Vec<_> = service
            .addresses
            .iter()
            .map(|ip| socket_address(ip, service.port))
            .collect();
        addresses.sort_by_key(|address| (rank(address.ip()), *address));
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return None;
        }
        Some(Self {
            addresses,
            cluster: text(CLUSTER_KEY).filter(|text| is_name(text))?.to_owned(),
            fingerprint,
            server_id: text(SERVER_KEY).filter(|text| is_name(text))?.to_owned(),
        })
    }
}

fn is_fingerprint(text: &str) -> bool {
    text.len() == FINGERPRINT_CHARS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Letters, digits and a few marks: nothing that a terminal would obey.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// A link-local address is of use only together with the interface on which it was seen.
fn socket_address(ip: &ScopedIp, port: u16) -> SocketAddr {
    match ip {
        ScopedIp::V6(v6) if is_link_local(ip.to_ip_addr()) => {
            SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index).into()
        }
        _ => SocketAddr::new(ip.to_ip_addr(), port),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.segments()[0] & LINK_LOCAL_MASK == LINK_LOCAL)
}

/// The order in which to try addresses: IPv4 and global IPv6 before link-local ones, and loopback,
/// which can only be this machine, last.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        _ if ip.is_loopback() => 3,
        _ if is_link_local(ip) => 2,
        IpAddr::V6(_) => 1,
        IpAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn useful_addresses_are_tried_first() {
        let mut ips: Vec<IpAddr> = ["::1", "fe80::1", "fd00::2", "127.0.0.1", "192.168.1.2"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        ips.sort_by_key(|ip| (rank(*ip), *ip));
        let order: Vec<_> = ips.iter().map(ToString::to_string).collect();
        assert_eq!(
            order,
            ["192.168.1.2", "fd00::2", "fe80::1", "127.0.0.1", "::1"]
        );
    }

    #[test]
    fn names_that_a_terminal_would_obey_are_not_shown() {
        for bad in ["", "a b", "\u{1b}[31mred", "a\nb", "ä"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("home.lan-1"));
        assert!(is_fingerprint(&"a1".repeat(32)) && !is_fingerprint("a1"));
    }
}
