//! What the process is handed instead of paths: it runs as a user who may open nothing of the
//! node's, and has these descriptors.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::machine::{Link, Machine};
use crate::{net, socket};

use super::{AGENT_SOCKET, CALLS_SOCKET, WATCH_SOCKET};

/// Descriptors of a machine, open until its process has them.
#[derive(Debug)]
pub(super) struct Handles {
    pub(super) watch: OwnedFd,
    pub(super) calls: OwnedFd,
    pub(super) agent: OwnedFd,
    /// A descriptor a disk, and one for what lies beneath it.
    pub(super) disks: Vec<(OwnedFd, Option<OwnedFd>)>,
    pub(super) kernel: Option<OwnedFd>,
    pub(super) initrd: Option<OwnedFd>,
    /// A descriptor a card, for those on bridges.
    pub(super) taps: Vec<Option<OwnedFd>>,
}

impl Handles {
    /// Opens what a machine needs; its sockets are made in the directory.
    ///
    /// # Errors
    /// When something is not there.
    pub(super) fn open(machine: &Machine, dir: &Path) -> io::Result<Self> {
        let disks = machine.disks.iter().map(|disk| {
            let own = File::options()
                .read(true)
                .write(!disk.is_read_only)
                .open(&disk.path)
                .map_err(|e| at(&disk.path, &e))?;
            let base = disk.base.as_ref();
            let base = base.map(|(path, _)| File::open(path).map_err(|e| at(path, &e)));
            Ok((own.into(), base.transpose()?.map(OwnedFd::from)))
        });
        let kernel = machine.kernel.as_ref();
        let initrd = kernel.and_then(|kernel| kernel.initrd.as_deref());
        let taps = machine.cards.iter().map(|card| match &card.link {
            Link::Bridge { tap, .. } => net::open_tap(tap).map(|file| Some(file.into())),
            Link::User { .. } => Ok(None),
        });
        Ok(Self {
            watch: socket::listen(&dir.join(WATCH_SOCKET))?,
            calls: socket::listen(&dir.join(CALLS_SOCKET))?,
            agent: socket::listen(&dir.join(AGENT_SOCKET))?,
            disks: disks.collect::<io::Result<_>>()?,
            kernel: kernel.map(|kernel| readable(&kernel.image)).transpose()?,
            initrd: initrd.map(readable).transpose()?,
            taps: taps.collect::<io::Result<_>>()?,
        })
    }

    /// All of them.
    pub(super) fn numbers(&self) -> Vec<RawFd> {
        let sockets = [&self.watch, &self.calls, &self.agent];
        let disks = self.disks.iter();
        let disks = disks.flat_map(|(own, base)| std::iter::once(own).chain(base));
        let rest = self.kernel.iter().chain(&self.initrd);
        let all = sockets.into_iter().chain(disks).chain(rest);
        let all = all.chain(self.taps.iter().flatten());
        all.map(AsRawFd::as_raw_fd).collect()
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Opens what QEMU opens again, through `/proc`: everybody may read it who has a descriptor. Its
/// directory is for its owner only.
fn readable(path: &Path) -> io::Result<OwnedFd> {
    let opened = || {
        let file = File::open(path)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        Ok(file.into())
    };
    opened().map_err(|e| at(path, &e))
}
