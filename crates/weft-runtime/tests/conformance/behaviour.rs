//! Exit codes, output, input, environment and files.

use std::sync::Arc;

use bytes::Bytes;
use weft_runtime::{Control, Input, MAX_INLINE_OUTPUT_BYTES, Stream};
use weft_types::{Bytes as Size, Reason};

use crate::runner::{Case, case};
use crate::subject::{Act, Subject, named, text};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("exit_codes_are_told", exit_codes),
        case("both_outputs_are_captured_and_usage_is_measured", outputs),
        case(
            "output_too_large_for_memory_is_whole_in_a_file",
            spilled_output,
        ),
        case(
            "output_beyond_its_limit_is_cut_and_flagged",
            truncated_output,
        ),
        case("output_can_be_followed_while_it_runs", followed_output),
        case("a_named_input_replaces_the_braces", named_input),
        case("an_input_in_a_file_can_be_used_in_part", file_input),
        case("an_input_without_a_name_is_standard_input", standard_input),
        case("a_name_that_leads_elsewhere_is_refused", hostile_name),
        case(
            "the_environment_says_which_task_it_is_and_nothing_of_the_agent",
            environment,
        ),
        case("files_in_the_out_directory_come_back", out_files),
        case("a_task_of_another_kind_is_refused", wrong_kind),
    ]
}

async fn exit_codes(subject: Arc<Subject>) {
    for (code, reason) in [
        (0, None),
        (7, Some(Reason::NonzeroExit)),
        (125, Some(Reason::NonzeroExit)),
    ] {
        let outcome = subject.run(subject.task(Act::Exit(code))).await;
        assert_eq!(
            (outcome.exit_code, outcome.reason()),
            (Some(code), reason),
            "{outcome:?}"
        );
    }
}

async fn outputs(subject: Arc<Subject>) {
    let outcome = subject.run(subject.task(Act::Print)).await;
    assert_eq!(outcome.reason(), None, "{outcome:?}");
    assert_eq!(
        (&outcome.stdout.inline[..], &outcome.stderr.inline[..]),
        (&b"out"[..], &b"err"[..])
    );
    assert!(
        outcome.used.run_us > 0 && outcome.used.peak_memory_bytes > 0,
        "{:?}",
        outcome.used
    );
}

async fn spilled_output(subject: Arc<Subject>) {
    let wanted = 3 * MAX_INLINE_OUTPUT_BYTES as u32;
    let outcome = subject.run(subject.task(Act::PrintMany(wanted))).await;
    assert_eq!(outcome.reason(), None, "{:?}", outcome.failure);
    let file = outcome.stdout.file.clone().expect("too large for memory");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), u64::from(wanted));
    assert_eq!(
        (outcome.stdout.size_bytes, outcome.stdout.truncated),
        (u64::from(wanted), false)
    );
    drop(outcome);
    assert!(!file.exists(), "it goes with the outcome");
}

async fn truncated_output(subject: Arc<Subject>) {
    let mut task = subject.task(Act::PrintMany(3 << 20));
    task.resources.disk = Size(2 << 20);
    let outcome = subject.run(task).await;
    assert_eq!(
        (outcome.stdout.size_bytes, outcome.stdout.truncated),
        (2 << 20, true),
        "{:?}",
        outcome.failure
    );
}

async fn followed_output(subject: Arc<Subject>) {
    let control = Control::new();
    let runtime = Arc::clone(&subject.runtime);
    let running = tokio::spawn({
        let (task, control) = (subject.task(Act::Sleep), control.clone());
        async move { runtime.run(task, control).await }
    });
    let mut seen = Vec::new();
    while seen.len() < 2 {
        control.output().grown_beyond(seen.len() as u64, 0).await;
        let piece = control
            .output()
            .read(Stream::Stdout, seen.len() as u64, 1)
            .unwrap();
        seen.extend_from_slice(&piece.bytes);
    }
    assert!(!running.is_finished());
    control.cancel();
    let outcome = running.await.unwrap();
    assert_eq!(
        (text(&seen), outcome.reason()),
        ("up".to_owned(), Some(Reason::Cancelled))
    );
    assert!(control.output().is_finished());
}

async fn named_input(subject: Arc<Subject>) {
    for name in ["a.txt", "with space", "deep/er/b.txt", "-dash"] {
        let mut task = subject.task(Act::CountFile);
        task.input = named(name, b"three small words\n");
        let outcome = subject.run(task).await;
        let shown = if name.starts_with('-') {
            format!("./{name}")
        } else {
            name.to_owned()
        };
        assert_eq!(
            text(&outcome.stdout.inline),
            format!("3 {shown}\n"),
            "{outcome:?}"
        );
    }
}

async fn file_input(subject: Arc<Subject>) {
    let path = subject.dir.path().join("artifact");
    std::fs::write(&path, "one two three four").unwrap();
    let mut task = subject.task(Act::CountFile);
    task.input = Input::File {
        path: path.clone(),
        name: Some("f".to_owned()),
        offset: 4,
        length: Some(9),
    };
    let outcome = subject.run(task).await;
    assert_eq!(text(&outcome.stdout.inline), "2 f\n", "{outcome:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "one two three four");
}

async fn standard_input(subject: Arc<Subject>) {
    let mut task = subject.task(Act::CountStdin);
    task.input = Input::Bytes {
        bytes: Bytes::from("word ".repeat(100_000)),
        name: None,
    };
    let outcome = subject.run(task).await;
    assert_eq!(
        text(&outcome.stdout.inline).trim(),
        "100000",
        "{:?}",
        outcome.failure
    );
}

async fn hostile_name(subject: Arc<Subject>) {
    for name in ["../escape", "/etc/passwd", ".out", ""] {
        let mut task = subject.task(Act::CountFile);
        task.input = named(name, b"x");
        let outcome = subject.run(task).await;
        assert_eq!(outcome.reason(), Some(Reason::InvalidSpec), "{name:?}");
    }
}

async fn environment(subject: Arc<Subject>) {
    let task = subject.task(Act::Env);
    let (job, index) = (task.job, task.index);
    let outcome = subject.run(task).await;
    let printed = text(&outcome.stdout.inline);
    let variables: Vec<&str> = printed.split(['\n', '\0']).collect();
    for wanted in [
        "COLOUR=blue".to_owned(),
        format!("WEFT_JOB={job}"),
        format!("WEFT_TASK={job}/{index}"),
        format!("WEFT_TASK_INDEX={index}"),
        "WEFT_ATTEMPT=2".to_owned(),
    ] {
        assert!(
            variables.contains(&wanted.as_str()),
            "{wanted} in {variables:?}"
        );
    }
    assert!(
        variables
            .iter()
            .any(|variable| variable.starts_with("WEFT_OUT=/"))
    );
    assert!(!printed.contains("CARGO"), "{variables:?}");
}

async fn out_files(subject: Arc<Subject>) {
    let outcome = subject.run(subject.task(Act::WriteOut)).await;
    assert_eq!(outcome.reason(), None, "{outcome:?}");
    let [file] = outcome.files.as_slice() else {
        panic!("{:?}", outcome.files)
    };
    assert_eq!((file.path.as_str(), file.size_bytes), ("hello.txt", 2));
    assert_eq!(std::io::read_to_string(file.open().unwrap()).unwrap(), "hi");
}

async fn wrong_kind(subject: Arc<Subject>) {
    let mut task = subject.task(Act::Print);
    let program = serde_json::from_str(r#"{"op":"crc32c"}"#).unwrap();
    task.work = weft_runtime::Work::Op(program);
    assert_eq!(subject.run(task).await.reason(), Some(Reason::Internal));
}
