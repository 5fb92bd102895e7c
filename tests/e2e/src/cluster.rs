//! Servers and agents as processes of their own, killed with their test.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::{Weft, binary_in};
use crate::{eventually, eventually_some};

/// How long a server or an agent may take to be ready.
const READY: Duration = Duration::from_secs(90);

/// How a server is started.
#[derive(Clone)]
pub struct UpOptions {
    /// Agents inside the server's process.
    pub nodes: u32,
    /// Where it listens.
    pub listen: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// The network namespace it runs in.
    pub namespace: Option<String>,
    /// Where its data are, unless beneath the directory of the test.
    pub data_dir: Option<PathBuf>,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self {
            nodes: 0,
            listen: "127.0.0.1:0".to_owned(),
            args: Vec::new(),
            namespace: None,
            data_dir: None,
        }
    }
}

/// A server process with its data directory.
pub struct Cluster {
    /// Everything the test leaves on disk.
    pub dir: tempfile::TempDir,
    server: Option<Child>,
    options: UpOptions,
    /// A join token, good for one agent.
    pub join_token: String,
}

impl Cluster {
    /// Starts a server with this many agents in its process.
    pub fn up(nodes: u32) -> Self {
        Self::with(UpOptions {
            nodes,
            ..UpOptions::default()
        })
    }

    /// Starts a server.
    ///
    /// # Panics
    /// When it is not ready in time.
    pub fn with(options: UpOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Self {
            dir,
            server: None,
            options,
            join_token: String::new(),
        };
        cluster.start();
        if cluster.options.nodes > 0 {
            cluster.wait_for_healthy(cluster.options.nodes as usize);
        }
        cluster
    }

