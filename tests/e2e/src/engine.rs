//! Servers of others on free ports, killed with their test.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weft_unit::conformance::images::free_port;

use crate::eventually;

/// How long a server may take to listen.
const READY: Duration = Duration::from_secs(60);

/// A `redis-server` or a `nats-server` with JetStream, whose data survives its death.
pub struct Engine {
    child: Option<Child>,
    dir: tempfile::TempDir,
    program: &'static str,
    /// Where it listens.
    pub port: u16,
}

impl Engine {
    /// Redis, which has given everything to the system before it answers, so that its own death
    /// loses nothing; `None` when it is not installed.
    pub fn redis() -> Option<Self> {
        Self::start("redis-server")
    }

    /// NATS with JetStream; `None` when it is not installed.
    pub fn nats() -> Option<Self> {
        Self::start("nats-server")
    }

    fn start(program: &'static str) -> Option<Self> {
        let port = free_port().expect("a free port");
        let mut engine = Self {
            child: None,
            dir: tempfile::tempdir().expect("a directory"),
            program,
            port,
        };
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("skipped: needs {program}");
            return None;
        }
        engine.restart();
        Some(engine)
    }

    /// Kills it without a warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on its data and its port.
    ///
    /// # Panics
    /// When it does not listen in time.
    pub fn restart(&mut self) {
        self.kill();
        let (port, dir) = (self.port.to_string(), self.dir.path());
        let mut command = Command::new(self.program);
        match self.program {
            "redis-server" => command
                .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "no", "--dir"]),
            _ => command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]),
        };
        let child = command
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
        eventually(&format!("{} listens", self.program), READY, || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Its address, as clients write it.
    pub fn url(&self) -> String {
        let scheme = if self.program == "redis-server" {
            "redis"
        } else {
            "nats"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}
