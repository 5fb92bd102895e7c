//! What the suite asks of a backend's test, and what scenarios share.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_types::{UnitId, WorkloadId};

use crate::{
    Error, LogLine, LogsWanted, Observed, Owned, Phase, Unit, UnitRuntime, publish_address,
};

/// The port at which [`Program::Serve`] answers HTTP inside its unit.
pub const SERVE_PORT: u16 = 8080;

/// What is in the body of its answer.
pub const SERVED: &str = "served by weft";

/// How often is looked whether something has come true.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long the first answer of a unit is waited for, each further one a quarter longer. What
/// forwards to a unit may have taken the connection before the unit listens, and then tries again
/// only after many seconds.
const FIRST_ANSWER: Duration = Duration::from_millis(500);

/// What a unit of the suite does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// Prints `out-1`, `err-1` (to the standard error) and `out-2`, then answers HTTP at
    /// [`SERVE_PORT`] with [`SERVED`] until `SIGTERM`, upon which it ends with 0.
    Serve,
    /// Prints `bye` and ends with this code.
    Exit(u8),
    /// Prints `line-1` to `line-5` about 100 ms apart, then `last` half a second later, and ends
    /// with 0.
    Talk,
    /// Prints `deaf`, ignores `SIGTERM` and runs on.
    IgnoreTerm,
    /// Prints `hungry` and then takes memory without end; the unit's limit is up to the subject,
    /// and should be small.
    MemoryHog,
    /// Prints `forking` and then makes processes without end; the unit's limit is up to the
    /// subject, and should be small.
    ForkBomb,
    /// [`Program::Serve`] of an image, a source or a disk that is not there.
    MissingImage,
    /// [`Program::Serve`] of an image or a disk by a digest that it does not have.
    WrongDigest,
}

impl Program {
    /// The program for a `/bin/sh` of busybox; what is missing or wrong with the image is up to the
    /// subject.
    pub fn script(self) -> String {
        match self {
            Self::Serve | Self::MissingImage | Self::WrongDigest => format!(
                "trap 'exit 0' TERM; mkdir -p /tmp/www; echo '{SERVED}' > /tmp/www/index.html; \
                 echo out-1; echo err-1 >&2; echo out-2; \
                 busybox httpd -f -p {SERVE_PORT} -h /tmp/www & wait"
            ),
            Self::Exit(code) => format!("echo bye; exit {code}"),
            Self::Talk => "for n in 1 2 3 4 5; do echo line-$n; sleep 0.1; done; \
                 sleep 0.5; echo last"
                .to_owned(),
            Self::IgnoreTerm => "trap '' TERM; echo deaf; while :; do sleep 1; done".to_owned(),
            // `tail` keeps a line that never ends in memory.
            Self::MemoryHog => "echo hungry; exec tail /dev/zero".to_owned(),
            Self::ForkBomb => {
                "echo forking; bomb() { bomb | bomb & }; while :; do bomb; sleep 0.05; done"
                    .to_owned()
            }
        }
    }
}

/// What a kind can do; what it cannot is left out of the scenarios, and said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// Commands can be run inside.
    pub exec: bool,
    /// Commands can be given a terminal.
    pub tty: bool,
    /// The exit code of the program is told.
    pub exit_codes: bool,
    /// Standard output and error are told apart.
    pub stderr: bool,
    /// Memory beyond the limit ends the unit as `oom-killed`.
    pub memory_limit: bool,
    /// The number of processes is limited.
    pub process_limit: bool,
    /// [`UnitRuntime::changed`] resolves.
    pub events: bool,
    /// Environment variables from secrets reach commands inside.
    pub secret_env: bool,
    /// A unit is made of something that may be missing.
    pub images: bool,
    /// That something may be given with its digest.
    pub digests: bool,
}

impl Default for Abilities {
    /// All of them.
    fn default() -> Self {
        Self {
            exec: true,
            tty: true,
            exit_codes: true,
            stderr: true,
            memory_limit: true,
            process_limit: true,
            events: true,
            secret_env: true,
            images: true,
            digests: true,
        }
    }
}

