//! Peers to measure beside: packages of pinned versions, installed beneath `target/peers` at the
//! first use, and a Redis of the benchmark's own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weft_e2e::eventually;
use weft_unit::conformance::images::free_port;

/// How long a Redis may take to answer.
const REDIS_READY: Duration = Duration::from_secs(10);

/// The interpreter of a virtual environment that has these packages (pip's requirements, separated
/// by spaces); `None` where that does not go.
pub fn python_with(requirements: &str) -> Option<PathBuf> {
    let directory = installed().join(directory_name(requirements));
    let python = directory.join("bin/python");
    let is_there =
        python.exists() || succeeds(Command::new("python3").args(["-m", "venv"]).arg(&directory));
    let install = ["-m", "pip", "install", "-q"];
    let requirements = requirements.split(' ');
    let mut pip = Command::new(&python);
    (is_there && succeeds(pip.args(install).args(requirements))).then_some(python)
}

/// A directory whose `node_modules` has these packages (`name@version`, separated by spaces); `None`
/// where that does not go.
pub fn node_with(packages: &str) -> Option<PathBuf> {
    let directory = installed().join(directory_name(packages));
    fs::create_dir_all(&directory).ok()?;
    // Without a manifest of its own npm would install into a directory further up.
    let manifest = directory.join("package.json");
    if !manifest.exists() {
        fs::write(&manifest, "{\"private\": true}").ok()?;
    }
    let install = ["install", "--prefer-offline", "--no-audit", "--no-fund"];
    let mut npm = Command::new("npm");
    npm.current_dir(&directory).args(install);
    npm.args(packages.split(' '));
    (succeeds(Command::new("node").arg("--version")) && succeeds(&mut npm)).then_some(directory)
}

fn installed() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers"))
}

fn directory_name(packages: &str) -> String {
    let kept = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    packages.replace("==", "-").chars().map(kept).collect()
}

/// Runs a script of `benches/peers`, which prints the seconds it took on its last line: by its own
/// clock, so that starting and stopping have no part in it.
///
/// # Panics
/// When it prints none.
pub fn run_script(command: &mut Command, script: &str, args: &[String]) -> Duration {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(script);
    let output = command.arg(path).args(args).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let seconds = printed.lines().last().and_then(|line| line.parse().ok());
    let said = String::from_utf8_lossy(&output.stderr);
    Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("{script} failed: {said}")))
}

/// A Redis that acknowledges no write before it is on disk; it ends with this value.
pub struct Redis {
    server: Child,
    /// Where it listens, on loopback.
    pub port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    /// Starts one on a free port; `None` where it is not installed.
    ///
    /// # Panics
    /// When it is installed and does not answer.
    pub fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port().expect("a free port");
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--save", "", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let redis = Self {
            server,
            port,
            _dir: dir,
        };
        eventually("redis-server answers", REDIS_READY, || redis.answers());
        Some(redis)
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let mut line = String::new();
        let asked = stream.write_all(b"PING\r\n");
        asked.is_ok() && BufReader::new(stream).read_line(&mut line).is_ok() && line == "+PONG\r\n"
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
