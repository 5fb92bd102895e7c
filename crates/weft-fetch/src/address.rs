//! Which addresses may be asked. Names are checked after they were resolved, and the connection is
//! made to the address that was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Metadata services of clouds that are not link-local: Alibaba, Oracle, Azure, AWS.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// The address that is really reached: those of version 4 within ones of version 6 (mapped, NAT64,
/// 6to4) are taken out.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff | 0) if !v6.is_loopback() && !v6.is_unspecified() => v4(g, h),
        (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        _ => address,
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            v4.is_loopback() || v4.is_private() || is_shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

fn is_never_allowed(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    special || address.is_multicast() || METADATA.contains(&address)
}

/// The addresses that may be asked: those of the public internet, and private ones (loopback, those
/// of local networks) that somebody has opened. Addresses of the local link and those under which
/// clouds keep a machine's credentials are never among them.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    private: Arc<[IpNet]>,
}

impl Allowed {
    /// Public addresses and these networks.
    pub fn also(private: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            private: private.into_iter().collect(),
        }
    }

    /// Public addresses and every private one.
    pub fn any_private() -> Self {
        Self::also([IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())])
    }

    /// Whether an address is one of them.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = reached(address);
        let is_open = || self.private.iter().any(|net| net.contains(&address));
        !is_never_allowed(address) && (!is_private(address) || is_open())
    }
}

/// A host with an address that may not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0} has an address that this node may not fetch from")]
pub(crate) struct Forbidden(pub(crate) String);

/// Resolves names by the system and refuses those with an address that is not allowed.
#[derive(Clone, Debug)]
pub(crate) struct Checked(pub(crate) Allowed);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let all: Vec<SocketAddr> = found.collect();
            // One bad address among good ones is an attempt to be counted as good.
            if all.iter().any(|at| !allowed.allows(at.ip())) {
                return Err(Forbidden(host).into());
            }
            Ok(Box::new(all.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_link_local_addresses_are_refused_in_every_disguise() {
        for bad in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(
                !Allowed::any_private().allows(bad.parse().unwrap()),
                "{bad}"
            );
        }
    }

    #[test]
    fn private_addresses_are_a_choice() {
        for private in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "100.64.0.1",
            "fd12::1",
            "::ffff:10.0.0.1",
        ] {
            let address = private.parse().unwrap();
            assert!(Allowed::any_private().allows(address), "{private}");
            assert!(!Allowed::default().allows(address), "{private}");
        }
        for public in ["192.0.2.1", "2001:db8::1", "8.8.8.8"] {
            assert!(
                Allowed::default().allows(public.parse().unwrap()),
                "{public}"
            );
        }
    }

    #[test]
    fn a_network_is_opened_alone() {
        let some = Allowed::also(["10.1.0.0/16".parse().unwrap()]);
        assert!(some.allows("10.1.2.3".parse().unwrap()));
        assert!(some.allows("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!some.allows("10.2.0.1".parse().unwrap()));
        assert!(!some.allows("127.0.0.1".parse().unwrap()));
    }
}
