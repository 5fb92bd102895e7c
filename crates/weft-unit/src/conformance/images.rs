//! Images and a registry for backends that need them, made from Debian packages: `docker-registry`,
//! `umoci`, `skopeo` and `busybox-static`. Nothing is fetched from the network.
//!
//! ```no_run
//! use weft_unit::conformance::images::{Registry, busybox};
//! let dir = std::env::temp_dir().join("example");
//! let registry = Registry::start(&dir)?;
//! let image = registry.push(&busybox(&dir, "busybox", &[])?, "busybox:1")?;
//! println!("{} is {}", image.tagged, image.digested);
//! # Ok::<(), String>(())
//! ```

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where Debian's `busybox-static` is.
const BUSYBOX: &str = "/bin/busybox";
const READY: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The first program that this module needs and this machine lacks; with `None` all is there.
pub fn missing() -> Option<&'static str> {
    let programs = ["docker-registry", "umoci", "skopeo", "busybox"];
    programs.into_iter().find(|program| !is_installed(program))
}

/// Whether a program is found in `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// That it could not be run, or how it failed with what it printed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let ran = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command:?}: {e}"))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        return Err(format!("{command:?}: {}: {said}", ran.status));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

fn io<T>(what: &Path, outcome: std::io::Result<T>) -> Result<T, String> {
    outcome.map_err(|e| format!("{}: {e}", what.display()))
}

/// An image in an OCI layout on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// The layout with its tag, as `umoci` and `skopeo` write it after `oci:`.
    pub layout: String,
}

/// What becomes of a root file system when it is made into an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageConfig {
    /// Entry point and its arguments.
    pub entrypoint: Vec<String>,
    /// Further files: path inside, content, whether it may be executed.
    pub files: Vec<(String, Vec<u8>, bool)>,
}

/// An image of busybox alone: a shell with all of its applets, `root` and `nobody` as users,
/// `/tmp`. Its entry point is the shell unless another is given.
///
/// # Errors
/// What could not be made.
pub fn busybox(dir: &Path, name: &str, entrypoint: &[&str]) -> Result<Image, String> {
    let config = ImageConfig {
        entrypoint: entrypoint.iter().map(|&part| part.to_owned()).collect(),
        files: Vec::new(),
    };
    build(dir, name, &config)
}

/// An image of busybox with further files.
///
/// # Errors
/// What could not be made.
pub fn build(dir: &Path, name: &str, config: &ImageConfig) -> Result<Image, String> {
    let rootfs = dir.join(format!("{name}-rootfs"));
    root_file_system(&rootfs)?;
    for (path, content, is_executable) in &config.files {
        let at = rootfs.join(path.trim_start_matches('/'));
        if let Some(parent) = at.parent() {
            io(parent, fs::create_dir_all(parent))?;
        }
        io(&at, fs::write(&at, content))?;
        set_mode(&at, if *is_executable { 0o755 } else { 0o644 })?;
    }
    let image = to_image(dir, name, &rootfs, &config.entrypoint)?;
    io(&rootfs, fs::remove_dir_all(&rootfs))?;
    Ok(image)
}

/// Programs of this machine with the libraries that they need, as files of an image.
///
/// # Errors
/// What could not be read.
pub fn programs(paths: &[&str]) -> Result<Vec<(String, Vec<u8>, bool)>, String> {
    let mut files = Vec::new();
    for path in paths {
        let real = io(Path::new(path), fs::canonicalize(path))?;
        let said = output(Command::new("ldd").arg(&real))?;
        for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
            files.push((
                library.to_owned(),
                io(Path::new(library), fs::read(library))?,
                true,
            ));
        }
        files.push(((*path).to_owned(), io(&real, fs::read(&real))?, true));
    }
    Ok(files)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    io(
        path,
        fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    )
}

/// Makes a root file system of busybox in a directory that is not there yet.
///
/// # Errors
/// What could not be made.
pub fn root_file_system(rootfs: &Path) -> Result<(), String> {
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "var"] {
        let dir = rootfs.join(name);
        io(&dir, fs::create_dir_all(&dir))?;
    }
    set_mode(rootfs, 0o755)?;
    set_mode(&rootfs.join("tmp"), 0o1777)?;
    let busybox = rootfs.join("bin/busybox");
    io(Path::new(BUSYBOX), fs::copy(BUSYBOX, &busybox))?;
    set_mode(&busybox, 0o755)?;
    for applet in output(Command::new(BUSYBOX).arg("--list"))?.lines() {
        let link = rootfs.join("bin").join(applet);
        if !link.exists() {
            io(&link, symlink("busybox", &link))?;
        }
    }
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ];
    for (name, content) in files {
        let at = rootfs.join(name);
        io(&at, fs::write(&at, content))?;
    }
    Ok(())
}

