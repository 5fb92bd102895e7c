//! Networks of containers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where subnets are picked from.
const POOL: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 0);
const POOL_PREFIX: u8 = 16;
/// Room for about a thousand containers.
const PICKED_PREFIX: u8 = 22;

/// An IPv4 network in private use: `10.88.4.0/22`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// Number of leading bits that are the network's.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The bridge's own address: the first one.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Whether an address is of this network.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & !(self.size() - 1) == self.base
    }

    fn overlaps(&self, ip: Ipv4Addr, prefix: u8) -> bool {
        let shorter = self.prefix.min(prefix);
        let mask = u32::MAX.checked_shl(32 - u32::from(shorter)).unwrap_or(0);
        u32::from(ip) & mask == self.base & mask
    }

    /// Every address for a container, from the one after this on: addresses are used again late.
    pub(super) fn hosts_after(&self, last: Option<Ipv4Addr>) -> impl Iterator<Item = Ipv4Addr> {
        let hosts = self.size() - 3;
        let begin = match last {
            Some(last) if self.contains(last) => (u32::from(last) - self.base).saturating_sub(1),
            _ => 0,
        };
        let first = self.base + 2;
        (0..hosts).map(move |step| Ipv4Addr::from(first + (begin + step) % hosts))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is not a network such as 10.88.4.0/22");
        let (ip, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let base = u32::from(ip.parse::<Ipv4Addr>().map_err(|_| malformed())?);
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        if !(8..=29).contains(&prefix) {
            return Err(format!("{text:?}: between /8 and /29"));
        }
        let subnet = Self { base, prefix };
        if base & (subnet.size() - 1) != 0 {
            return Err(format!(
                "{text:?} is an address in a network, not the network"
            ));
        }
        Ok(subnet)
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A network of the pool that no route leads to; which one depends on the seed, so that several
/// nodes seldom want the same.
pub(super) fn choose(seed: u32, routes: &[(Ipv4Addr, u8)]) -> Option<Subnet> {
    let count = 1u32 << (PICKED_PREFIX - POOL_PREFIX);
    (0..count)
        .map(|step| Subnet {
            base: u32::from(POOL)
                + ((seed.wrapping_add(step)) % count) * (1 << (32 - PICKED_PREFIX)),
            prefix: PICKED_PREFIX,
        })
        .find(|subnet| {
            !routes
                .iter()
                .any(|(ip, prefix)| subnet.overlaps(*ip, *prefix))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_that_is_routed_already_is_not_picked() {
        let free = choose(0, &[]).unwrap();
        assert_eq!(free.to_string(), "10.88.0.0/22");
        let other = choose(0, &[(Ipv4Addr::new(10, 88, 3, 7), 32)]).unwrap();
        assert_eq!(other.to_string(), "10.88.4.0/22");
        assert_eq!(choose(0, &[(Ipv4Addr::new(10, 0, 0, 0), 8)]), None);
    }

    #[test]
    fn addresses_go_round_and_leave_out_gateway_and_broadcast() {
        let subnet: Subnet = "10.9.0.0/29".parse().unwrap();
        let all: Vec<u8> = subnet.hosts_after(None).map(|ip| ip.octets()[3]).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        let after: Vec<u8> = subnet
            .hosts_after(Some(Ipv4Addr::new(10, 9, 0, 5)))
            .map(|ip| ip.octets()[3])
            .collect();
        assert_eq!(after, [6, 2, 3, 4, 5]);
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 9, 0, 1));
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for bad in [
            "10.9.0.1/29",
            "10.9.0.0",
            "10.9.0.0/33",
            "10.9.0.0/2",
            "x/24",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