    /// Starts the server on its data directory; again after a kill, on the same address.
    ///
    /// # Panics
    /// When it is not ready in time.
    pub fn start(&mut self) {
        let mut command = binary_in(self.options.namespace.as_deref());
        command
            .args([
                "up",
                "-o",
                "json",
                "--no-mdns",
                "--nodes",
                &self.options.nodes.to_string(),
            ])
            .args(["--listen", &self.options.listen])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.options.args)
            .args(no_engine(&self.options.args))
            .stdout(Stdio::piped())
            .stderr(self.log_file("server"));
        let mut server = command.spawn().expect("the server starts");
        let stdout = server.stdout.take().expect("its output is a pipe");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its output can be read");
        let ready: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line:?}\n{}", self.log("server")));
        self.server = Some(server);
        self.join_token = ready["join_token"].as_str().unwrap_or_default().to_owned();
        // The next start takes the same port, so that agents find it again.
        let url = ready["server"].as_str().unwrap_or_default();
        if let Some((host, port)) = url.trim_start_matches("https://").rsplit_once(':') {
            let listen_host = self
                .options
                .listen
                .rsplit_once(':')
                .map_or(host, |(host, _)| host)
                .to_owned();
            self.options.listen = format!("{listen_host}:{port}");
        }
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        let chosen = self.options.data_dir.clone();
        chosen.unwrap_or_else(|| self.dir.path().join("server"))
    }

    /// Path of the `admin.json`.
    pub fn admin_file(&self) -> PathBuf {
        self.data_dir().join("admin.json")
    }

    /// The address of the server, as `https://…`.
    pub fn url(&self) -> String {
        let admin: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.admin_file()).expect("admin.json"))
                .expect("JSON");
        admin["server"].as_str().unwrap_or_default().to_owned()
    }

    /// A command on this cluster.
    pub fn weft<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(&self, args: I) -> Weft {
        Weft::in_namespace(self.options.namespace.as_deref(), args)
            .env("WEFT_CONTEXT", self.admin_file())
    }

    /// A connection to the server, made inside its network namespace.
    ///
    /// # Errors
    /// When the server does not take it.
    ///
    /// # Panics
    /// When there is no such namespace.
    pub fn dial(&self) -> std::io::Result<TcpStream> {
        let address = format!("{}:{}", self.host(), self.port());
        let Some(name) = self.options.namespace.clone() else {
            return TcpStream::connect(address);
        };
        // The namespace is that of the thread that makes the socket: one of its own is taken for it.
        let dialled = std::thread::spawn(move || {
            let namespace = std::fs::File::open(Path::new("/run/netns").join(&name));
            let namespace = namespace.expect("the namespace");
            // SAFETY: setns has no memory preconditions; the descriptor is open.
            let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
            TcpStream::connect(address)
        });
        dialled.join().expect("the thread ends")
    }

    /// A request of the API with `curl` and the cluster's credentials.
    pub fn curl(&self, args: &[&str], path: &str) -> std::process::Output {
        let pki = self.data_dir().join("pki/admin");
        let mut command = match &self.options.namespace {
            None => Command::new("curl"),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "curl"]);
                command
            }
        };
        command
            .args(["-sS", "--max-time", "60", "--resolve"])
            .arg(format!("weft:{}:{}", self.port(), self.host()))
            .arg("--cacert")
            .arg(pki.join("ca.pem"))
            .arg("--cert")
            .arg(pki.join("cert.pem"))
            .arg("--key")
            .arg(pki.join("key.pem"))
            .args(args)
            .arg(format!("https://weft:{}{path}", self.port()))
            .output()
            .expect("curl runs")
    }

    /// The host of the server's address.
    fn host(&self) -> String {
        let url = self.url();
        let address = url.trim_start_matches("https://");
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        host.to_owned()
    }

    /// The port of the server.
    pub fn port(&self) -> String {
        self.url().rsplit(':').next().unwrap_or_default().to_owned()
    }

    /// Kills the server without a warning.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        server.kill().expect("it can be killed");
        server.wait().expect("it can be waited for");
    }

    /// Process id of the server.
    ///
    /// # Panics
    /// When it does not run.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// Starts an agent that joins with a fresh token, and waits until it is healthy.
    pub fn agent(&self, id: &str, namespace: Option<&str>, args: &[&str]) -> AgentProcess {
        let agent = AgentProcess::start(self, id, Some(&self.token()), namespace, args);
        self.wait_for_state(id, "healthy");
        agent
    }

    /// A fresh join token, good for one agent.
    pub fn token(&self) -> String {
        self.weft(["token", "create", "-q"])
            .run()
            .expect_code(0)
            .stdout
            .trim()
            .to_owned()
    }

    /// The nodes as JSON.
    pub fn nodes(&self) -> Vec<serde_json::Value> {
        let done = self.weft(["node", "ls", "-o", "json"]).run();
        if done.code == 0 {
            done.json().as_array().cloned().unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// A service as the API shows it; null when there is none.
    ///
    /// # Panics
    /// When the server does not say in time whether there is.
    pub fn service(&self, namespace: &str, name: &str) -> serde_json::Value {
        let get = ["-n", namespace, "get", name, "-o", "json"];
        eventually_some(&format!("{name} is looked at"), READY, || {
            let done = self.weft(get).run();
            match done.code {
                0 => Some(done.json()),
                _ if done.stderr.contains("there is no") => Some(serde_json::Value::Null),
                _ => None,
            }
        })
    }

    /// The state of a node, empty when it is unknown.
    pub fn node_state(&self, id: &str) -> String {
        let nodes = self.nodes();
        let node = nodes.iter().find(|node| node["id"] == id);
        node.and_then(|node| node["state"].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits for the state of a node.
    pub fn wait_for_state(&self, id: &str, state: &str) {
        eventually(&format!("{id} is {state}"), READY, || {
            self.node_state(id) == state
        });
    }

    /// Waits until a node has found what runs this kind of work: it is healthy before that.
    pub fn wait_for_runtime(&self, id: &str, kind: &str) {
        eventually(&format!("{id} runs {kind}"), READY, || {
            let nodes = self.nodes();
            let node = nodes.iter().find(|node| node["id"] == id);
            let offered = node.and_then(|node| node["capacity"]["runtimes"].as_array());
            offered.is_some_and(|kinds| kinds.iter().any(|offered| offered == kind))
        });
    }

    /// Waits until this many nodes are healthy.
    pub fn wait_for_healthy(&self, count: usize) {
        eventually(&format!("{count} healthy nodes"), READY, || {
            self.nodes()
                .iter()
                .filter(|node| node["state"] == "healthy")
                .count()
                == count
        });
    }

    /// What a process of the cluster wrote to its standard error.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn log_file(&self, name: &str) -> Stdio {
        let path = self.dir.path().join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a log file");
        Stdio::from(file)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            eprintln!("server log:\n{}", self.log("server"));
        }
    }
}

/// An agent process.
pub struct AgentProcess {
    child: Child,
    /// Its data directory.
    pub data_dir: PathBuf,
}

impl AgentProcess {
    /// Starts an agent; with a token it joins, without one it uses the identity it has.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn start(
        cluster: &Cluster,
        id: &str,
        token: Option<&str>,
        namespace: Option<&str>,
        args: &[&str],
    ) -> Self {
        let data_dir = cluster.dir.path().join(id);
        let mut command = binary_in(namespace);
        command
            .args(["agent", "--id", id, "--data-dir"])
            .arg(&data_dir)
            .args(args)
            .args(no_engine(args));
        if let Some(token) = token {
            command.args(["--token", token]);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(cluster.log_file(id))
            .spawn()
            .expect("the agent starts");
        Self { child, data_dir }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory preconditions; the child is ours and not yet waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    /// Kills it without a warning.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its exit code, once it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child
            .try_wait()
            .ok()
            .flatten()
            .map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Looking for engines takes time and finds those of the machine: only tests of services want it.
fn no_engine<S: AsRef<str>>(args: &[S]) -> &'static [&'static str] {
    let chosen = args.iter().any(|arg| arg.as_ref() == "--engine");
    if chosen { &[] } else { &["--engine", "none"] }
}
