//! Fetching from Git repositories that anyone may have named.

mod access;
mod url;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use weft_types::{GitSource, Reason};
use weft_unit::{Error, Secrets, Step};

use crate::child::{self, ChildError, Finished};
use crate::redact::Redactor;

use access::Access;
pub(crate) use url::Policy;

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);
const LOCAL_TIMEOUT: Duration = Duration::from_secs(120);
/// How often is looked how large a fetch has become.
const SIZE_INTERVAL: Duration = Duration::from_millis(250);
/// The most that a fetch may take on disk, and a checkout, in bytes.
const MAX_BYTES: u64 = 512 << 20;
/// The most files of a checkout.
const MAX_FILES: usize = 50_000;

/// A repository, as one unit may read it.
pub(crate) struct Repository<'a> {
    source: &'a GitSource,
    access: Access,
    redactor: &'a Redactor,
    /// Home of the program, and where credentials lie while it runs.
    private: &'a Path,
}

/// A commit's files.
pub(crate) struct Tree {
    /// Paths of symbolic links; they are checked out as files.
    pub(crate) links: Vec<String>,
}

fn fail(reason: Reason, detail: impl Into<String>) -> Error {
    Error::new(Step::Prepare, reason, detail)
}

fn storage(error: std::io::Error) -> Error {
    fail(Reason::StorageError, error.to_string())
}

impl<'a> Repository<'a> {
    /// Checks the address, and resolves it once: all that follows goes to the same machine.
    pub(crate) async fn open(
        source: &'a GitSource,
        secrets: &Secrets,
        policy: Policy,
        private: &'a Path,
        known_hosts: &Path,
        redactor: &'a Redactor,
    ) -> Result<Self, Error> {
        let url = url::parse(&source.url)
            .map_err(|why| fail(Reason::InvalidSpec, format!("compose.git.url: {why}")))?;
        let address = url::resolve(&url, policy).await?;
        let access = Access::new(&url, address, secrets, private, known_hosts).map_err(storage)?;
        Ok(Self {
            source,
            access,
            redactor,
            private,
        })
    }

    /// The commit that the source's reference means now.
    pub(crate) async fn resolve(&self) -> Result<String, Error> {
        let wanted = self.source.reference.as_deref().unwrap_or("HEAD");
        if is_commit(wanted) {
            return Ok(wanted.to_ascii_lowercase());
        }
        if !is_reference(wanted) {
            return Err(fail(
                Reason::InvalidSpec,
                format!("compose.git.ref: {wanted:?} is not a branch, tag or commit"),
            ));
        }
        let names = [
            wanted.to_owned(),
            format!("refs/heads/{wanted}"),
            format!("refs/tags/{wanted}^{{}}"),
            format!("refs/tags/{wanted}"),
        ];
        let mut command = self.git();
        command
            .args(["ls-remote", "--", &self.source.url])
            .args(&names);
        let ran = self.run(command, RESOLVE_TIMEOUT).await?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let commit_of = |name: &String| {
            let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
            lines
                .find(|(_, found)| found == name)
                .map(|(commit, _)| commit.to_owned())
        };
        let commit = names
            .iter()
            .find_map(commit_of)
            .filter(|commit| is_commit(commit));
        commit.ok_or_else(|| {
            fail(
                Reason::InvalidSpec,
                format!(
                    "compose.git.ref: the repository has no branch or tag {wanted:?}; a commit is written with all of its 40 digits"
                ),
            )
        })
    }

    /// Fetches one commit and puts its files into an empty directory.
    pub(crate) async fn checkout(&self, commit: &str, into: &Path) -> Result<Tree, Error> {
        let store = tempfile::Builder::new()
            .prefix(".fetch-")
            .tempdir_in(into.parent().unwrap_or(into))
            .map_err(storage)?;
        let store = store.path();
        let mut init = self.git();
        init.args(["init", "--quiet", "--bare", "--template="])
            .arg("--")
            .arg(store);
        self.run(init, LOCAL_TIMEOUT).await?;
        self.fetch(commit, store).await?;
        let tree = self.list(commit, store).await?;
        let mut checkout = self.git_in(store);
        checkout.arg("--work-tree").arg(into);
        checkout.args(["checkout", "--quiet", "--force", commit, "--", "."]);
        self.run(checkout, LOCAL_TIMEOUT).await?;
        Ok(tree)
    }

    async fn fetch(&self, commit: &str, store: &Path) -> Result<(), Error> {
        let mut fetch = self.git_in(store);
        fetch.args([
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
        ]);
        fetch.args(["--no-write-fetch-head", "--", &self.source.url, commit]);
        tokio::select! {
            ran = self.run(fetch, FETCH_TIMEOUT) => ran.map(|_| ()),
            error = outgrown(store.to_owned()) => Err(error),
        }
    }

