//! The node's bridge: its name, subnet and addresses, and the way out.
//!
//! All of it is in the network namespace in which the agent runs. The bridge carries a hardware
//! address made from the node's id, by which it is known to be ours; of two agents in one namespace
//! the second takes another name and another subnet.

mod nat;
mod netlink;
mod subnet;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weft_types::UnitId;
use weft_unit::Missing;

use crate::Error;
use crate::files;
use crate::lock::FileLock;
use crate::names;

pub(crate) use netlink::{Mac, Netlink};
pub use subnet::Subnet;

const DEFAULT_BRIDGE: &str = "weft0";

/// What is remembered of the bridge, so that units find the same after a restart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) subnet: Subnet,
    /// Whether all of it was made, with the way out.
    pub(crate) is_ready: bool,
}

/// How one container is connected to the bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) bridge: String,
    /// Name of the pair's end on the node.
    pub(crate) veth: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mac: Mac,
}

/// The network of one node. What there is stands in files, so that it is found again.
///
/// ```text
///  network.json       the bridge, and whether it was finished
///  addresses/<ip>     the unit that has it
///  network.lock       held while any of it is changed
/// ```
pub(crate) struct Network {
    node_hash: String,
    dir: PathBuf,
    wanted_name: Option<String>,
    wanted_subnet: Option<Subnet>,
    /// The address given last, so that addresses are used again late.
    last: Mutex<Option<Ipv4Addr>>,
}

impl Network {
    /// The network of a node whose data lie in `dir`. Gives back the addresses of units of which
    /// `is_there` knows nothing.
    pub(crate) fn open(
        node_hash: String,
        dir: PathBuf,
        wanted_name: Option<String>,
        wanted_subnet: Option<Subnet>,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<Self, Error> {
        let network = Self {
            node_hash,
            dir,
            wanted_name,
            wanted_subnet,
            last: Mutex::new(None),
        };
        files::make_dir(&network.addresses_dir(), 0o700)?;
        let _lock = network.lock()?;
        for ip in files::names(&network.addresses_dir())? {
            let file = network.addresses_dir().join(&ip);
            let unit = std::fs::read_to_string(&file).unwrap_or_default();
            if !is_there(&unit) {
                files::remove_file(&file)?;
            }
        }
        Ok(network)
    }

    fn addresses_dir(&self) -> PathBuf {
        self.dir.join("addresses")
    }

    fn file(&self) -> PathBuf {
        self.dir.join("network.json")
    }

    fn lock(&self) -> Result<FileLock, Error> {
        FileLock::take_blocking(&self.dir.join("network.lock"))
    }

    /// What the way out of containers lacks.
    pub(crate) fn missing(&self) -> Option<Missing> {
        nat::missing()
    }

    /// An address for a unit, on a bridge that is there. `known` is what it had before.
    pub(crate) fn attach(
        &self,
        unit: UnitId,
        known: Option<&Attachment>,
    ) -> Result<Attachment, Error> {
        let _lock = self.lock()?;
        let bridge = self.ensure()?;
        let address = match known {
            Some(known) if bridge.subnet.contains(known.address) => known.address,
            _ => self.free_address(&bridge.subnet)?,
        };
        let file = self.addresses_dir().join(address.to_string());
        files::write_atomically(&file, unit.to_string().as_bytes())?;
        *self.last.lock() = Some(address);
        let mut mac = [0x02, 0x58, 0, 0, 0, 0];
        mac[2..].copy_from_slice(&address.octets());
        Ok(Attachment {
            veth: names::veth(&self.node_hash, unit),
            bridge: bridge.name,
            address,
            prefix: bridge.subnet.prefix(),
            gateway: bridge.subnet.gateway(),
            mac,
        })
    }

    fn free_address(&self, subnet: &Subnet) -> Result<Ipv4Addr, Error> {
        let taken = files::names(&self.addresses_dir())?;
        let is_free = |ip: &Ipv4Addr| taken.binary_search(&ip.to_string()).is_err();
        let last = *self.last.lock();
        subnet
            .hosts_after(last)
            .find(is_free)
            .ok_or_else(|| Error::Network(format!("all addresses of {subnet} are in use")))
    }

    /// Removes a unit's pair and gives its addresses back; removes the bridge after the last one.
    pub(crate) fn detach(&self, unit: UnitId) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut netlink = Netlink::open().map_err(failed("netlink"))?;
        netlink
            .remove(&names::veth(&self.node_hash, unit))
            .map_err(failed("remove the pair"))?;
        let mut others = 0;
        for ip in files::names(&self.addresses_dir())? {
            let file = self.addresses_dir().join(&ip);
            let holder = std::fs::read_to_string(&file).unwrap_or_default();
            match holder == unit.to_string() {
                true => files::remove_file(&file)?,
                false => others += 1,
            }
        }
        match self.known()? {
            Some(bridge) if others == 0 && bridge.is_ready => {
                self.remove_bridge(&mut netlink, bridge)
            }
            _ => Ok(()),
        }
    }

