//! Real servers on free ports, killed with their test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server of somebody else.
pub struct Engine {
    child: Child,
    _dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
}

impl Engine {
    /// Starts a program once it answers on its port; `None` when it is not installed.
    pub fn start(program: &str, args: impl Fn(&str, &str) -> Vec<String>) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let args = args(&port.to_string(), &dir.path().display().to_string());
        let spawned = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            eprintln!("skipped: needs {program}");
            return None;
        };
        let engine = Self {
            child,
            _dir: dir,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(engine)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
