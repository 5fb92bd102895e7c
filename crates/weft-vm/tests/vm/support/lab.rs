//! A node with a directory of its own, looked at from the outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use weft_types::{BlobHash, Reason};
use weft_unit::{Error, Step};
use weft_vm::{ArtifactSource, Options, Vms};

use super::guest::{self, Guest};
use super::{INITRD, KERNEL};

/// How long killed processes may take to leave their control groups.
const END: Duration = Duration::from_secs(10);

/// Files by hash, as a store of artifacts has them.
pub struct Files(pub BTreeMap<BlobHash, PathBuf>);

#[async_trait]
impl ArtifactSource for Files {
    async fn path(&self, hash: BlobHash) -> Result<PathBuf, Error> {
        let missing = || Error::new(Step::Prepare, Reason::ArtifactMissing, "not there");
        self.0.get(&hash).cloned().ok_or_else(missing)
    }
}

/// A node with its directory. When dropped, what a failed test has left of it goes.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub guest: &'static Guest,
    pub node: String,
}

impl Lab {
    /// `None` when the machine lacks something, which is printed.
    pub fn new(name: &str) -> Option<Self> {
        let guest = match guest::guest() {
            Ok(guest) => guest,
            Err(why) => {
                eprintln!("skipped: needs {why}");
                return None;
            }
        };
        let node = format!("{name}-{}", std::process::id());
        let dir = tempfile::Builder::new().prefix("weft-vm-").tempdir();
        let dir = dir.expect("a directory for the test");
        Some(Self { dir, guest, node })
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data,with comma")
    }

    fn fast_pool(&self) -> PathBuf {
        self.dir.path().join("fast pool,")
    }

    pub fn options(&self) -> Options {
        let node = self.node.parse().expect("a node's name");
        let mut options = Options::new(self.data_dir(), node);
        let files = [
            (KERNEL, self.guest.kernel.clone()),
            (INITRD, self.guest.initrd.clone()),
        ];
        options.artifacts = Some(Arc::new(Files(files.into())));
        options.pools.insert("fast".to_owned(), self.fast_pool());
        options
    }

    pub async fn open(&self) -> Vms {
        Vms::open(self.options()).await.expect("the runtime opens")
    }

    /// Processes, control groups and files of units, seen from the outside.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.processes("");
        let groups = self.groups().into_iter();
        left.extend(groups.map(|group| group.display().to_string()));
        let data = self.data_dir();
        for dir in [data.join("pool"), self.fast_pool(), data.join("nodes")] {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        left
    }

    /// Emulators that were started with this directory, by number and command line.
    fn emulators(&self) -> Vec<(String, String)> {
        let ours = self.dir.path().display().to_string();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = all.filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let is_ours = line.contains("qemu-system") && line.contains(&ours);
            is_ours.then(|| (entry.file_name().to_string_lossy().into_owned(), line))
        });
        lines.collect()
    }

    /// The command lines of emulators that were started with this directory, and have `text`.
    pub fn processes(&self, text: &str) -> Vec<String> {
        let lines = self.emulators().into_iter().map(|(_, line)| line);
        lines.filter(|line| line.contains(text)).collect()
    }

    /// The number of a unit's emulator.
    pub fn pid(&self, unit: weft_types::UnitId) -> Option<String> {
        let named = format!("guest={unit} ");
        let all = self.emulators().into_iter();
        let mut ours = all.filter(|(_, line)| line.contains(&named));
        ours.next().map(|(pid, _)| pid)
    }

    /// The node's control groups in all hierarchies.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let name = format!("weft-vm-{}", self.node);
        find_dirs(Path::new("/sys/fs/cgroup"), &name, &mut found);
        found
    }

    /// The table of rules that keep the node's machines from its loopback.
    pub fn table(&self) -> String {
        let named = format!("{} {}", self.node, self.data_dir().display());
        let hash = digest(&SHA256, named.as_bytes());
        format!("weft-vm-{}", hex::encode(&hash.as_ref()[..6]))
    }
}

/// What `nft` prints; nothing where there is none.
pub fn nft(arguments: &[&str]) -> String {
    let mut nft = Command::new("nft");
    let output = nft.args(arguments).stderr(Stdio::null()).output();
    let printed = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&printed).into_owned()
}

pub fn kill(pid: &str) {
    let _ = Command::new("kill").args(["-9", pid]).status();
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (pid, _) in self.emulators() {
            kill(&pid);
        }
        let end = Instant::now() + END;
        for group in self.groups() {
            while !remove_group(&group) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        nft(&["delete", "table", "inet", &self.table()]);
    }
}

/// Removes a group with those of its machines; false while there are processes in them.
fn remove_group(group: &Path) -> bool {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(entry.path());
    }
    std::fs::remove_dir(group).is_ok() || !group.exists()
}

fn find_dirs(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy() == name {
            found.push(entry.path());
        }
        find_dirs(&entry.path(), name, found);
    }
}