/// A backend with its engine, under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The backend.
    fn runtime(&self) -> Arc<dyn UnitRuntime>;

    /// Another instance of the backend over the same engine and the same directories, as an agent
    /// has it that was killed and started again.
    async fn restarted(&self) -> Arc<dyn UnitRuntime>;

    /// The backend of another node at the same engine; `None` when that cannot be.
    async fn stranger(&self) -> Option<Arc<dyn UnitRuntime>>;

    /// A unit of this id that does what the program says. Everything else is up to the subject; it
    /// is the same at each call.
    fn unit(&self, id: UnitId, program: Program) -> Unit;

    /// What the kind can do.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    /// Why a scenario does not apply to the kind; `None` when it does.
    fn not_applicable(&self, _scenario: &str) -> Option<String> {
        None
    }

    /// How long anything may take: starting, stopping, answering.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    /// How many instances of a unit there are, counted from the outside; `None` when that cannot be
    /// seen.
    async fn instances(&self, id: UnitId) -> Option<usize>;

    /// What is there of any unit, seen from the outside: processes, mounts, network interfaces,
    /// control groups, containers, files. One line each.
    async fn leftovers(&self) -> Vec<String>;
}

/// Why a scenario failed, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed(pub String);

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Failed {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(format!("{} ({}) {:?}", error, error.reason, error.evidence))
    }
}

/// How a scenario went.
pub type Outcome = Result<(), Failed>;

/// Fails unless something holds.
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds {
        return Ok(());
    }
    Err(Failed(what()))
}

/// A new unit id, unlike those of any other run.
pub fn fresh_id() -> UnitId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let unique = (now.as_micros() as u64) ^ (u64::from(std::process::id()) << 44);
    UnitId {
        workload: WorkloadId(unique.wrapping_add(count)),
        number: 1 + (count % 1_000) as u32,
    }
}

/// What a scenario stands on: the subject, its backend and what is asked of it again and again.
pub struct Ground<'a> {
    /// The subject.
    pub subject: &'a dyn Subject,
    /// Its backend.
    pub runtime: Arc<dyn UnitRuntime>,
    /// What the kind can do.
    pub can: Abilities,
}

impl<'a> Ground<'a> {
    /// The ground of a subject.
    pub fn new(subject: &'a dyn Subject) -> Self {
        Self {
            subject,
            runtime: subject.runtime(),
            can: subject.abilities(),
        }
    }

    /// A new unit.
    pub fn unit(&self, program: Program) -> Unit {
        self.subject.unit(fresh_id(), program)
    }

