//! What a machine is made of, and the narrow door to what runs it.
//!
//! Everything on this side of [`Hypervisor`] (images, disks, seeds, cards of bridges, records, the
//! judgement whether a guest has booted) knows no QEMU; another hypervisor is another
//! implementation of the trait.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use weft_types::ImageFormat;
use weft_unit::Error;

use crate::guest::Agent;
use crate::user::User;

/// A machine, defined down to its files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// As the hypervisor shows it to people.
    pub(crate) name: String,
    /// Virtual processors.
    pub(crate) vcpus: u32,
    /// Memory of the guest, in bytes; whole MiB.
    pub(crate) memory_bytes: u64,
    /// Kernel that is booted directly.
    pub(crate) kernel: Option<Kernel>,
    /// Disks, the one to boot from first.
    pub(crate) disks: Vec<Disk>,
    /// Network cards.
    pub(crate) cards: Vec<Card>,
}

/// A kernel that is booted directly.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Serial number in the guest.
    pub(crate) serial: String,
    pub(crate) path: PathBuf,
    pub(crate) format: ImageFormat,
    /// What lies beneath a copy-on-write disk.
    pub(crate) base: Option<(PathBuf, ImageFormat)>,
    pub(crate) is_read_only: bool,
}

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) mac: String,
    pub(crate) link: Link,
    /// Its address and prefix length; by DHCP when absent.
    pub(crate) address: Option<(IpAddr, u8)>,
}

/// What a card is connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Link {
    /// Address translation of the hypervisor. Ports of the guest are published on loopback.
    User {
        ports: Vec<u16>,
        gateway: Option<IpAddr>,
    },
    /// A tap device on a bridge.
    Bridge { tap: String, bridge: String },
}

/// Where and within what bounds a machine runs.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// Directory of the unit: sockets, process number.
    pub(crate) dir: &'a Path,
    /// Files into which the process writes `0` to be within its limits.
    pub(crate) entrances: &'a [PathBuf],
    /// Who the process is; the user of this process when absent.
    pub(crate) user: Option<User>,
}

/// How a machine is, as its hypervisor sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Running,
    Paused,
    /// The guest shut itself down.
    Off,
    /// The guest said that its kernel panicked.
    Panicked,
    /// It cannot go on.
    Broken(String),
}

/// What is asked of a machine from time to time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Vitals {
    pub(crate) state: State,
    /// Whether a guest agent listens.
    pub(crate) has_agent: bool,
}

/// Which of the two connections to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// Held by whoever watches it.
    Watch,
    /// For single calls, one caller at a time.
    Calls,
}

/// What the machine has on this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HypervisorFound {
    pub(crate) version: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) missing: Vec<weft_unit::Missing>,
}

/// What runs machines.
#[async_trait]
pub(crate) trait Hypervisor: Send + Sync {
    /// Whether it works here.
    async fn probe(&self) -> Result<HypervisorFound, weft_unit::Missing>;

    /// Memory that the process takes beside the guest's, in bytes.
    async fn overhead_bytes(&self, machine: &Machine) -> u64;

    /// Starts a machine; done when it can be controlled. Nothing of a failed one is left running.
    /// How its process ended is told by `ended`, when this process lives that long.
    async fn launch(
        &self,
        machine: &Machine,
        place: &Place<'_>,
        ended: Box<dyn FnOnce(Exit) + Send>,
    ) -> Result<(), Error>;

    /// Process of a machine in a directory.
    fn process(&self, dir: &Path) -> Option<crate::process::Process>;

    /// A connection to a running machine.
    async fn connect(&self, dir: &Path, door: Door) -> Result<Box<dyn Control>, Error>;

    /// The guest agent's end of a running machine.
    fn agent(&self, dir: &Path) -> Agent;
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// The last that it said.
    pub(crate) said: String,
}

/// A connection to a running machine.
#[async_trait]
pub(crate) trait Control: Send {
    async fn vitals(&mut self) -> Result<Vitals, Error>;
    /// What the guest has printed to its console since the last call, of any client.
    async fn console(&mut self) -> Result<Vec<u8>, Error>;
    /// Waits until something may have happened, at most for so long.
    async fn happened(&mut self, at_most: Duration) -> Result<(), Error>;
    /// Presses the power button.
    async fn power_button(&mut self) -> Result<(), Error>;
    async fn pause(&mut self) -> Result<(), Error>;
    async fn resume(&mut self) -> Result<(), Error>;
    /// Ends the process, whatever the guest does.
    async fn quit(&mut self) -> Result<(), Error>;
    /// Where ports of the guest are published.
    async fn published(&mut self) -> Result<BTreeMap<u16, SocketAddr>, Error>;
    /// Bytes written to disks.
    async fn written_bytes(&mut self) -> Result<u64, Error>;
}
