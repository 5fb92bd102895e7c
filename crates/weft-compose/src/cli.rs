//! Compose's command line: which one there is, and calls of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use weft_types::Reason;
use weft_unit::{Error, Missing, Step};

use crate::child::{self, ChildError, Finished};
use crate::redact::Redactor;

const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many lines of what Compose said go with an error.
const EVIDENCE_LINES: usize = 20;

/// The reference implementation on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cli {
    /// `docker` with its plugin, or `docker-compose`.
    program: PathBuf,
    is_plugin: bool,
    /// As it says it: `2.20.1`, `1.29.2`.
    pub(crate) version: String,
}

/// What every call of one unit has in common.
pub(crate) struct Call<'a> {
    pub(crate) step: Step,
    /// The engine's socket, as in `DOCKER_HOST`.
    pub(crate) docker_host: String,
    pub(crate) project: String,
    pub(crate) directory: &'a Path,
    pub(crate) files: Vec<&'a Path>,
    pub(crate) env: BTreeMap<&'a str, &'a str>,
    pub(crate) profiles: &'a [String],
    /// Its home and the place of its configuration.
    pub(crate) private: &'a Path,
    pub(crate) redactor: &'a Redactor,
}

/// Looks for `docker compose`, then for `docker-compose`.
pub(crate) async fn find() -> Result<Cli, Missing> {
    let mut said = Vec::new();
    for (program, is_plugin) in [("docker", true), ("docker-compose", false)] {
        let args: &[&str] = if is_plugin {
            &["compose", "version", "--short"]
        } else {
            &["version", "--short"]
        };
        let mut command = Command::new(program);
        command.args(args);
        // A plugin in somebody's home is not there for the calls of units.
        command
            .env("HOME", "/nonexistent")
            .env("DOCKER_CONFIG", "/nonexistent");
        match child::run(command, PROBE_TIMEOUT).await {
            Ok(ran) if ran.status.success() => {
                let version = String::from_utf8_lossy(&ran.stdout);
                return Ok(Cli {
                    program: program.into(),
                    is_plugin,
                    version: version.trim().trim_start_matches('v').to_owned(),
                });
            }
            Ok(ran) => said.push(format!("{program}: {}", last_line(&ran.stderr))),
            Err(error) => said.push(error.to_string()),
        }
    }
    Err(Missing {
        what: "Compose".to_owned(),
        why: said.join("; "),
        fix: "install the Compose plugin of Docker, or `apt install docker-compose`".to_owned(),
    })
}

impl Cli {
    /// Its name for people.
    pub(crate) fn name(&self) -> &'static str {
        if self.is_plugin {
            "docker compose"
        } else {
            "docker-compose"
        }
    }

    /// Runs a command of Compose for a unit and gives what it printed.
    pub(crate) async fn run(
        &self,
        call: &Call<'_>,
        args: &[&str],
        timeout: Duration,
    ) -> Result<Vec<u8>, Error> {
        let mut command = Command::new(&self.program);
        if self.is_plugin {
            command.arg("compose");
        }
        command.args(["--ansi", "never", "--project-name", &call.project]);
        command.arg("--project-directory").arg(call.directory);
        for file in &call.files {
            command.arg("--file").arg(file);
        }
        command.args(args).current_dir(call.directory);
        set_env(&mut command, call);
        let what = format!("{} {}", self.name(), args.first().unwrap_or(&""));
        match child::run(command, timeout).await {
            Ok(ran) if ran.status.success() => Ok(ran.stdout),
            Ok(ran) => Err(failed(call, &what, &ran)),
            Err(error) => Err(not_run(call.step, &error)),
        }
    }
}

fn set_env(command: &mut Command, call: &Call<'_>) {
    command.env_clear();
    command.envs(&call.env);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
        .env("HOME", call.private)
        .env("DOCKER_CONFIG", call.private)
        .env("DOCKER_HOST", &call.docker_host)
        .env("COMPOSE_PROFILES", call.profiles.join(","))
        .env("COMPOSE_DOCKER_CLI_BUILD", "0")
        .env("COMPOSE_HTTP_TIMEOUT", "120")
        .env("LANG", "C.UTF-8");
}

/// Whether a variable would change Compose itself rather than the file it reads.
pub(crate) fn is_reserved(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let prefixes = [
        "COMPOSE_",
        "LD_",
        "PYTHON",
        "OPENSSL_",
        "SSL_",
        "DOCKER_TLS",
        "DOCKER_CONTENT_TRUST",
        "BUILDX_",
        "BUILDKIT_",
        "MALLOC_",
        "XDG_",
        "OTEL_",
    ];
    let exact = [
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "TMP",
        "TEMP",
        "IFS",
        "ENV",
        "BASH_ENV",
        "SHELL",
        "GODEBUG",
        "GOTRACEBACK",
        "GLIBC_TUNABLES",
        "LOCPATH",
        "NLSPATH",
        "GCONV_PATH",
        "DOCKER_HOST",
        "DOCKER_CONFIG",
        "DOCKER_CONTEXT",
        "DOCKER_CERT_PATH",
        "DOCKER_BUILDKIT",
        "DOCKER_API_VERSION",
        "DOCKER_DEFAULT_PLATFORM",
        "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "FTP_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "SSLKEYLOGFILE",
    ];
    prefixes.iter().any(|prefix| upper.starts_with(prefix)) || exact.contains(&upper.as_str())
}

