//! The command line of a machine. There are no paths in it: everything is handed over as a
//! descriptor.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};

use serde_json::{Value, json};
use weft_types::ImageFormat;

use crate::machine::{Card, Disk, Link, Machine};

use super::TCG_CACHE_MIB;
use super::handles::Handles;

/// What of the console is kept for its reader, in bytes; a power of two.
pub(super) const CONSOLE_BYTES: u64 = 1 << 20;

/// Arguments of a machine that has these descriptors.
pub(super) fn arguments(machine: &Machine, handles: &Handles, has_kvm: bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: String| all.extend([format!("-{name}"), value]);
    add(
        "sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
    add("name", format!("guest={}", machine.name));
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
    for (id, socket) in [("watch", &handles.watch), ("calls", &handles.calls)] {
        add("chardev", listening(id, socket.as_raw_fd()));
        add("mon", format!("chardev={id},mode=control"));
    }
    add(
        "chardev",
        format!("ringbuf,id=console,size={CONSOLE_BYTES}"),
    );
    add("serial", "chardev:console".to_owned());
    add("chardev", listening("agent", handles.agent.as_raw_fd()));
    add("device", "virtio-serial-pci".to_owned());
    add(
        "device",
        "virtserialport,chardev=agent,id=agent,name=org.qemu.guest_agent.0".to_owned(),
    );
    add("device", "pvpanic".to_owned());
    add("device", "virtio-rng-pci".to_owned());
    add("device", "virtio-balloon-pci".to_owned());
    for (index, (disk, (own, base))) in machine.disks.iter().zip(&handles.disks).enumerate() {
        let base = base.as_ref().map(AsRawFd::as_raw_fd);
        for number in [Some(own.as_raw_fd()), base].into_iter().flatten() {
            // A set of one, which has the number of its descriptor.
            add("add-fd", format!("fd={number},set={number}"));
        }
        add(
            "blockdev",
            block(disk, own.as_raw_fd(), base, index).to_string(),
        );
        // A kernel that is booted directly is first itself.
        let boots = index == 0 && machine.kernel.is_none();
        add("device", disk_device(disk, index, boots));
    }
    for (index, (card, tap)) in machine.cards.iter().zip(&handles.taps).enumerate() {
        let tap = tap.as_ref().map(AsRawFd::as_raw_fd);
        add("netdev", network(card, tap, index));
        let device = format!("virtio-net-pci,netdev=net{index},mac={},romfile=", card.mac);
        add("device", device);
    }
    if let Some(kernel) = &machine.kernel {
        for (name, file) in [("kernel", &handles.kernel), ("initrd", &handles.initrd)] {
            if let Some(file) = file {
                add(name, format!("/proc/self/fd/{}", file.as_raw_fd()));
            }
        }
        add("append", kernel.cmdline.clone());
    }
    all.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    all
}

fn listening(id: &str, socket: RawFd) -> String {
    format!("socket,id={id},fd={socket},server=on,wait=off")
}

fn driver(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
    }
}

fn layer(file: RawFd, format: ImageFormat, is_read_only: bool) -> Value {
    let mut layer = json!({
        "driver": driver(format),
        "read-only": is_read_only,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": format!("/dev/fdset/{file}"),
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

fn block(disk: &Disk, own: RawFd, base: Option<RawFd>, index: usize) -> Value {
    let mut block = layer(own, disk.format, disk.is_read_only);
    block["node-name"] = format!("disk{index}").into();
    if let (Some((_, format)), Some(base)) = (&disk.base, base) {
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

fn network(card: &Card, tap: Option<RawFd>, index: usize) -> String {
    let (ports, gateway) = match (&card.link, tap) {
        (Link::User { ports, gateway }, _) => (ports, gateway),
        (Link::Bridge { .. }, Some(tap)) => return format!("tap,id=net{index},fd={tap}"),
        (Link::Bridge { tap, .. }, None) => {
            return format!("tap,id=net{index},ifname={tap},script=no,downscript=no");
        }
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
    fn no_layer_of_a_disk_names_a_file_of_the_node() {
        let disk = Disk {
            serial: "root".to_owned(),
            path: PathBuf::from("/p/a,id=x \"y\"/root.qcow2"),
            format: ImageFormat::Qcow2,
            base: Some((PathBuf::from("/b,c"), ImageFormat::Raw)),
            is_read_only: false,
        };
        let parsed = block(&disk, 7, Some(8), 0);
        assert_eq!(parsed["file"]["filename"], "/dev/fdset/7");
        assert_eq!(parsed["backing"]["file"]["filename"], "/dev/fdset/8");
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
            network(&card, None, 0),
            "user,id=net0,net=192.0.2.0/24,dhcpstart=192.0.2.10,host=192.0.2.1,\
             hostfwd=tcp:127.0.0.1:0-192.0.2.10:22"
        );
        assert_eq!(
            network_of("10.1.2.3".parse().unwrap(), 0),
            Ipv4Addr::UNSPECIFIED
        );
    }
}
