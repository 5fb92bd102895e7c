//! Runs of the binary.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a command may take unless the test says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);

/// A command line under way of being put together.
pub struct Weft {
    command: Command,
    timeout: Duration,
    stdin: Option<Vec<u8>>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code; 128 + n after signal n, as a shell has it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The binary under test.
///
/// # Panics
/// When `WEFT_BIN` does not name it.
fn binary() -> PathBuf {
    PathBuf::from(std::env::var_os("WEFT_BIN").expect("WEFT_BIN names the binary: run `./x e2e`"))
}

/// The binary, inside a network namespace if one is named.
pub(crate) fn binary_in(namespace: Option<&str>) -> Command {
    match namespace {
        None => Command::new(binary()),
        Some(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name]).arg(binary());
            command
        }
    }
}

impl Weft {
    /// The binary with these arguments and an environment without configuration.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Self {
        Self::in_namespace(None, args)
    }

    /// The same, inside a network namespace if one is named.
    pub fn in_namespace<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(
        namespace: Option<&str>,
        args: I,
    ) -> Self {
        let mut command = binary_in(namespace);
        command.args(args);
        for variable in [
            "WEFT_CONTEXT",
            "WEFT_SERVER",
            "WEFT_TOKEN",
            "WEFT_CONFIG",
            "WEFT_DATA_DIR",
        ] {
            command.env_remove(variable);
        }
        command
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .env("XDG_DATA_HOME", "/nonexistent");
        Self {
            command,
            timeout: DEFAULT_TIMEOUT,
            stdin: None,
        }
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// With a working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// With another bound on its time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Starts it and returns the running process.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut self) -> Child {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.command.spawn().expect("the binary starts")
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes longer than its bound.
    pub fn run(mut self) -> Done {
        let stdin = self.stdin.take();
        self.command.stdin(if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the binary starts");
        if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        finish(child, self.timeout, &format!("{:?}", self.command))
    }
}

/// Waits for the end of a process and gathers its output.
///
/// # Panics
/// When it takes longer than the bound; it is killed then.
pub fn finish(mut child: Child, timeout: Duration, what: &str) -> Done {
    use std::os::unix::process::ExitStatusExt;
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    let end = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "not done within {timeout:?}: {what}\nstdout: {}\nstderr: {}",
                stdout.join().unwrap_or_default(),
                stderr.join().unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Done {
        code,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

fn gather<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Done {
    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Standard output as lines of JSON.
    ///
    /// # Panics
    /// When a line is not JSON.
    pub fn ndjson(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        self.stdout.lines().map(parse).collect()
    }

    /// Standard output as one JSON value.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}
