//! The agent's side: a guard while there is anything to guard, and another one when it dies.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use super::{GUARD_ARGUMENT, Guards, Shared};
use crate::backoff::Backoff;

/// The waits before another guard is started.
const FIRST_RESTART: Duration = Duration::from_millis(50);
const MAX_RESTART: Duration = Duration::from_secs(10);
/// A guard that lived this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// Keeps a guard for as long as the agent runs. When this is dropped the guard that is there goes
/// on without the agent.
pub(crate) async fn keep(guards: Guards) {
    let Some(shared) = guards.shared else {
        return;
    };
    let mut wanted = shared.wanted.subscribe();
    let mut backoff = Backoff::new(FIRST_RESTART, MAX_RESTART);
    loop {
        while !shared.has_units() {
            if wanted.changed().await.is_err() {
                return;
            }
        }
        let since = Instant::now();
        let ended = shared.guard(&mut wanted).await;
        shared.seen.send_replace(0);
        if !shared.has_units() {
            continue;
        }
        tracing::error!(
            why = ended,
            "the guard of exclusive units has ended; another one is started"
        );
        if since.elapsed() > LONG_LIFE {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

impl Shared {
    fn has_units(&self) -> bool {
        !self.list.lock().list.units.is_empty()
    }

    /// Runs one guard to its end, and says how it ended.
    async fn guard(&self, wanted: &mut watch::Receiver<u64>) -> String {
        let (mut child, mut input) = match self.spawn() {
            Ok(spawned) => spawned,
            Err(error) => return format!("it cannot be started: {error}"),
        };
        let Some(output) = child.stdout.take() else {
            return "it has no output".to_owned();
        };
        let mut lines = BufReader::new(output).lines();
        let mut last = String::new();
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => match line.parse() {
                        Ok(number) => _ = self.seen.send_replace(number),
                        Err(_) => last = line,
                    },
                    _ => break,
                },
                changed = wanted.changed() => {
                    // A guard that does not read any more has ended, and its output as well.
                    if changed.is_err() || input.write_all(b"\n").await.is_err() {
                        break;
                    }
                }
            }
        }
        drop(input);
        match child.wait().await {
            Ok(status) => format!("{status} {last}"),
            Err(error) => error.to_string(),
        }
    }

    fn spawn(&self) -> std::io::Result<(Child, ChildStdin)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(GUARD_ARGUMENT)
            .arg(self.place.data_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take();
        let input = input.ok_or_else(|| std::io::Error::other("it has no input"))?;
        Ok((child, input))
    }
}