fn not_run(step: Step, error: &ChildError) -> Error {
    let reason = match error {
        ChildError::Spawn(..) => Reason::RuntimeUnavailable,
        ChildError::TimedOut(..) => Reason::Timeout,
        ChildError::TooMuch(_) => Reason::RuntimeError,
    };
    Error::new(step, reason, error.to_string())
}

fn failed(call: &Call<'_>, what: &str, ran: &Finished) -> Error {
    let said = call.redactor.clean(&ran.stderr);
    let reason = match classify(call.step, &said) {
        // Registries say it in words of their own.
        Reason::RuntimeError if what.ends_with(" pull") => Reason::ImagePullFailed,
        reason => reason,
    };
    let line = telling_line(&said);
    let detail = match reason {
        Reason::RuntimeUnavailable => {
            format!(
                "{what}: the engine at {} does not answer: {line}",
                call.docker_host
            )
        }
        _ if is_port_conflict(&said) => format!(
            "{what}: a port that the application publishes is taken on this node; publish another: {line}"
        ),
        _ if line.is_empty() => format!("{what}: {}", ran.status),
        _ => format!("{what}: {line}"),
    };
    let lines: Vec<_> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let skip = lines.len().saturating_sub(EVIDENCE_LINES);
    let evidence = lines[skip..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect();
    Error::new(call.step, reason, detail).with_evidence(evidence)
}

fn is_port_conflict(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("port is already allocated") || said.contains("address already in use")
}

/// Why Compose failed, by what it and the engine say.
fn classify(step: Step, said: &str) -> Reason {
    let said = said.to_ascii_lowercase();
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| said.contains(phrase));
    if has(&[
        "couldn't connect to docker daemon",
        "cannot connect to the docker daemon",
        "is the docker daemon running",
        "error while fetching server api version",
    ]) {
        return Reason::RuntimeUnavailable;
    }
    if has(&[
        "no space left on device",
        "disk quota exceeded",
        "read-only file system",
    ]) {
        return Reason::StorageError;
    }
    if has(&[
        "manifest unknown",
        "pull access denied",
        "repository does not exist",
        "no such image",
        "manifest for",
        "not found: manifest",
    ]) {
        return Reason::ImageNotFound;
    }
    if has(&[
        "is invalid because",
        "validating ",
        "unsupported config option",
        "invalid interpolation",
        "additional propert",
        "yaml:",
        "undefined service",
        "undefined network",
        "undefined volume",
        "circular dependency",
        "invalid compose",
        "depends on",
        "invalid reference format",
        "is not set",
    ]) {
        return Reason::InvalidSpec;
    }
    if has(&[
        "toomanyrequests",
        "unauthorized",
        "tls handshake",
        "error pulling",
        "get \"http",
        "failed to resolve reference",
        "server gave http response",
        "failed to do request",
    ]) {
        return Reason::ImagePullFailed;
    }
    if is_port_conflict(&said) {
        return Reason::RuntimeError;
    }
    match step {
        Step::Prepare if has(&["i/o timeout", "connection refused", "no such host"]) => {
            Reason::ImagePullFailed
        }
        _ => Reason::RuntimeError,
    }
}

/// The line that says most: the last that begins with an error, else the last.
fn telling_line(said: &str) -> String {
    let error = said.lines().rev().map(str::trim).find(|line| {
        line.to_ascii_lowercase().starts_with("error") && line.len() > "error: ".len()
    });
    error.map_or_else(|| last_line(said), str::to_owned)
}

fn last_line(said: &str) -> String {
    let last = said
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    last.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compose_says_becomes_a_reason() {
        for (said, reason) in [
            (
                "ERROR: for web  pull access denied for x, repository does not exist",
                Reason::ImageNotFound,
            ),
            (
                "manifest for 127.0.0.1:5000/a:9 not found: manifest unknown",
                Reason::ImageNotFound,
            ),
            (
                "Get \"http://127.0.0.1:1/v2/\": dial tcp: connect: connection refused",
                Reason::ImagePullFailed,
            ),
            (
                "ERROR: Couldn't connect to Docker daemon at http+docker://",
                Reason::RuntimeUnavailable,
            ),
            ("write /x: no space left on device", Reason::StorageError),
            (
                "The Compose file './c.yaml' is invalid because:\nUnsupported config option",
                Reason::InvalidSpec,
            ),
            (
                "Bind for 0.0.0.0:80 failed: port is already allocated",
                Reason::RuntimeError,
            ),
        ] {
            assert_eq!(classify(Step::Prepare, said), reason, "{said}");
        }
    }

    #[test]
    fn the_telling_line_is_the_error() {
        let said = "Creating x ... \nERROR: for web  boom\nsomething\n\n";
        assert_eq!(telling_line(said), "ERROR: for web  boom");
        assert_eq!(telling_line("a\nb\n"), "b");
    }

    #[test]
    fn variables_that_change_compose_itself_are_reserved() {
        for name in [
            "PATH",
            "LD_PRELOAD",
            "COMPOSE_FILE",
            "docker_host",
            "https_proxy",
            "PYTHONPATH",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["DATABASE_URL", "TAG", "GIT_COMMIT", "SSH_KEY", "DOCKER_TAG"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
