//! The agent's side of the spawner.

use crate::{Capabilities, Error, Event, Exit, Options, Spec};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;

/// A running spawner. Cloning gives another handle to the same one; when the last is dropped, the spawner
/// kills what it started and ends.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// Starts `exe __spawner <fd>` and waits until it is ready, having probed the machine.
    ///
    /// # Errors
    /// When the executable cannot be started or does not answer within ten seconds.
    pub async fn start(exe: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let _ = (exe, options);
        Err(Error::SpawnerGone)
    }

    /// What the sandbox can do on this machine.
    pub fn capabilities(&self) -> &Capabilities {
        unreachable!()
    }

    /// Process id of the spawner.
    pub fn pid(&self) -> u32 {
        0
    }

    /// Starts a process. Whether it could be started is told by its [`Exit`]. Dropping the [`Process`] kills it.
    ///
    /// # Errors
    /// When the machine cannot build the sandbox asked for, the request is too large, or the spawner is gone.
    pub async fn spawn(&self, spec: Spec) -> Result<Process, Error> {
        let _ = spec;
        Err(Error::SpawnerGone)
    }

    /// Starts a process and gathers its output until it ends. Dropping the future kills the process.
    ///
    /// # Errors
    /// As [`Client::spawn`], and when the spawner dies meanwhile.
    pub async fn run(&self, spec: Spec) -> Result<Finished, Error> {
        let _ = spec;
        Err(Error::SpawnerGone)
    }

    /// Resolves when the spawner has ended, for whatever reason. Everything it had started is dead by then.
    pub async fn closed(&self) {}

    /// Kills everything, removes cgroups and waits until the spawner has ended.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub async fn shutdown(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A process that was started.
#[derive(Debug)]
pub struct Process {}

impl Process {
    /// The next thing it did; `None` after its [`Event::Exit`].
    ///
    /// # Errors
    /// When the spawner died.
    pub async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        Ok(None)
    }

    /// Waits for its end, dropping output that was not taken yet.
    ///
    /// # Errors
    /// When the spawner died.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        Err(Error::SpawnerGone)
    }

    /// Sends `signal` to it, and SIGKILL to it and all its descendants `grace` later if it still lives. The end
    /// is told by [`Event::Exit`] as usual.
    pub fn kill(&self, signal: i32, grace: Duration) {
        let _ = (signal, grace);
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
