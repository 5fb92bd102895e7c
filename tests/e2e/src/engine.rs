//! Servers of others on free ports, killed with their test.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// How long a server may take to listen.
const READY: Duration = Duration::from_secs(20);

/// A `redis-server` or a `nats-server` with JetStream, whose data survives its death.
pub struct Engine {
    child: Option<Child>,
    dir: tempfile::TempDir,
    program: &'static str,
    /// Where it listens.
    pub port: u16,
}

impl Engine {
    /// Redis, with everything on disk before it answers; `None` when it is not installed.
    pub fn redis() -> Option<Self> {
        Self::start("redis-server")
    }

    /// NATS with JetStream; `None` when it is not installed.
    pub fn nats() -> Option<Self> {
        Self::start("nats-server")
    }

    fn start(program: &'static str) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
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
                .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]),
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
