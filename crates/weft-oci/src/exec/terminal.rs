//! A terminal between a person and a command: the OCI runtime relays between it and the one it
//! makes in the container, and passes changes of its size on.

use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use weft_unit::{ExecInput, ExecOutput};

use crate::Error;
use crate::error::During;
use crate::watch::register;

const CHUNK_BYTES: usize = 16 << 10;
/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// Our end of a terminal.
pub(super) struct Terminal {
    end: AsyncFd<OwnedFd>,
}

impl Terminal {
    pub(super) fn open(columns: u16, rows: u16) -> Result<Self, Error> {
        let what = || "make a terminal".to_owned();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let end = rustix::pty::openpt(flags).during(what)?;
        rustix::pty::grantpt(&end).during(what)?;
        rustix::pty::unlockpt(&end).during(what)?;
        rustix::io::ioctl_fionbio(&end, true).during(what)?;
        set_size(&end, columns, rows)?;
        let end = register(end, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { end })
    }

    /// Starts the command at the other end, as the leader of a session with this terminal.
    pub(super) fn attach(&self, command: &mut Command) -> Result<Child, Error> {
        let what = || "open a terminal".to_owned();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let other = rustix::pty::ioctl_tiocgptpeer(self.end.get_ref(), flags).during(what)?;
        let lead = || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(lead) };
        command
            .stdin(other.try_clone().during(what)?)
            .stdout(other.try_clone().during(what)?)
            .stderr(other)
            .spawn()
            .during(|| "run the OCI runtime".into())
    }

    /// Our end once more, to be asked for its size.
    pub(super) fn end(&self) -> Result<OwnedFd, Error> {
        let end = self.end.get_ref().try_clone();
        end.during(|| "keep a terminal".into())
    }

    /// Passes on both ways until the command has closed its end; tells changes of the size.
    pub(super) async fn talk(
        self,
        mut inputs: mpsc::Receiver<ExecInput>,
        out: mpsc::Sender<ExecOutput>,
        resized: mpsc::Sender<()>,
    ) {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut has_input = true;
        loop {
            tokio::select! {
                input = inputs.recv(), if has_input => match input {
                    Some(ExecInput::Stdin(bytes)) => self.write(&bytes).await,
                    Some(ExecInput::Eof) => self.write(END_OF_TRANSMISSION).await,
                    Some(ExecInput::Resize(columns, rows)) => {
                        let _ = set_size(self.end.get_ref(), columns, rows);
                        // One that waits to be looked at is enough.
                        let _ = resized.try_send(());
                    }
                    None => has_input = false,
                },
                read = self.read(&mut buffer) => match read {
                    0 => return,
                    read => {
                        let bytes = Bytes::copy_from_slice(&buffer[..read]);
                        if out.send(ExecOutput::Stdout(bytes)).await.is_err() {
                            return;
                        }
                    }
                },
            }
        }
    }

    /// Reads once; 0 when the other end is closed.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        let read = self
            .end
            .async_io(Interest::READABLE, |end| {
                Ok(rustix::io::read(end, &mut *buffer)?)
            })
            .await;
        // A terminal says EIO when nobody has the other end.
        read.unwrap_or(0)
    }

    /// Writes all, unless the other end is closed.
    async fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self
                .end
                .async_io(Interest::WRITABLE, |end| Ok(rustix::io::write(end, bytes)?))
                .await;
            match written {
                Ok(written) => bytes = &bytes[written..],
                Err(_) => return,
            }
        }
    }
}

fn set_size(end: impl AsFd, columns: u16, rows: u16) -> Result<(), Error> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(end, size).during(|| "set the size of a terminal".into())
}
