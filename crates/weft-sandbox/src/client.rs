//! The agent's side of the spawner.

use crate::connection::{Command, Connection};
use crate::disk::DiskWatch;
use crate::frame::{MAX_FRAME_BYTES, OUTPUT_WINDOW_BYTES, Request};
use crate::{Capabilities, Capture, Error, Event, Exit, Options, Sandbox, Spec, Stream};
use bytes::{Bytes, BytesMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// Longest wait for the spawner to get ready or to end.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(10);
/// Requests beyond those that run, before [`Client::spawn`] waits.
const MAX_QUEUED: usize = 1_024;

/// A running spawner. Cloning gives another handle to the same one; when the last is dropped, and the last
/// [`Process`], the spawner kills what it started and ends.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    capabilities: Capabilities,
    pid: u32,
    next_id: AtomicU64,
    /// One for each process from its request to its end; bounds every queue.
    places: Arc<Semaphore>,
    closed: watch::Receiver<bool>,
    disk: DiskWatch,
}

impl Client {
    /// Starts `exe __spawner <fd>` and waits until it is ready, having probed the machine.
    ///
    /// # Errors
    /// When the executable cannot be started or does not answer within ten seconds.
    pub async fn start(exe: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        crate::spawner::check_tag(&options.node_tag)?;
        let started = Connection::start(exe.as_ref(), &options);
        let (connection, capabilities) = tokio::time::timeout(MAX_WAIT, started)
            .await
            .map_err(|_| Error::SpawnerSilent("get ready"))??;
        let (commands, received) = mpsc::unbounded_channel();
        let (closing, closed) = watch::channel(false);
        let pid = connection.pid();
        let disk = DiskWatch::start(commands.downgrade(), options.disk_reserve_bytes);
        tokio::spawn(connection.serve(received, closing));
        let places = Arc::new(Semaphore::new(options.max_running as usize + MAX_QUEUED));
        let next_id = AtomicU64::new(1);
        Ok(Self(Arc::new(Shared {
            commands,
            capabilities,
            pid,
            next_id,
            places,
            closed,
            disk,
        })))
    }

    /// What the sandbox can do on this machine.
    pub fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    /// Process id of the spawner.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Starts a process. Whether it could be started is told by its [`Exit`]. Dropping the [`Process`] kills it.
    /// Waits while more processes are wanted than may run and queue.
    ///
    /// # Errors
    /// When the machine cannot build the sandbox asked for, the request is too large, or the spawner is gone.
    pub async fn spawn(&self, spec: Spec) -> Result<Process, Error> {
        self.check(&spec)?;
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let outputs = [spec.stdout, spec.stderr];
        let watched = spec
            .limits
            .disk_bytes
            .map(|limit| (disk_directory(&spec), limit));
        let mut frame = Vec::with_capacity(512);
        Request::Spawn {
            id,
            spec: Box::new(spec),
        }
        .encode(&mut frame);
        if frame.len() > MAX_FRAME_BYTES {
            return Err(Error::InvalidSpec(format!(
                "it takes more than {MAX_FRAME_BYTES} bytes with its input"
            )));
        }
        let place = Arc::clone(&self.0.places)
            .acquire_owned()
            .await
            .map_err(|_| Error::SpawnerGone)?;
        let (told, events) = mpsc::unbounded_channel();
        let command = Command::Spawn {
            id,
            frame,
            events: told,
            place,
        };
        self.0
            .commands
            .send(command)
            .map_err(|_| Error::SpawnerGone)?;
        let watched =
            watched.map(|(directory, limit_bytes)| self.0.disk.watch(id, directory, limit_bytes));
        Ok(Process {
            client: Arc::clone(&self.0),
            id,
            events,
            gives_credit: exceeds_window(outputs),
            consumed_bytes: 0,
            ended: false,
            _watched: watched,
        })
    }

    fn check(&self, spec: &Spec) -> Result<(), Error> {
        if spec.argv.first().is_none_or(|program| program.is_empty()) {
            return Err(Error::InvalidSpec("no program".to_owned()));
        }
        match &spec.sandbox {
            Sandbox::None => Ok(()),
            Sandbox::Full(_) if self.0.capabilities.full_sandbox() => Ok(()),
            Sandbox::Full(_) => {
                let missing = self
                    .0
                    .capabilities
                    .missing
                    .iter()
                    .filter(|missing| missing.required);
                Err(Error::Unavailable {
                    missing: missing.cloned().collect(),
                })
            }
        }
    }