    /// The bridge of the last time, unless the options ask for another one.
    fn known(&self) -> Result<Option<Bridge>, Error> {
        let known = files::read_json::<Bridge>(&self.file())?;
        Ok(known.filter(|known| {
            self.wanted_subnet
                .is_none_or(|wanted| wanted == known.subnet)
                && self
                    .wanted_name
                    .as_ref()
                    .is_none_or(|wanted| *wanted == known.name)
        }))
    }

    fn remove_bridge(&self, netlink: &mut Netlink, mut bridge: Bridge) -> Result<(), Error> {
        bridge.is_ready = false;
        files::write_json(&self.file(), &bridge)?;
        nat::remove(&self.table(), &bridge);
        if self.is_ours(netlink, &bridge.name)? {
            netlink
                .remove(&bridge.name)
                .map_err(failed("remove the bridge"))?;
        }
        Ok(())
    }

    fn table(&self) -> String {
        format!("weft-{}", self.node_hash)
    }

    /// The hardware address by which our bridge is known.
    fn mac(&self) -> Mac {
        let hash = u32::from_str_radix(&self.node_hash, 16).unwrap_or(0);
        let [a, b, c, d] = hash.to_be_bytes();
        [0x02, 0x57, a, b, c, d]
    }

    fn ensure(&self) -> Result<Bridge, Error> {
        let mut netlink = Netlink::open().map_err(failed("netlink"))?;
        let known = self.known()?;
        if let Some(bridge) = &known
            && bridge.is_ready
            && self.is_ours(&mut netlink, &bridge.name)?
        {
            return Ok(bridge.clone());
        }
        let mut bridge = self.make(&mut netlink, known)?;
        nat::forward()?;
        nat::ensure(&self.table(), &bridge)?;
        bridge.is_ready = true;
        files::write_json(&self.file(), &bridge)?;
        Ok(bridge)
    }

    fn is_ours(&self, netlink: &mut Netlink, name: &str) -> Result<bool, Error> {
        let link = netlink.link(name).map_err(failed("look for the bridge"))?;
        Ok(link.is_some_and(|link| link.mac == Some(self.mac())))
    }

    /// Makes the bridge, or completes one that is half made.
    fn make(&self, netlink: &mut Netlink, known: Option<Bridge>) -> Result<Bridge, Error> {
        let name = self.choose_name(netlink, known.as_ref())?;
        let subnet = match (self.wanted_subnet, &known) {
            (Some(wanted), _) => wanted,
            (None, Some(known)) => known.subnet,
            (None, None) => {
                let routes = netlink.routes().map_err(failed("read the routes"))?;
                let seed = u32::from_str_radix(&self.node_hash, 16).unwrap_or(0);
                subnet::choose(seed, &routes).ok_or_else(|| {
                    Error::Network(
                        "all of 10.88.0.0/16 is in use; name a subnet for containers".into(),
                    )
                })?
            }
        };
        let bridge = Bridge {
            name,
            subnet,
            is_ready: false,
        };
        files::write_json(&self.file(), &bridge)?;
        let index = match netlink.link(&bridge.name).map_err(failed("look for it"))? {
            Some(link) => link.index,
            None => return self.add(netlink, bridge),
        };
        self.complete(netlink, index, &bridge)?;
        Ok(bridge)
    }

    fn add(&self, netlink: &mut Netlink, bridge: Bridge) -> Result<Bridge, Error> {
        netlink
            .add_bridge(&bridge.name, self.mac())
            .map_err(failed("make the bridge"))?;
        let made = netlink.link(&bridge.name).map_err(failed("look for it"))?;
        let made = made.ok_or_else(|| Error::Network("the bridge vanished".into()))?;
        self.complete(netlink, made.index, &bridge)?;
        Ok(bridge)
    }

    fn complete(&self, netlink: &mut Netlink, index: u32, bridge: &Bridge) -> Result<(), Error> {
        netlink
            .add_address(index, bridge.subnet.gateway(), bridge.subnet.prefix())
            .map_err(failed("give the bridge its address"))?;
        netlink.set_up(index).map_err(failed("set the bridge up"))
    }

    fn choose_name(&self, netlink: &mut Netlink, known: Option<&Bridge>) -> Result<String, Error> {
        let derived = format!("weft-{}", self.node_hash);
        let candidates = match (&self.wanted_name, known) {
            (Some(wanted), _) => vec![wanted.clone()],
            (None, Some(known)) => vec![known.name.clone(), derived],
            (None, None) => vec![DEFAULT_BRIDGE.to_owned(), derived],
        };
        for name in &candidates {
            let link = netlink.link(name).map_err(failed("look for the bridge"))?;
            if link.is_none_or(|link| link.mac == Some(self.mac())) {
                return Ok(name.clone());
            }
        }
        Err(Error::Network(format!(
            "an interface {} is there and not ours; name another bridge",
            candidates.join(" or ")
        )))
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Network(format!("{what}: {error}"))
}
