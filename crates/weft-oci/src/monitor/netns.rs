//! The network namespace of a container, made before the container.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::MonitorNetwork;
use crate::Error;
use crate::error::During;
use crate::network::{Attachment, Netlink};

const OWN: &str = "/proc/self/ns/net";
/// Lets programs without rights listen below 1024 and ping, as with Docker; the namespace is theirs.
const SETTINGS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// Makes the namespace and binds it to a path.
pub(super) fn make(network: &MonitorNetwork, at: &Path) -> Result<(), Error> {
    if matches!(network, MonitorNetwork::Host) {
        return Ok(());
    }
    let failed = |what: &'static str| {
        move |error: std::io::Error| Error::Network(format!("{what}: {error}"))
    };
    let outside = File::open(OWN).during(|| "open the network namespace".into())?;
    let mut node = Netlink::open().map_err(failed("netlink"))?;
    // SAFETY: there is one thread, and nothing depends on what it shares with others.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .during(|| "make a network namespace".into())?;
    let inside = File::open(OWN).during(|| "open the network namespace".into())?;
    let made = enter(at);
    move_into_link_name_space(outside.as_fd(), Some(LinkNameSpaceType::Network))
        .during(|| "return to the node's network".into())?;
    let mut inner = made?;
    let loopback = inner.link("lo").map_err(failed("look for loopback"))?;
    if let Some(loopback) = loopback {
        inner
            .set_up(loopback.index)
            .map_err(failed("set loopback up"))?;
    }
    match network {
        MonitorNetwork::Bridge(attachment) => connect(&mut node, &mut inner, &inside, attachment),
        _ => Ok(()),
    }
}

fn enter(at: &Path) -> Result<Netlink, Error> {
    for (file, value) in SETTINGS {
        let _ = std::fs::write(file, value);
    }
    File::create(at).during(|| format!("make {}", at.display()))?;
    rustix::mount::mount_bind(OWN, at).during(|| "bind the network namespace".into())?;
    Netlink::open().during(|| "netlink".into())
}

fn connect(
    node: &mut Netlink,
    inner: &mut Netlink,
    inside: &File,
    attachment: &Attachment,
) -> Result<(), Error> {
    let failed = |what: &'static str| {
        move |error: std::io::Error| Error::Network(format!("{what}: {error}"))
    };
    let bridge = node
        .link(&attachment.bridge)
        .map_err(failed("look for the bridge"))?
        .ok_or_else(|| Error::Network(format!("bridge {} is gone", attachment.bridge)))?;
    node.remove(&attachment.veth)
        .map_err(failed("remove the old pair"))?;
    node.add_veth(
        &attachment.veth,
        bridge.index,
        inside.as_fd(),
        attachment.mac,
    )
    .map_err(failed("make a pair"))?;
    let eth0 = inner
        .link("eth0")
        .map_err(failed("look for eth0"))?
        .ok_or_else(|| Error::Network("eth0 is gone".into()))?;
    inner
        .add_address(eth0.index, attachment.address, attachment.prefix)
        .map_err(failed("give eth0 its address"))?;
    inner.set_up(eth0.index).map_err(failed("set eth0 up"))?;
    inner
        .add_default_route(attachment.gateway)
        .map_err(failed("set the way out"))
}
