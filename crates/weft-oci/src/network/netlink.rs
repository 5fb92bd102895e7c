//! The few messages of rtnetlink(7) that a bridge and veth pairs need. Synchronous: the kernel
//! answers at once, and the monitor has no runtime.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const ANSWER_BYTES: usize = 64 << 10;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// The bridge it is a port of.
    pub(crate) master: Option<u32>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

/// A socket in the network namespace in which it was made.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (value.len() + 4) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad()
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        let mut done = inside(self);
        let length = (done.0.len() - start) as u16;
        done.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        done.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        done.pad()
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        header[8..12].copy_from_slice(&flag);
        header[12..16].copy_from_slice(&flag);
    }
    header
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call without pointers.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_ACK, &link_header(0, false))
            .text(libc::IFLA_IFNAME, name);
        let mut link = None;
        let outcome = self.call(message, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                link = parse_link(body);
            }
        });
        match outcome {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            outcome => outcome.map(|()| link),
        }
    }

    pub(crate) fn add_bridge(&mut self, name: &str, mac: Mac) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, true))
            .text(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_ADDRESS, &mac)
            .nested(libc::IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge"));
        self.call(message, |_, _| {})
    }

    /// A pair of which one end is a port of a bridge and the other, `eth0`, in another namespace.
    pub(crate) fn add_veth(
        &mut self,
        name: &str,
        bridge: u32,
        namespace: BorrowedFd<'_>,
        inside: Mac,
    ) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, true))
            .text(libc::IFLA_IFNAME, name)
            .number(libc::IFLA_MASTER, bridge)
            .nested(libc::IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |m| {
                    m.nested(VETH_INFO_PEER, |m| {
                        // It cannot be up before there is another end.
                        m.raw(&link_header(0, false))
                            .text(libc::IFLA_IFNAME, "eth0")
                            .attribute(libc::IFLA_ADDRESS, &inside)
                            .number(libc::IFLA_NET_NS_FD, namespace.as_raw_fd() as u32)
                    })
                })
            });
        self.call(message, |_, _| {})
    }

    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let message = Message::new(
            libc::RTM_NEWLINK,
            libc::NLM_F_ACK,
            &link_header(index, true),
        );
        self.call(message, |_, _| {})
    }

    /// Removes an interface, and the other end of a pair with it. One that is not there is removed.
    pub(crate) fn remove(&mut self, name: &str) -> io::Result<()> {
        let message = Message::new(libc::RTM_DELLINK, libc::NLM_F_ACK, &link_header(0, false))
            .text(libc::IFLA_IFNAME, name);
        match self.call(message, |_, _| {}) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn add_address(&mut self, link: u32, ip: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut header = [libc::AF_INET as u8, prefix, 0, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&link.to_ne_bytes());
        let ip_bits = u32::from(ip);
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let message = Message::new(libc::RTM_NEWADDR, flags, &header)
            .attribute(libc::IFA_LOCAL, &ip.octets())
            .attribute(libc::IFA_ADDRESS, &ip.octets())
            .attribute(libc::IFA_BROADCAST, &(ip_bits | host_bits).to_be_bytes());
        self.call(message, |_, _| {})
    }

    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let header = [
            libc::AF_INET as u8,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let message = Message::new(libc::RTM_NEWROUTE, flags, &header)
            .attribute(libc::RTA_GATEWAY, &gateway.octets());
        self.call(message, |_, _| {})
    }

    /// Networks that are reachable by more than the default route.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let mut header = [0; 12];
        header[0] = libc::AF_INET as u8;
        let message = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &header);
        let mut routes = Vec::new();
        self.call(message, |kind, body| {
            if kind != libc::RTM_NEWROUTE || body.len() < 12 || body[1] == 0 {
                return;
            }
            for (kind, value) in attributes(&body[12..]) {
                if let (libc::RTA_DST, Ok(octets)) = (kind, <[u8; 4]>::try_from(value)) {
                    routes.push((Ipv4Addr::from(octets), body[1]));
                }
            }
        })?;
        Ok(routes)
    }

    /// Sends a message and takes the answers until the kernel says that there are no more.
    fn call(&mut self, message: Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = message.0;
        let length = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        rustix::net::send(&self.socket, &bytes, rustix::net::SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let flags = rustix::net::RecvFlags::empty();
            let (read, _) = rustix::net::recv(&self.socket, &mut buffer[..], flags)?;
            if self.take_answers(&buffer[..read], &mut each)? {
                return Ok(());
            }
        }
    }

    fn take_answers(
        &self,
        mut bytes: &[u8],
        each: &mut impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        while bytes.len() >= 16 {
            let length = read_u32(bytes, 0) as usize;
            if length < 16 || length > bytes.len() {
                return Err(io::Error::other("an answer of netlink is cut off"));
            }
            let kind = read_u16(bytes, 4);
            if read_u32(bytes, 8) == self.sequence {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(true),
                    libc::NLMSG_ERROR if length >= 20 => {
                        return match read_u32(bytes, 16) as i32 {
                            0 => Ok(true),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => each(kind, &bytes[16..length]),
                }
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: read_u32(body.get(..16)?, 4),
        ..Link::default()
    };
    for (kind, value) in attributes(&body[16..]) {
        match kind {
            libc::IFLA_IFNAME => {
                let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
                link.name = String::from_utf8_lossy(&value[..end]).into_owned();
            }
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MASTER if value.len() >= 4 => link.master = Some(read_u32(value, 0)),
            libc::IFLA_STATS64 if value.len() >= 32 => {
                link.rx_bytes = read_u64(value, 16);
                link.tx_bytes = read_u64(value, 24);
            }
            _ => {}
        }
    }
    Some(link)
}

/// The attributes after the header of an answer; stops at what cannot be one.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(read_u16(bytes, 0));
        let value = bytes.get(4..length)?;
        let kind = read_u16(bytes, 2) & 0x3fff;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}