    /// What the commit holds, looked at before any of it is written: little of a pack can be much
    /// of a tree.
    async fn list(&self, commit: &str, store: &Path) -> Result<Tree, Error> {
        let mut list = self.git_in(store);
        list.args(["ls-tree", "-r", "-l", "-z", commit, "--"]);
        let ran = self.run(list, LOCAL_TIMEOUT).await?;
        let (mut bytes, mut files, mut links) = (0u64, 0, Vec::new());
        for entry in ran
            .stdout
            .split(|&byte| byte == 0)
            .filter(|entry| !entry.is_empty())
        {
            let entry = String::from_utf8_lossy(entry);
            let (facts, path) = entry.split_once('\t').unwrap_or((&entry, ""));
            let mut facts = facts.split_whitespace();
            if facts.next() == Some("120000") {
                links.push(path.to_owned());
            }
            let size = facts.nth(2).and_then(|size| size.parse().ok()).unwrap_or(0);
            bytes = bytes.saturating_add(size);
            files += 1;
        }
        if bytes > MAX_BYTES || files > MAX_FILES {
            return Err(too_large());
        }
        Ok(Tree { links })
    }

    /// `git` without anything of the machine's or the user's configuration.
    fn git(&self) -> Command {
        let mut command = Command::new("git");
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("HOME", self.private)
            .env("LANG", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "https:http:ssh")
            .env("GIT_NO_LAZY_FETCH", "1")
            .current_dir(self.private);
        let settings = [
            "core.hooksPath=/dev/null",
            "core.symlinks=false",
            "core.autocrlf=false",
            "core.fsmonitor=false",
            "core.protectNTFS=true",
            "submodule.recurse=false",
            "protocol.allow=never",
            "protocol.https.allow=always",
            "protocol.http.allow=always",
            "protocol.ssh.allow=always",
            "http.followRedirects=false",
            "transfer.fsckObjects=true",
            "gc.auto=0",
            "maintenance.auto=false",
            "advice.detachedHead=false",
        ];
        for setting in settings {
            command.args(["-c", setting]);
        }
        self.access.apply(&mut command);
        command
    }

    fn git_in(&self, store: &Path) -> Command {
        let mut command = self.git();
        command.arg("--git-dir").arg(store);
        command
    }

    async fn run(&self, command: Command, timeout: Duration) -> Result<Finished, Error> {
        match child::run(command, timeout).await {
            Ok(ran) if ran.status.success() => Ok(ran),
            Ok(ran) => Err(self.failed(&ran)),
            Err(error @ ChildError::Spawn(..)) => Err(fail(
                Reason::RuntimeUnavailable,
                format!("{error}; install git"),
            )),
            Err(error @ ChildError::TimedOut(..)) => {
                Err(fail(Reason::NetworkError, error.to_string()))
            }
            Err(ChildError::TooMuch(_)) => Err(too_large()),
        }
    }

    fn failed(&self, ran: &Finished) -> Error {
        let said = self.redactor.clean(&ran.stderr);
        let lower = said.to_ascii_lowercase();
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
        let reason = if has(&["no space left on device", "disk quota exceeded"]) {
            Reason::StorageError
        } else if has(&[
            "authentication failed",
            "could not read username",
            "permission denied",
            "could not read password",
            "error: 403",
            "access denied",
            "host key verification",
        ]) {
            Reason::PermissionDenied
        } else if has(&[
            "not our ref",
            "unadvertised object",
            "couldn't find remote ref",
        ]) {
            Reason::InvalidSpec
        } else {
            Reason::NetworkError
        };
        let line = said
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        let evidence = said.lines().map(str::to_owned).collect();
        fail(reason, format!("git: {}", line.unwrap_or("failed"))).with_evidence(evidence)
    }
}

fn too_large() -> Error {
    fail(
        Reason::StorageError,
        format!("the repository is larger than {MAX_BYTES} bytes or {MAX_FILES} files"),
    )
}

/// Resolves once a directory holds too much.
async fn outgrown(dir: PathBuf) -> Error {
    loop {
        tokio::time::sleep(SIZE_INTERVAL).await;
        if size_of(&dir) > MAX_BYTES {
            return too_large();
        }
    }
}

/// Bytes beneath a directory; what vanishes meanwhile does not count.
pub(crate) fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a name can neither be an option nor mean more than one reference.
fn is_reference(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || "-_./+@#".contains(c);
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['-', '/', '.'])
        && !name.contains("..")
        && !name.contains("@{")
        && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_ranges_are_no_references() {
        for name in ["main", "feature/x", "v1.2.3", "refs/heads/main", "größe"] {
            assert!(is_reference(name), "{name}");
        }
        for name in [
            "--upload-pack=touch x",
            "-x",
            "a..b",
            "a:b",
            "a b",
            "",
            "a^{}",
            "*",
            "a@{1}",
        ] {
            assert!(!is_reference(name), "{name}");
        }
        assert!(is_commit(&"a".repeat(40)));
        assert!(!is_commit("HEAD") && !is_commit(&"g".repeat(40)));
    }
}
