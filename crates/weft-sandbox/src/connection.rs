//! The agent's end of the socket: one task that writes requests and hands reports to whom they concern.

use crate::client::MAX_WAIT;
use crate::frame::{Report, Request, take_frame};
use crate::{Capabilities, Error, Event, Options};
use bytes::BytesMut;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

/// Commands taken at once.
const BATCH: usize = 256;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Unsent bytes at which no further commands are taken.
const OUTBOX_HIGH_BYTES: usize = 8 << 20;

/// What handles to the spawner ask of the connection.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start a process, whose encoded request is `frame`.
    Spawn {
        id: u64,
        frame: Vec<u8>,
        events: mpsc::UnboundedSender<Event>,
        place: OwnedSemaphorePermit,
    },
    /// Pass this on.
    Send(Request),
    /// End.
    Shutdown,
}

/// A process of which the end was not told yet.
#[derive(Debug)]
struct Pending {
    /// Bounded by the output window and one exit.
    events: mpsc::UnboundedSender<Event>,
    _place: OwnedSemaphorePermit,
}

/// The connection to one spawner.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    spawner: Child,
    pid: u32,
    tag: String,
    inbox: BytesMut,
    outbox: Vec<u8>,
    sent: usize,
    pending: HashMap<u64, Pending>,
}

impl Connection {
    /// Starts the spawner and waits until it is ready.
    pub(crate) async fn start(
        exe: &Path,
        options: &Options,
    ) -> Result<(Self, Capabilities), Error> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()
            .map_err(Error::system("cannot make a socket"))?;
        ours.set_nonblocking(true)
            .map_err(Error::system("cannot make a socket"))?;
        let spawner = execute(exe, theirs.into())?;
        let pid = spawner.id().ok_or(Error::SpawnerGone)?;
        let mut connection = Self {
            stream: UnixStream::from_std(ours).map_err(Error::system("cannot make a socket"))?,
            spawner,
            pid,
            tag: options.node_tag.clone(),
            inbox: BytesMut::new(),
            outbox: Vec::new(),
            sent: 0,
            pending: HashMap::new(),
        };
        let json = serde_json::to_vec(options)
            .map_err(|_| Error::InvalidSpec("options do not encode".to_owned()))?;
        Request::Configure(json.into()).encode(&mut connection.outbox);
        let capabilities = connection.ready().await?;
        Ok((connection, capabilities))
    }

    async fn ready(&mut self) -> Result<Capabilities, Error> {
        loop {
            if let Some(frame) = take_frame(&mut self.inbox)? {
                let Report::Ready(json) = Report::decode(frame)? else {
                    return Err(Error::Frame("not ready yet"));
                };
                return serde_json::from_slice(&json)
                    .map_err(|_| Error::Frame("malformed capabilities"));
            }
            self.exchange().await?;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Serves until no handle is left, one of them says so, or the spawner is gone; then waits for its end.
    pub(crate) async fn serve(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        closed: watch::Sender<bool>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut is_ending = false;
        loop {
            let takes_commands = !is_ending && self.outbox.len() - self.sent < OUTBOX_HIGH_BYTES;
            tokio::select! {
                count = commands.recv_many(&mut batch, BATCH), if takes_commands => {
                    if count == 0 {
                        batch.push(Command::Shutdown);
                    }
                    for command in batch.drain(..) {
                        is_ending |= matches!(command, Command::Shutdown);
                        self.command(command);
                    }
                    if self.send().is_err() {
                        break;
                    }
                }
                exchanged = self.exchange() => {
                    if exchanged.and_then(|()| self.dispatch()).is_err() {
                        break;
                    }
                }
            }
        }
        commands.close();
        self.bury().await;
        // Only now do those who still wait learn that the spawner is gone.
        self.pending.clear();
        closed.send_replace(true);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Spawn {
                id,
                frame,
                events,
                place,
            } => {
                self.pending.insert(
                    id,
                    Pending {
                        events,
                        _place: place,
                    },
                );
                self.outbox.extend_from_slice(&frame);
            }
            Command::Send(request) => request.encode(&mut self.outbox),
            Command::Shutdown => Request::Shutdown.encode(&mut self.outbox),
        }
    }

    /// Waits until the socket can be read, or written if there is something to write, and does so. May be dropped
    /// and called again.
    async fn exchange(&mut self) -> Result<(), Error> {
        let unsent = self.sent < self.outbox.len();
        let interest = if unsent {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.stream
            .ready(interest)
            .await
            .map_err(Error::system("cannot wait for the spawner"))?;
        self.send()?;
        self.inbox.reserve(READ_BYTES);
        match self.stream.try_read_buf(&mut self.inbox) {
            Ok(0) => Err(Error::SpawnerGone),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Error::SpawnerGone),
        }
    }

    fn send(&mut self) -> Result<(), Error> {
        while self.sent < self.outbox.len() {
            match self.stream.try_write(&self.outbox[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Error::SpawnerGone),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(())
    }

    fn dispatch(&mut self) -> Result<(), Error> {
        while let Some(frame) = take_frame(&mut self.inbox)? {
            // Whoever dropped a process does not want to hear of it.
            match Report::decode(frame)? {
                Report::Ready(_) => {}
                Report::Output { id, stream, bytes } => {
                    if let Some(pending) = self.pending.get(&id) {
                        let _ = pending.events.send(Event::Output { stream, bytes });
                    }
                }
                Report::Exit { id, exit } => {
                    if let Some(pending) = self.pending.remove(&id) {
                        let _ = pending.events.send(Event::Exit(exit));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of the spawner. When that was not in order, what it left is removed here.
    async fn bury(&mut self) {
        let in_order = match tokio::time::timeout(MAX_WAIT, self.spawner.wait()).await {
            Ok(status) => status.is_ok_and(|status| status.success()),
            Err(_) => {
                tracing::warn!(pid = self.pid, "the spawner does not end and is killed");
                let _ = self.spawner.kill().await;
                false
            }
        };
        if !in_order {
            tracing::warn!(pid = self.pid, "the spawner did not end in order");
            let tag = self.tag.clone();
            let swept = tokio::task::spawn_blocking(move || crate::sweep(&tag)).await;
            if let Ok(Err(error)) = swept {
                tracing::error!(%error, "cannot clean up after the spawner");
            }
        }
    }
}

/// Executes the spawner with the socket as its only inherited descriptor.
fn execute(exe: &Path, socket: OwnedFd) -> Result<Child, Error> {
    let number = socket.as_raw_fd();
    let mut command = tokio::process::Command::new(exe);
    command
        .arg(crate::spawner::ARGUMENT)
        .arg(number.to_string());
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec the closure only makes one system call, on a descriptor that is open there.
    unsafe {
        command.pre_exec(move || {
            let socket = std::os::fd::BorrowedFd::borrow_raw(number);
            rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).map_err(Into::into)
        });
    }
    let spawned = command
        .spawn()
        .map_err(Error::system("cannot execute the spawner"));
    // Open until here, so that the child had it.
    drop(socket);
    spawned
}
