//! Commands inside a unit.

use std::time::Duration;

use bytes::Bytes;
use weft_types::UnitId;

use crate::{ExecInput, ExecOutput, ExecSession, ExecWanted};

use super::subject::{Failed, Ground, Outcome, Program, ensure};

/// What a command printed and how it ended.
pub(super) struct Ended {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) code: i32,
}

pub(super) fn shell(script: &str) -> ExecWanted {
    ExecWanted {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecWanted::default()
    }
}

async fn to_the_end(ground: &Ground<'_>, session: ExecSession) -> Result<Ended, Failed> {
    let ExecSession {
        input: _input,
        mut output,
        exit,
    } = session;
    let all = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(piece) = output.recv().await {
            match piece {
                ExecOutput::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                ExecOutput::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
        (stdout, stderr, exit.await)
    };
    let (stdout, stderr, exit) = ground.within("the end of a command", all).await?;
    let code = exit.map_err(|_| Failed::from("the exit code was never told"))??;
    Ok(Ended {
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        code,
    })
}

pub(super) async fn run_inside(
    ground: &Ground<'_>,
    id: UnitId,
    wanted: ExecWanted,
) -> Result<Ended, Failed> {
    let session = ground
        .within("exec", ground.runtime.exec(id, wanted))
        .await??;
    to_the_end(ground, session).await
}

/// Output, error and exit code of a command; 128 + n for a signal.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn runs_commands_inside(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    let ended = run_inside(ground, unit.id, shell("echo yes; echo no >&2; exit 7")).await?;
    ensure(
        ended.code == 7 && ended.stdout.trim() == "yes" && ended.stderr.trim() == "no",
        || format!("{} {:?} {:?}", ended.code, ended.stdout, ended.stderr),
    )?;
    let ended = run_inside(ground, unit.id, shell("kill -9 $$")).await?;
    ensure(ended.code == 137, || format!("killed, and {}", ended.code))?;
    // The instance is the same as before, with what it wrote.
    let ended = run_inside(ground, unit.id, shell("cat /tmp/www/index.html")).await?;
    ensure(ended.code == 0, || ended.stderr.clone())?;
    ground.remove(unit.id).await
}

/// Standard input reaches the command, its end too, and dropping the sender closes it.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn passes_standard_input(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    for closes_by_drop in [false, true] {
        let exec = ground.runtime.exec(unit.id, shell("wc -c; exit 5"));
        let mut session = ground.within("exec", exec).await??;
        for _ in 0..4 {
            let piece = ExecInput::Stdin(Bytes::from(vec![b'x'; 16 << 10]));
            let sent = ground.within("input", session.input.send(piece)).await?;
            ensure(sent.is_ok(), || "the input is closed".to_owned())?;
        }
        if closes_by_drop {
            session.input = tokio::sync::mpsc::channel(1).0;
        } else {
            let eof = session.input.send(ExecInput::Eof);
            ensure(ground.within("input", eof).await?.is_ok(), || {
                "the input is closed".to_owned()
            })?;
        }
        let ended = to_the_end(ground, session).await?;
        ensure(ended.stdout.trim() == "65536" && ended.code == 5, || {
            format!("{} {:?} {:?}", ended.code, ended.stdout, ended.stderr)
        })?;
    }
    ground.remove(unit.id).await
}

/// A command that is not there ends with 127.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn missing_command_gives_127(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    let missing = ExecWanted {
        command: vec!["no-such-command-anywhere".to_owned()],
        ..ExecWanted::default()
    };
    let ended = run_inside(ground, unit.id, missing).await?;
    ensure(ended.code == 127, || {
        format!("{} {:?} {:?}", ended.code, ended.stdout, ended.stderr)
    })?;
    ground.remove(unit.id).await
}

