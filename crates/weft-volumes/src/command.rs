//! Programs that are run to their end, within a time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;

/// The most that is read of what a program says, in bytes.
const MAX_SAID_BYTES: u64 = 16 << 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Where administrators' programs are, in case `PATH` does not say so.
const ALSO: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program that a class of volumes needs.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub name: &'static str,
    pub package: &'static str,
    pub what: &'static str,
}

/// Where programs are looked for before `PATH`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    pub first: Option<PathBuf>,
}

impl Tools {
    /// The path of a program.
    pub fn find(&self, program: Program) -> Result<PathBuf, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
        self.first
            .iter()
            .map(PathBuf::as_path)
            .chain(in_path.iter().map(PathBuf::as_path))
            .chain(ALSO.iter().map(Path::new))
            .map(|dir| dir.join(program.name))
            .find(|candidate| candidate.is_file())
            .ok_or(Error::Missing {
                what: program.what,
                program: program.name,
                package: program.package,
            })
    }
}

/// Runs a command and gives what it printed; ends it when it takes longer than `limit`.
pub(crate) fn run(mut command: Command, what: &str, limit: Duration) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |said: String| Error::Failed {
        program: program.clone(),
        what: what.to_owned(),
        said,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C")
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| failed(e.to_string()))? {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("no end within {limit:?}")));
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    let (stdout, stderr) = said(&mut child);
    if status.success() {
        return Ok(stdout);
    }
    Err(failed(format!("{status}: {}", stderr.trim())))
}

fn said(child: &mut Child) -> (String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(pipe) = child.stdout.take() {
        let _ = pipe.take(MAX_SAID_BYTES).read_to_end(&mut stdout);
    }
    if let Some(pipe) = child.stderr.take() {
        let _ = pipe.take(MAX_SAID_BYTES).read_to_end(&mut stderr);
    }
    (
        String::from_utf8_lossy(&stdout).trim().to_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_program_said_and_ends_one_that_does_not() {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "echo no >&2; exit 3"]);
        let error = run(shell, "a test", Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("no"), "{error}");
        let mut sleeper = Command::new("/bin/sleep");
        sleeper.arg("100");
        let error = run(sleeper, "a test", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let program = Program {
            name: "no-such-program",
            package: "nothing",
            what: "this test",
        };
        let error = Tools::default().find(program).unwrap_err();
        assert!(error.to_string().contains("install nothing"), "{error}");
    }
}
