//! The command line of a machine. Paths are in JSON or are arguments of their own: QEMU splits
//! other values at commas.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde_json::{Value, json};
use weft_types::ImageFormat;

use crate::machine::{Card, Disk, Link, Machine};

use super::{AGENT_SOCKET, CALLS_SOCKET, PIDFILE, TCG_CACHE_MIB, WATCH_SOCKET};

/// What of the console is kept for its reader, in bytes; a power of two.
pub(super) const CONSOLE_BYTES: u64 = 1 << 20;

/// Arguments of a machine whose sockets lie in the working directory `dir`.
pub(super) fn arguments(machine: &Machine, dir: &Path, has_kvm: bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: String| all.extend([format!("-{name}"), value]);
    add(
        "sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
    add("name", format!("guest={}", machine.name));
    add("pidfile", dir.join(PIDFILE).display().to_string());
    add(
        "machine",
        "pc,usb=off,graphics=off,dump-guest-core=off".to_owned(),
    );
    let (accelerator, cpu) = if has_kvm {
        ("kvm".to_owned(), "host")
    } else {
        (format!("tcg,tb-size={TCG_CACHE_MIB}"), "max")
    };
    add("accel", accelerator);
    add("cpu", cpu.to_owned());
    add("smp", machine.vcpus.to_string());
    add("m", format!("size={}M", machine.memory_bytes >> 20));
    add("display", "none".to_owned());
    add("rtc", "base=utc".to_owned());
    // A guest that ends leaves the process, which tells how it ended.
    add("action", "shutdown=pause,panic=pause".to_owned());
    for (id, socket) in [("watch", WATCH_SOCKET), ("calls", CALLS_SOCKET)] {
        add("chardev", listening(id, socket));
        add("mon", format!("chardev={id},mode=control"));
    }
    add(
        "chardev",
        format!("ringbuf,id=console,size={CONSOLE_BYTES}"),
    );
    add("serial", "chardev:console".to_owned());
    add("chardev", listening("agent", AGENT_SOCKET));
    add("device", "virtio-serial-pci".to_owned());
    add(
        "device",
        "virtserialport,chardev=agent,id=agent,name=org.qemu.guest_agent.0".to_owned(),
    );
    add("device", "pvpanic".to_owned());
    add("device", "virtio-rng-pci".to_owned());
    add("device", "virtio-balloon-pci".to_owned());
    for (index, disk) in machine.disks.iter().enumerate() {
        add("blockdev", block(disk, index).to_string());
        // A kernel that is booted directly is first itself.
        let boots = index == 0 && machine.kernel.is_none();
        add("device", disk_device(disk, index, boots));
    }
    for (index, card) in machine.cards.iter().enumerate() {
        add("netdev", network(card, index));
        let device = format!("virtio-net-pci,netdev=net{index},mac={},romfile=", card.mac);
        add("device", device);
    }
    if let Some(kernel) = &machine.kernel {
        add("kernel", kernel.image.display().to_string());
        if let Some(initrd) = &kernel.initrd {
            add("initrd", initrd.display().to_string());
        }
        add("append", kernel.cmdline.clone());
    }
    all.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    all
}

fn listening(id: &str, socket: &str) -> String {
    format!("socket,id={id},path={socket},server=on,wait=off")
}

fn driver(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
    }
}

fn layer(path: &Path, format: ImageFormat, is_read_only: bool) -> Value {
    let mut layer = json!({
        "driver": driver(format),
        "read-only": is_read_only,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": path.display().to_string(),
            "read-only": is_read_only,
            "discard": "unmap",
        },
    });
    if format == ImageFormat::Qcow2 {
        // Never what the file itself names: that could be any file of the node.
        layer["backing"] = Value::Null;
    }
    layer
}

fn block(disk: &Disk, index: usize) -> Value {
    let mut block = layer(&disk.path, disk.format, disk.is_read_only);
    block["node-name"] = format!("disk{index}").into();
    if let Some((base, format)) = &disk.base {
        block["backing"] = layer(base, *format, true);
    }
    block
}

fn disk_device(disk: &Disk, index: usize, boots: bool) -> String {
    let mut device = format!("virtio-blk-pci,drive=disk{index},serial={}", disk.serial);
    if boots {
        device.push_str(",bootindex=0");
    }
    device
}

fn network(card: &Card, index: usize) -> String {
    let (ports, gateway) = match &card.link {
        Link::Bridge { tap, .. } => {
            return format!("tap,id=net{index},ifname={tap},script=no,downscript=no");
        }
        Link::User { ports, gateway } => (ports, gateway),
    };
    let mut text = format!("user,id=net{index}");
    let guest = match card.address {
        Some((IpAddr::V4(guest), prefix)) => {
            let net = network_of(guest, prefix);
            text.push_str(&format!(",net={net}/{prefix},dhcpstart={guest}"));
            if let Some(IpAddr::V4(gateway)) = gateway {
                text.push_str(&format!(",host={gateway}"));
            }
            guest.to_string()
        }
        _ => {
            // Each card has a network of its own, so that the guest can tell them apart.
            text.push_str(&format!(",net=10.0.{}.0/24", 2 + index));
            String::new()
        }
    };
    for port in ports {
        // Port 0 lets the system choose one that is free.
        text.push_str(&format!(",hostfwd=tcp:127.0.0.1:0-{guest}:{port}"));
    }
    text
}

fn network_of(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn paths_with_commas_and_quotes_stay_one_value() {
        let disk = Disk {
            serial: "root".to_owned(),
            path: PathBuf::from("/p/a,id=x \"y\"/root.qcow2"),
            format: ImageFormat::Qcow2,
            base: Some((PathBuf::from("/b,c"), ImageFormat::Raw)),
            is_read_only: false,
        };
        let text = block(&disk, 0).to_string();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["file"]["filename"], "/p/a,id=x \"y\"/root.qcow2");
        assert_eq!(parsed["backing"]["file"]["filename"], "/b,c");
        assert_eq!(parsed["backing"]["read-only"], true);
    }

    #[test]
    fn static_address_of_the_user_network_is_the_one_that_ports_lead_to() {
        let card = Card {
            mac: "52:54:00:12:34:56".to_owned(),
            link: Link::User {
                ports: vec![22],
                gateway: Some("192.0.2.1".parse().unwrap()),
            },
            address: Some(("192.0.2.10".parse().unwrap(), 24)),
        };
        assert_eq!(
            network(&card, 0),
            "user,id=net0,net=192.0.2.0/24,dhcpstart=192.0.2.10,host=192.0.2.1,\
             hostfwd=tcp:127.0.0.1:0-192.0.2.10:22"
        );
        assert_eq!(
            network_of("10.1.2.3".parse().unwrap(), 0),
            Ipv4Addr::UNSPECIFIED
        );
    }
}
