//! Commands inside a container that runs.

mod terminal;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use weft_types::Reason;
use weft_unit::{ExecInput, ExecOutput, ExecSession, ExecWanted, Step};

use crate::Error;
use crate::error::During;
use crate::monitor::RuntimeCommand;

use terminal::Terminal;

const CHUNK_BYTES: usize = 16 << 10;
/// Pieces that wait for a slow reader or a slow command.
const MAX_WAITING: usize = 64;
/// How long a runtime may take to say which process it has made, and how often is looked.
const NUMBERED: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A container that runs, as its OCI runtime finds it.
pub(crate) struct Inside {
    pub(crate) runtime: RuntimeCommand,
    /// Where the state of the runtime is seen.
    pub(crate) namespace: File,
    pub(crate) run: PathBuf,
    pub(crate) id: String,
}

impl Inside {
    /// A call of the runtime about the container.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Command, Error> {
        let namespace = self
            .namespace
            .try_clone()
            .during(|| "keep the mount namespace".into())?;
        let mut command = Command::new(&self.runtime.program);
        command
            .args(&self.runtime.options)
            .arg("--root")
            .arg(self.run.join("root"))
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Describes a command that is run as the container's own program is: by the same user, with
    /// the same variables and no more rights.
    fn write_process(&self, to: &Path, wanted: &ExecWanted) -> Result<(), Error> {
        let config = self.run.join("bundle/config.json");
        let (to, args, has_terminal) =
            (to.to_owned(), wanted.command.clone(), wanted.tty.is_some());
        within(&self.namespace, move || {
            let config: serde_json::Value = serde_json::from_slice(&std::fs::read(config)?)?;
            let mut process = config["process"].clone();
            process["args"] = args.into();
            process["terminal"] = has_terminal.into();
            std::fs::write(to, serde_json::to_vec(&process)?)
        })
        .during(|| "describe the command".into())
    }

    /// Runs a command in the container.
    pub(crate) fn exec(self, wanted: ExecWanted) -> Result<ExecSession, Error> {
        if wanted.tty.is_some() && self.runtime.is_sandbox {
            return Err(Error::Spec(
                "a sandbox gives no terminals; run the command without one".into(),
            ));
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("exec-{}-{count}", std::process::id());
        let pid_file = self.run.join(&name);
        let log = self.run.join(format!("{name}.log"));
        let process_file = self.run.join(format!("{name}.json"));
        self.write_process(&process_file, &wanted)?;
        let command = self.command(&[
            "--log",
            text(&log)?,
            "exec",
            "--process",
            text(&process_file)?,
            "--pid-file",
            text(&pid_file)?,
            &self.id,
        ])?;
        let inner = Inner {
            namespace: self
                .namespace
                .try_clone()
                .during(|| "keep the mount namespace".into())?,
            pid_file,
            process_file,
            log,
        };
        match wanted.tty {
            Some((columns, rows)) => with_terminal(command, inner, columns, rows),
            None => with_pipes(command, inner),
        }
    }
}

/// Does something where the monitor's mounts are seen.
fn within<T: Send + 'static>(
    namespace: &File,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let namespace = namespace.try_clone()?;
    // Only a thread that shares its working directory with no other can enter.
    let thread = std::thread::spawn(move || {
        let flags = rustix::thread::UnshareFlags::FS;
        // SAFETY: the thread ends here, and nothing of it is shared.
        unsafe { rustix::thread::unshare_unsafe(flags) }?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        work()
    });
    thread
        .join()
        .map_err(|_| std::io::Error::other("a thread ended early"))?
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str()
        .ok_or_else(|| Error::Spec(format!("{} is not text", path.display())))
}

/// The process in the container, to be killed with its session.
struct Inner {
    namespace: File,
    pid_file: PathBuf,
    process_file: PathBuf,
    log: PathBuf,
}

impl Inner {
    /// Reads a small file where the runtime wrote it, and removes it.
    fn take(&self, path: &Path) -> Option<String> {
        let path = path.to_owned();
        let read = within(&self.namespace, move || {
            let text = std::fs::read_to_string(&path);
            let _ = std::fs::remove_file(&path);
            text
        });
        read.ok()
    }

    /// The process, once the runtime has said which it is.
    fn process(&self) -> Option<i32> {
        let path = self.pid_file.clone();
        let read = within(&self.namespace, move || std::fs::read_to_string(&path));
        read.ok()?.trim().parse().ok()
    }