    /// Prepares and starts a unit.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn start(&self, unit: &Unit) -> Outcome {
        let progress = tokio::sync::watch::Sender::new(String::new());
        self.within("prepare", self.runtime.prepare(unit, &progress))
            .await??;
        self.within("start", self.runtime.start(unit)).await??;
        Ok(())
    }

    /// A new unit that was started.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn started(&self, program: Program) -> Result<Unit, Failed> {
        let unit = self.unit(program);
        self.start(&unit).await?;
        Ok(unit)
    }

    /// Awaits a call, for as long as anything may take.
    ///
    /// # Errors
    /// When it takes longer.
    pub async fn within<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, Failed> {
        let patience = self.subject.patience();
        tokio::time::timeout(patience, call)
            .await
            .map_err(|_| Failed(format!("{what} took longer than {patience:?}")))
    }

    /// Waits until there is something; fails with the last of what was seen instead.
    ///
    /// # Errors
    /// When there is not in time.
    pub async fn eventually<T, F>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, String>>,
    {
        let end = Instant::now() + self.subject.patience();
        loop {
            match self.within(what, look()).await? {
                Ok(found) => return Ok(found),
                Err(seen) if Instant::now() > end => {
                    return Err(Failed(format!("not in time: {what}; instead: {seen}")));
                }
                Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// How an instance is.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn observe(&self, id: UnitId) -> Result<Observed, Failed> {
        Ok(self.within("observe", self.runtime.observe(id)).await??)
    }

    /// Waits until an instance is as wanted.
    ///
    /// # Errors
    /// When it is not in time, with how it is.
    pub async fn until(
        &self,
        id: UnitId,
        what: &str,
        is: impl Fn(&Observed) -> bool,
    ) -> Result<Observed, Failed> {
        let is = &is;
        self.eventually(what, || async move {
            let observed = self.observe(id).await.map_err(|failed| failed.0)?;
            if is(&observed) {
                return Ok(observed);
            }
            Err(format!("{observed:?}"))
        })
        .await
    }

    /// Waits until an instance has ended.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_exited(&self, id: UnitId) -> Result<Phase, Failed> {
        let ended = |seen: &Observed| matches!(seen.phase, Phase::Exited { .. });
        Ok(self.until(id, "the instance has ended", ended).await?.phase)
    }

    /// Waits until a unit of [`Program::Serve`] answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_serving(&self, id: UnitId) -> Outcome {
        let mut patience = FIRST_ANSWER;
        self.eventually("the unit answers HTTP", || {
            let at_most = patience;
            patience = patience.saturating_add(patience / 4);
            async move {
                let observed = self.observe(id).await.map_err(|failed| failed.0)?;
                let address = publish_address(&observed, SERVE_PORT)
                    .ok_or_else(|| format!("no address in {observed:?}"))?;
                let body = tokio::time::timeout(at_most, http_get(address))
                    .await
                    .map_err(|_| format!("{address} is silent for {at_most:?}; {observed:?}"))?
                    .map_err(|e| format!("{address}: {e}; {observed:?}"))?;
                if body.contains(SERVED) {
                    return Ok(());
                }
                Err(format!("answered {body:?}"))
            }
        })
        .await
    }

    /// All lines of an instance so far.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn lines(&self, id: UnitId, wanted: LogsWanted) -> Result<Vec<LogLine>, Failed> {
        let mut stream = self.within("logs", self.runtime.logs(id, wanted)).await??;
        self.within("the end of the log", async {
            let mut lines = Vec::new();
            while let Some(line) = stream.recv().await {
                lines.push(line);
            }
            lines
        })
        .await
    }

    /// Waits until an instance has printed a line.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_printed(&self, id: UnitId, wanted: &str) -> Outcome {
        self.eventually(&format!("{wanted:?} is printed"), || async move {
            let all = self.lines(id, LogsWanted::default()).await;
            let lines = all.map_err(|failed| failed.0)?;
            if lines.iter().any(|line| text(line) == wanted) {
                return Ok(());
            }
            Err(format!("{lines:?}"))
        })
        .await
    }

    /// What a backend has of a unit.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn owned(
        &self,
        runtime: &Arc<dyn UnitRuntime>,
        id: UnitId,
    ) -> Result<Vec<Owned>, Failed> {
        let mut all = self.within("list", runtime.list()).await??;
        all.retain(|owned| owned.unit == id);
        Ok(all)
    }

    /// Removes a unit and sees that it is gone.
    ///
    /// # Errors
    /// When it is not.
    pub async fn remove(&self, id: UnitId) -> Outcome {
        self.within("remove", self.runtime.remove(id, false))
            .await??;
        let observed = self.observe(id).await?;
        ensure(observed.phase == Phase::Absent, || {
            format!("removed, and yet {observed:?}")
        })?;
        let owned = self.owned(&self.runtime, id).await?;
        ensure(owned.is_empty(), || format!("removed, and yet {owned:?}"))
    }
}

/// A line as text.
pub(super) fn text(line: &LogLine) -> String {
    String::from_utf8_lossy(&line.line).trim_end().to_owned()
}

async fn http_get(address: std::net::SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: weft\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