/// A command with a terminal sees one, of the wanted size, and of another after a resize.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn gives_a_terminal(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    // Engines pass sizes on beside the input: what was said first may be there last.
    let script = "tty; until [ \"$(stty size)\" = '37 101' ]; do sleep 0.05; done; echo first; \
                  until [ \"$(stty size)\" = '20 90' ]; do sleep 0.05; done; \
                  read go; echo second; exit 3";
    let wanted = ExecWanted {
        tty: Some((101, 37)),
        ..shell(script)
    };
    let mut session = ground
        .within("exec", ground.runtime.exec(unit.id, wanted))
        .await??;
    let mut said = String::new();
    while !said.contains("first") {
        let piece = ground.within("the first size", session.output.recv());
        let Some(ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) = piece.await? else {
            return Err(Failed(format!("ended with the first size: {said:?}")));
        };
        said.push_str(&String::from_utf8_lossy(&bytes));
    }
    for input in [
        ExecInput::Resize(90, 20),
        ExecInput::Stdin(Bytes::from_static(b"\n")),
    ] {
        let sent = ground.within("input", session.input.send(input)).await?;
        ensure(sent.is_ok(), || "the input is closed".to_owned())?;
    }
    let ended = to_the_end(ground, session).await?;
    said.push_str(&ended.stdout);
    ensure(
        ended.code == 3 && said.contains("/dev/") && said.contains("second"),
        || format!("{} {said:?}", ended.code),
    )?;
    ground.remove(unit.id).await
}

/// A command whose session is dropped does not run on.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn dropped_session_ends_the_command(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Serve).await?;
    ground.until_serving(unit.id).await?;
    // A number of seconds that nothing else sleeps for.
    let exec = ground
        .runtime
        .exec(unit.id, shell("echo up; exec sleep 9753"));
    let mut session = ground.within("exec", exec).await??;
    let first = ground.within("output", session.output.recv()).await?;
    ensure(first.is_some(), || "it printed nothing".to_owned())?;
    drop(session);
    ground
        .eventually("the command has ended", || sleepers(ground, unit.id))
        .await?;
    // The command may not have begun yet.
    for after_ms in [0, 20, 100] {
        let exec = ground.runtime.exec(unit.id, shell("exec sleep 9753"));
        let session = ground.within("exec", exec).await??;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        drop(session);
    }
    ground
        .eventually("those have ended that had just been asked for", || async {
            // One that is found late is found by a later look.
            for _ in 0..3 {
                sleepers(ground, unit.id).await?;
            }
            Ok(())
        })
        .await?;
    ground.remove(unit.id).await
}

/// Fails while commands run that sleep as long as nothing else does.
async fn sleepers(ground: &Ground<'_>, id: UnitId) -> Result<(), String> {
    let search = shell("ps | grep -v grep | grep -c 'sleep 9753'");
    let found = run_inside(ground, id, search).await;
    let count = found.map_err(|failed| failed.0)?.stdout;
    if count.trim() == "0" {
        return Ok(());
    }
    Err(format!("{} of it run", count.trim()))
}

/// Variables from secrets are there inside.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn secrets_are_variables(ground: &Ground<'_>) -> Outcome {
    let mut unit = ground.unit(Program::Serve);
    let value = "k33p-m3";
    let variable = ("CONFORMANCE_SECRET".to_owned(), value.to_owned());
    unit.secrets.env.extend([variable]);
    ground.start(&unit).await?;
    ground.until_serving(unit.id).await?;
    let ended = run_inside(ground, unit.id, shell("echo $CONFORMANCE_SECRET")).await?;
    ensure(ended.stdout.trim() == value, || {
        format!("{:?} {:?}", ended.stdout, ended.stderr)
    })?;
    ground.remove(unit.id).await
}

/// Nothing can be run inside what has ended.
///
/// # Errors
/// What went wrong, as in every scenario.
pub async fn refuses_what_does_not_run(ground: &Ground<'_>) -> Outcome {
    let unit = ground.started(Program::Exit(0)).await?;
    ground.until_exited(unit.id).await?;
    let exec = ground.runtime.exec(unit.id, shell("true"));
    let refused = ground.within("exec", exec).await?.is_err();
    ensure(refused, || "a command runs in what has ended".to_owned())?;
    let stats = ground
        .within("stats", ground.runtime.stats(unit.id))
        .await?;
    ensure(stats.is_err(), || format!("what has ended uses {stats:?}"))?;
    ground.remove(unit.id).await
}