fn to_image(dir: &Path, name: &str, rootfs: &Path, entrypoint: &[String]) -> Result<Image, String> {
    let layout = dir.join(format!("{name}-layout"));
    let tagged = format!("{}:latest", layout.display());
    let umoci = || Command::new("umoci");
    output(umoci().arg("init").arg("--layout").arg(&layout))?;
    output(umoci().args(["new", "--image", &tagged]))?;
    output(
        umoci()
            .args(["insert", "--image", &tagged])
            .arg(rootfs)
            .arg("/"),
    )?;
    let mut config = umoci();
    config.args(["config", "--image", &tagged]);
    config.args(["--config.env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    let shell = ["/bin/sh".to_owned()];
    let entrypoint = if entrypoint.is_empty() {
        &shell[..]
    } else {
        entrypoint
    };
    for part in entrypoint {
        config.arg("--config.entrypoint").arg(part);
    }
    output(&mut config)?;
    Ok(Image { layout: tagged })
}

/// An image at a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Reference by tag: `127.0.0.1:PORT/NAME:TAG`.
    pub tagged: String,
    /// Reference by digest: `127.0.0.1:PORT/NAME@sha256:…`.
    pub digested: String,
    /// The digest alone: `sha256:…`.
    pub digest: String,
}

/// A `docker-registry` over plain HTTP on a free port of loopback, ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    dir: PathBuf,
    credentials: Option<(String, String)>,
    /// Where it listens: `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// One that lets everybody in; its data is kept beneath `dir`.
    ///
    /// # Errors
    /// That it does not start, with what it printed.
    pub fn start(dir: &Path) -> Result<Self, String> {
        Self::launch(dir, None)
    }

    /// One that wants a name and a password. Needs `htpasswd` of apt's `apache2-utils`.
    ///
    /// # Errors
    /// That it does not start, with what it printed.
    pub fn with_password(dir: &Path, user: &str, password: &str) -> Result<Self, String> {
        Self::launch(dir, Some((user.to_owned(), password.to_owned())))
    }

    fn launch(dir: &Path, credentials: Option<(String, String)>) -> Result<Self, String> {
        let port = free_port()?;
        let dir = dir.join(format!("registry-{port}"));
        io(&dir, fs::create_dir_all(dir.join("data")))?;
        let address = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.join("data").display()
        );
        if let Some((user, password)) = &credentials {
            let file = dir.join("htpasswd");
            let hashed = output(Command::new("htpasswd").args(["-Bbn", user, password]))?;
            io(&file, fs::write(&file, format!("{hashed}\n")))?;
            config.push_str(&format!(
                "auth:\n  htpasswd: {{realm: weft, path: {}}}\n",
                file.display()
            ));
        }
        let file = dir.join("config.yml");
        io(&file, fs::write(&file, config))?;
        let log = dir.join("log");
        let log_file = io(&log, fs::File::create(&log))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .map_err(|e| format!("docker-registry: {e}"))?;
        let mut registry = Self {
            child,
            dir,
            credentials,
            address,
        };
        registry.wait_until_ready(&log)?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self, log: &Path) -> Result<(), String> {
        let end = Instant::now() + READY;
        while TcpStream::connect(&self.address).is_err() {
            let has_ended = matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
            if has_ended || Instant::now() > end {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("docker-registry does not listen: {said}"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Puts an image under `NAME:TAG`.
    ///
    /// # Errors
    /// What `skopeo` said.
    pub fn push(&self, image: &Image, name_and_tag: &str) -> Result<Pushed, String> {
        let tagged = format!("{}/{name_and_tag}", self.address);
        let digest_file = self.dir.join("pushed-digest");
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
        copy.arg("--digestfile").arg(&digest_file);
        if let Some((user, password)) = &self.credentials {
            copy.arg(format!("--dest-creds={user}:{password}"));
        }
        copy.arg(format!("oci:{}", image.layout));
        copy.arg(format!("docker://{tagged}"));
        output(&mut copy)?;
        let digest = io(&digest_file, fs::read_to_string(&digest_file))?;
        let digest = digest.trim().to_owned();
        let name = name_and_tag.split(':').next().unwrap_or(name_and_tag);
        Ok(Pushed {
            digested: format!("{}/{name}@{digest}", self.address),
            tagged,
            digest,
        })
    }

    /// Its configuration: another `docker-registry serve` with it, in another network namespace,
    /// serves the same images under the same references.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.yml")
    }

    /// The file that holds a blob or manifest of this digest, for tests that tamper with it.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hash = digest.trim_start_matches("sha256:");
        let prefix = hash.get(..2).unwrap_or_default();
        self.dir
            .join("data/docker/registry/v2/blobs/sha256")
            .join(prefix)
            .join(hash)
            .join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of loopback that nobody listens at, below those that the system gives to whoever wants
/// any: until its server listens, no connection takes it.
///
/// # Errors
/// That there is none.
pub fn free_port() -> Result<u16, String> {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    let from = std::process::id().wrapping_mul(61);
    let drawn = std::iter::repeat_with(|| DRAWN.fetch_add(1, Ordering::Relaxed));
    drawn
        .take(1_000)
        .map(|drawn| 12_000 + (from.wrapping_add(drawn) % 20_000) as u16)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| "no free port of 1,000 that were tried".to_owned())
}