    /// Gives the terminal of the process the size of ours. Not every runtime passes on more than
    /// the first one: crun 1.8 does not.
    fn copy_size(&self, ours: &OwnedFd) -> std::io::Result<()> {
        let end = Instant::now() + NUMBERED;
        let process = loop {
            match self.process() {
                Some(process) => break process,
                None if Instant::now() > end => return Ok(()),
                None => std::thread::sleep(LOOK_AGAIN),
            }
        };
        let path = format!("/proc/{process}/fd/0");
        if !std::fs::read_link(&path)?.starts_with("/dev/pts") {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(&path, flags, Mode::empty())?;
        let size = rustix::termios::tcgetwinsize(ours)?;
        Ok(rustix::termios::tcsetwinsize(theirs, size)?)
    }

    /// Kills the process, which may be heard of before the runtime has said which it is: with the
    /// runtime gone nobody would know it. The runtime waits for it, so that its number is still its
    /// own.
    async fn kill(&self, runtime: &mut Child) {
        let end = Instant::now() + NUMBERED;
        while matches!(runtime.try_wait(), Ok(None)) && Instant::now() < end {
            if let Some(pid) = self.process().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The exit code of the command, where the runtime itself failed as shells have it.
    fn exit_code(&self, status: ExitStatus) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.take(&self.pid_file);
        self.take(&self.process_file);
        let said = self.take(&self.log).unwrap_or_default();
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let is_said = |words: &[&str]| words.iter().any(|word| said.contains(word));
        match code {
            0 => 0,
            _ if is_said(&["not found", "no such file", "No such file"]) => 127,
            _ if is_said(&["ermission denied"]) => 126,
            code => code,
        }
    }
}

fn with_pipes(mut command: Command, inner: Inner) -> Result<ExecSession, Error> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .during(|| "run the OCI runtime".into())?;
    let (input, inputs) = mpsc::channel(MAX_WAITING);
    let (outputs, output) = mpsc::channel(MAX_WAITING);
    let (done, exit) = oneshot::channel();
    if let Some(stdin) = child.stdin.take() {
        tokio::spawn(feed(stdin, inputs));
    }
    let out = child.stdout.take();
    let err = child.stderr.take();
    let gone = outputs.clone();
    tokio::spawn(async move {
        let reading = async {
            tokio::join!(
                pass_on(out, outputs.clone(), ExecOutput::Stdout),
                pass_on(err, outputs, ExecOutput::Stderr),
            );
        };
        let outcome = attend(child, reading, gone, &inner).await;
        let _ = done.send(outcome);
    });
    Ok(ExecSession {
        input,
        output,
        exit,
    })
}

/// Passes changes of the size on until the session ends.
async fn follow_size(inner: Arc<Inner>, ours: OwnedFd, mut resizes: mpsc::Receiver<()>) {
    let ours = Arc::new(ours);
    while resizes.recv().await.is_some() {
        let (inner, ours) = (Arc::clone(&inner), Arc::clone(&ours));
        let copied = tokio::task::spawn_blocking(move || inner.copy_size(&ours)).await;
        if let Ok(Err(error)) = copied {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    }
}

fn with_terminal(
    mut command: Command,
    inner: Inner,
    columns: u16,
    rows: u16,
) -> Result<ExecSession, Error> {
    let terminal = Terminal::open(columns, rows)?;
    let child = terminal.attach(&mut command)?;
    // The command holds the runtime's end: with it in our hands there would be no end of output.
    drop(command);
    let (input, inputs) = mpsc::channel(MAX_WAITING);
    let (outputs, output) = mpsc::channel(MAX_WAITING);
    let (done, exit) = oneshot::channel();
    let gone = outputs.clone();
    let (resized, resizes) = mpsc::channel(1);
    let inner = Arc::new(inner);
    tokio::spawn(follow_size(Arc::clone(&inner), terminal.end()?, resizes));
    tokio::spawn(async move {
        let talking = terminal.talk(inputs, outputs, resized);
        let outcome = attend(child, talking, gone, &inner).await;
        let _ = done.send(outcome);
    });
    Ok(ExecSession {
        input,
        output,
        exit,
    })
}

/// Waits for the command while its output is passed on; ends it when nobody listens any more.
async fn attend(
    mut child: Child,
    talking: impl Future<Output = ()>,
    listener: mpsc::Sender<ExecOutput>,
    inner: &Inner,
) -> Result<i32, weft_unit::Error> {
    let both = async {
        talking.await;
        child.wait().await
    };
    let waited = tokio::select! {
        status = both => Some(status),
        () = listener.closed() => None,
    };
    let status = match waited {
        Some(status) => status,
        None => {
            inner.kill(&mut child).await;
            let _ = child.start_kill();
            child.wait().await
        }
    };
    status
        .map(|status| inner.exit_code(status))
        .map_err(|e| weft_unit::Error::new(Step::Run, Reason::RuntimeError, e.to_string()))
}

async fn feed(mut stdin: ChildStdin, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        match input {
            ExecInput::Stdin(bytes) => {
                if stdin.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            ExecInput::Eof => return,
            ExecInput::Resize(..) => {}
        }
    }
}

async fn pass_on(
    source: Option<impl AsyncRead + Unpin>,
    out: mpsc::Sender<ExecOutput>,
    as_output: fn(Bytes) -> ExecOutput,
) {
    let Some(mut source) = source else {
        return;
    };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read) = source.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..read]);
        if read == 0 || out.send(as_output(bytes)).await.is_err() {
            return;
        }
    }
}