    /// Starts a process and gathers its output until it ends. Dropping the future kills the process.
    ///
    /// # Errors
    /// As [`Client::spawn`], and when the spawner dies meanwhile.
    pub async fn run(&self, spec: Spec) -> Result<Finished, Error> {
        let mut process = self.spawn(spec).await?;
        let (mut stdout, mut stderr) = (Gathered::default(), Gathered::default());
        loop {
            match process.next_event().await? {
                Some(Event::Output {
                    stream: Stream::Stdout,
                    bytes,
                }) => stdout.add(bytes),
                Some(Event::Output {
                    stream: Stream::Stderr,
                    bytes,
                }) => stderr.add(bytes),
                Some(Event::Exit(exit)) => {
                    return Ok(Finished {
                        exit,
                        stdout: stdout.into_bytes(),
                        stderr: stderr.into_bytes(),
                    });
                }
                None => return Err(Error::SpawnerGone),
            }
        }
    }

    /// Resolves when the spawner has ended, for whatever reason. Everything it had started is dead by then.
    pub async fn closed(&self) {
        // A closed channel means that the connection is gone as well.
        let _ = self.0.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Kills everything, removes cgroups and waits until the spawner has ended.
    ///
    /// # Errors
    /// When it does not end within some ten seconds.
    pub async fn shutdown(&self) -> Result<(), Error> {
        // Gone already is what is wanted.
        let _ = self.0.commands.send(Command::Shutdown);
        tokio::time::timeout(MAX_WAIT * 2, self.closed())
            .await
            .map_err(|_| Error::SpawnerSilent("end"))
    }
}

/// Finds out what the sandbox can do on this machine, with a spawner (`exe __spawner`) of its own.
///
/// # Errors
/// When it cannot be started.
pub async fn probe(exe: impl AsRef<Path>) -> Result<Capabilities, Error> {
    let client = Client::start(exe, Options::new(format!("probe-{}", std::process::id()))).await?;
    let capabilities = client.capabilities().clone();
    client.shutdown().await?;
    Ok(capabilities)
}

/// Whether the spawner could come to wait for the agent to consume.
fn exceeds_window(outputs: [Capture; 2]) -> bool {
    let limits = outputs.map(|capture| match capture {
        Capture::Discard => 0,
        Capture::Pipe { limit_bytes } => limit_bytes,
    });
    limits[0].saturating_add(limits[1]) > OUTPUT_WINDOW_BYTES
}

/// The directory whose size is limited.
fn disk_directory(spec: &Spec) -> PathBuf {
    match &spec.sandbox {
        Sandbox::None => spec.cwd.clone(),
        Sandbox::Full(confinement) => confinement.work_dir.clone(),
    }
}

/// A process that was started.
#[derive(Debug)]
pub struct Process {
    client: Arc<Shared>,
    id: u64,
    events: mpsc::UnboundedReceiver<Event>,
    gives_credit: bool,
    /// Not told to the spawner yet.
    consumed_bytes: u64,
    ended: bool,
    _watched: Option<crate::disk::Watched>,
}

impl Process {
    /// The next thing it did; `None` after its [`Event::Exit`].
    ///
    /// # Errors
    /// When the spawner died.
    pub async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        if self.ended {
            return Ok(None);
        }
        let event = self.events.recv().await;
        match &event {
            Some(Event::Output { bytes, .. }) => self.consume(bytes.len() as u64),
            Some(Event::Exit(_)) => self.ended = true,
            None => {
                self.ended = true;
                return Err(Error::SpawnerGone);
            }
        }
        Ok(event)
    }

    fn consume(&mut self, bytes: u64) {
        self.consumed_bytes += bytes;
        if self.gives_credit && self.consumed_bytes >= OUTPUT_WINDOW_BYTES / 4 {
            let bytes = std::mem::take(&mut self.consumed_bytes);
            self.send(Request::Credit { id: self.id, bytes });
        }
    }

    /// Waits for its end, dropping output that was not taken yet.
    ///
    /// # Errors
    /// When the spawner died, and after the end was told already.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        loop {
            match self.next_event().await? {
                Some(Event::Exit(exit)) => return Ok(exit),
                Some(Event::Output { .. }) => {}
                None => return Err(Error::SpawnerGone),
            }
        }
    }

    /// Sends `signal` to it, and SIGKILL to it and all its descendants `grace` later if it still lives. Without
    /// grace, or for SIGKILL, all are killed at once. The end is told by [`Event::Exit`] as usual.
    pub fn kill(&self, signal: i32, grace: Duration) {
        self.send(Request::Kill {
            id: self.id,
            signal,
            grace,
        });
    }

    fn send(&self, request: Request) {
        // When the spawner is gone, so is the process.
        let _ = self.client.commands.send(Command::Send(request));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.kill(libc::SIGKILL, Duration::ZERO);
        }
    }
}

/// A process that has ended, with its output.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
}

/// Output in the making: one piece is passed on as it is, several are joined.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    joined: BytesMut,
}

impl Gathered {
    fn add(&mut self, bytes: Bytes) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = bytes;
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.joined.extend_from_slice(&first);
        self.joined.extend_from_slice(&bytes);
    }

    fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() {
            self.first
        } else {
            self.joined.freeze()
        }
    }
}
