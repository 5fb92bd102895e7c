//! Cards of machines: their hardware addresses, and tap devices on bridges.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use weft_types::UnitId;

/// Adds an interface to a bridge; `linux/sockios.h`.
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
const NET: &str = "/sys/class/net";
/// Where DHCP servers write down who has which address: dnsmasq's own file and those of libvirt
/// and LXC.
const LEASES: [&str; 3] = [
    "/var/lib/misc/dnsmasq.leases",
    "/var/lib/misc/dnsmasq.lxcbr0.leases",
    "/var/lib/libvirt/dnsmasq/default.leases",
];
/// The largest file of leases that is read, in bytes.
const MAX_LEASES_BYTES: u64 = 8 << 20;

fn hash(unit: UnitId, card: usize, what: &str) -> String {
    let named = format!("{what} {unit} {card}");
    hex::encode(digest(&SHA256, named.as_bytes()))
}

/// A hardware address for a card: the same at each start, locally administered, and unlike others
/// by 40 bits of a hash.
pub(crate) fn mac(unit: UnitId, card: usize) -> String {
    let hash = hash(unit, card, "mac");
    let byte = |index: usize| &hash[2 * index..2 * index + 2];
    format!(
        "52:{}:{}:{}:{}:{}",
        byte(0),
        byte(1),
        byte(2),
        byte(3),
        byte(4)
    )
}

/// The name of the tap device of a card; names of interfaces have 15 bytes at most.
pub(crate) fn tap(unit: UnitId, card: usize) -> String {
    format!("wft{}", &hash(unit, card, "tap")[..12])
}

/// Bridges of this node.
pub(crate) fn bridges() -> Vec<String> {
    let Ok(all) = std::fs::read_dir(NET) else {
        return Vec::new();
    };
    let names = all
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut bridges: Vec<_> = names.filter(|name| is_bridge(name)).collect();
    bridges.sort();
    bridges
}

fn interface(name: &str) -> PathBuf {
    Path::new(NET).join(name)
}

pub(crate) fn is_bridge(name: &str) -> bool {
    interface(name).join("bridge").is_dir()
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all bytes zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    Ok(request)
}

fn ioctl(fd: RawFd, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each of the codes used here reads and writes one `ifreq`, which lives until then.
    match unsafe { libc::ioctl(fd, code, std::ptr::from_mut(request)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the tap device of a name, which is made when there is none.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = request(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request)?;
    Ok(file)
}

fn set_persistent(file: &File, is_persistent: bool) -> io::Result<()> {
    let value = libc::c_ulong::from(is_persistent);
    // SAFETY: the argument of this code is a number.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, value) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a tap device on a bridge, with counters that begin at 0.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn make_tap(name: &str, bridge: &str, unit: UnitId) -> io::Result<()> {
    remove_tap(name)?;
    let file = open_tap(name)?;
    set_persistent(&file, true)?;
    // For people who look at interfaces; ours are known by their names.
    let _ = std::fs::write(interface(name).join("ifalias"), format!("weft {unit}"));
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let index = std::fs::read_to_string(interface(name).join("ifindex"))?;
    let mut attach = request(bridge)?;
    attach.ifr_ifru.ifru_ifindex = index.trim().parse().map_err(io::Error::other)?;
    ioctl(socket.as_raw_fd(), SIOCBRADDIF, &mut attach)?;
    let mut up = request(name)?;
    ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut up)?;
    // SAFETY: the call before has filled in the flags.
    let flags = unsafe { up.ifr_ifru.ifru_flags };
    up.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut up)
}

/// Removes a tap device of ours; nobody may have it open.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn remove_tap(name: &str) -> io::Result<()> {
    if !interface(name).exists() {
        return Ok(());
    }
    set_persistent(&open_tap(name)?, false)
}

/// Bytes that the guest behind a tap device has received and sent.
pub(crate) fn tap_counters(name: &str) -> (u64, u64) {
    let read = |counter: &str| {
        let path = interface(name).join("statistics").join(counter);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    (read("tx_bytes"), read("rx_bytes"))
}

/// Makes the kernel ask who has an address, so that [`seen_address`] finds the answer.
pub(crate) fn ask_for(address: IpAddr) {
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    if let Ok(socket) = UdpSocket::bind(any) {
        // The port is that of `discard`; only the question for the hardware address matters.
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(&[], SocketAddr::new(address, 9));
    }
}

/// The address of a card on a bridge: by its lease, or as the node's own neighbour.
pub(crate) fn seen_address(mac: &str, bridge: &str) -> Option<IpAddr> {
    let leased = LEASES.iter().find_map(|path| {
        let small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_LEASES_BYTES);
        let text = std::fs::read_to_string(path).ok().filter(|_| small)?;
        in_leases(&text, mac)
    });
    leased.or_else(|| {
        let text = std::fs::read_to_string("/proc/net/arp").ok()?;
        in_neighbours(&text, mac, bridge)
    })
}

/// dnsmasq's leases: expiry, hardware address, address, name, client id.
fn in_leases(text: &str, mac: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_ours = fields.next()?.eq_ignore_ascii_case(mac);
        fields.next().filter(|_| is_ours)?.parse().ok()
    })
}

/// `/proc/net/arp`: address, type, flags, hardware address, mask, interface. Flag 2 is an entry
/// that was answered.
fn in_neighbours(text: &str, mac: &str, bridge: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [address, _, flags, hardware, _, device] = fields[..] else {
            return None;
        };
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        let is_ours = flags & 2 != 0 && hardware.eq_ignore_ascii_case(mac) && device == bridge;
        address.parse().ok().filter(|_| is_ours)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::WorkloadId;

    const UNIT: UnitId = UnitId {
        workload: WorkloadId(77),
        number: 3,
    };

    #[test]
    fn cards_have_lasting_addresses_and_names_of_their_own() {
        assert_eq!(mac(UNIT, 0), mac(UNIT, 0));
        assert_ne!(mac(UNIT, 0), mac(UNIT, 1));
        assert_eq!(mac(UNIT, 0).len(), 17);
        assert_ne!(tap(UNIT, 0), tap(UNIT, 1));
        assert_eq!(tap(UNIT, 0).len(), 15);
    }

    #[test]
    fn addresses_are_read_from_leases_and_neighbours() {
        let leases = "1700000000 52:54:00:aa:bb:cc 192.0.2.9 vm 01:52\nduid 00:01\n";
        assert_eq!(
            in_leases(leases, "52:54:00:AA:bb:cc"),
            Some("192.0.2.9".parse().unwrap())
        );
        assert_eq!(in_leases(leases, "52:54:00:aa:bb:cd"), None);
        let arp = "IP address HW type Flags HW address Mask Device\n\
             192.0.2.7 0x1 0x0 52:54:00:aa:bb:cc * br0\n\
             192.0.2.8 0x1 0x2 52:54:00:aa:bb:cc * br0\n";
        assert_eq!(
            in_neighbours(arp, "52:54:00:aa:bb:cc", "br0"),
            Some("192.0.2.8".parse().unwrap())
        );
        assert_eq!(in_neighbours(arp, "52:54:00:aa:bb:cc", "br1"), None);
    }
}
