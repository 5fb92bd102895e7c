//! What only processes do.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use weft_runtime::{Input, Work};
use weft_types::{Reason, SandboxMode};

use crate::runner::{Case, case};
use crate::subject::{Act, Subject, named, process_work, text};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "a_missing_command_is_127_and_one_not_executable_126",
            not_started,
        ),
        case("a_signal_is_told_and_128_added", signal),
        case("it_may_change_its_input_but_not_the_artifact", own_copy),
        case("the_index_replaces_its_placeholder", index),
        case(
            "directories_closed_by_the_task_are_removed",
            closed_directories,
        ),
    ]
}

fn sandbox(subject: &Subject) -> SandboxMode {
    match (subject.work)(Act::Print) {
        Work::Process { sandbox, .. } => sandbox,
        other => panic!("{other:?}"),
    }
}

async fn not_started(subject: Arc<Subject>) {
    for (command, reason, code) in [
        ("no-such-command-anywhere", Reason::InvalidSpec, 127),
        ("/no/such/file", Reason::InvalidSpec, 127),
        ("/etc/passwd", Reason::PermissionDenied, 126),
    ] {
        let mut task = subject.task(Act::Print);
        task.work = process_work(&[command], sandbox(&subject));
        let outcome = subject.run(task).await;
        assert_eq!(
            (outcome.reason(), outcome.exit_code),
            (Some(reason), Some(code)),
            "{outcome:?}"
        );
        assert!(outcome.failure.unwrap().detail.contains(command));
    }
}

async fn signal(subject: Arc<Subject>) {
    let mut task = subject.task(Act::Print);
    task.work = process_work(&["sh", "-c", "kill -SEGV $$"], sandbox(&subject));
    let outcome = subject.run(task).await;
    let told = (outcome.reason(), outcome.exit_code, outcome.signal);
    assert_eq!(
        told,
        (Some(Reason::NonzeroExit), Some(139), Some(11)),
        "{outcome:?}"
    );
}

async fn own_copy(subject: Arc<Subject>) {
    let path = subject.dir.path().join("precious");
    std::fs::write(&path, "kept").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let mut task = subject.task(Act::Print);
    task.input = Input::File {
        path: path.clone(),
        name: Some("in".to_owned()),
        offset: 0,
        length: None,
    };
    task.work = process_work(
        &["sh", "-c", "echo changed > {} && cat {}"],
        sandbox(&subject),
    );
    let outcome = subject.run(task).await;
    assert_eq!(text(&outcome.stdout.inline), "changed\n", "{outcome:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "kept");
}

async fn index(subject: Arc<Subject>) {
    let mut task = subject.task(Act::Print);
    let index = task.index;
    task.input = named("n", b"");
    task.work = process_work(&["echo", "{index}", "x{index}{}"], sandbox(&subject));
    let outcome = subject.run(task).await;
    assert_eq!(
        text(&outcome.stdout.inline),
        format!("{index} x{index}n\n"),
        "{outcome:?}"
    );
}

async fn closed_directories(subject: Arc<Subject>) {
    let mut task = subject.task(Act::Print);
    task.work = process_work(
        &["sh", "-c", "mkdir -p a/b && touch a/b/c && chmod 0 a/b a ."],
        sandbox(&subject),
    );
    let outcome = subject.run(task).await;
    assert_eq!(outcome.reason(), None, "{outcome:?}");
}
