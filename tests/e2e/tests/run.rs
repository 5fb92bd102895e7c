//! `weft run` without a cluster: private agents, real work, honest exit codes, nothing left behind.

use std::process::Command;
use std::time::Duration;

use weft_e2e::{LICENSES, Weft, eventually, finish, processes_with};

fn license_files() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(LICENSES)
        .expect("every Debian has licenses")
        .flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

#[test]
fn a_checksum_for_each_file_equals_an_independent_one() {
    let done = Weft::new(["run", "--op", "crc32c", "--each", &format!("{LICENSES}/*")])
        .run()
        .expect_code(0);
    let rows: Vec<&str> = done.stdout.lines().skip(1).collect();
    let files = license_files();
    assert_eq!(rows.len(), files.len(), "{}", done.stdout);
    for (row, file) in rows.iter().zip(&files) {
        let bytes = std::fs::read(file).expect("readable");
        let expected = format!(
            "{} {} {}",
            file.display(),
            crc32c::crc32c(&bytes),
            bytes.len()
        );
        let found: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(found.join(" "), expected);
    }
}

#[test]
fn json_results_are_one_line_a_file_in_order() {
    let done = Weft::new([
        "run",
        "-o",
        "json",
        "--op",
        "fnv64",
        "--each",
        &format!("{LICENSES}/*"),
    ])
    .run()
    .expect_code(0);
    let rows = done.ndjson();
    let files: Vec<String> = license_files()
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let found: Vec<&str> = rows.iter().filter_map(|row| row["file"].as_str()).collect();
    assert_eq!(found, files);
    assert!(
        rows.iter()
            .all(|row| row["state"] == "completed" && row["result"]["op"] == "fnv64"),
        "{}",
        done.stdout
    );
}

#[test]
fn a_command_for_each_file_prints_what_the_command_prints() {
    let done = Weft::new([
        "run",
        "--each",
        &format!("{LICENSES}/*"),
        "--",
        "wc",
        "-w",
        "{}",
    ])
    .run()
    .expect_code(0);
    let mut expected = String::new();
    for file in license_files() {
        let name = file.file_name().expect("a name").to_owned();
        let output = Command::new("wc")
            .arg("-w")
            .arg(&name)
            .current_dir(LICENSES)
            .output()
            .expect("wc runs");
        expected.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(done.stdout, expected);
}

#[test]
fn a_small_webassembly_text_program_counts_words() {
    let module = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/wasm/wordcount.wat"
    );
    let done = Weft::new([
        "run",
        "--wasm",
        module,
        "--each",
        &format!("{LICENSES}/*"),
        "--",
        "{}",
    ])
    .run()
    .expect_code(0);
    let counts: Vec<&str> = done
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected: Vec<String> = license_files()
        .iter()
        .map(|file| {
            String::from_utf8_lossy(&std::fs::read(file).expect("readable"))
                .split_ascii_whitespace()
                .count()
                .to_string()
        })
        .collect();
    assert_eq!(counts, expected);
}

#[test]
fn a_wasi_program_built_from_c_runs_on_files() {
    let clang = Command::new("clang").arg("--version").output();
    if clang.is_err() || !std::path::Path::new("/usr/lib/wasm32-wasi/libc.a").exists() {
        eprintln!("skipped: needs clang, lld and wasi-libc");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (source, module) = (dir.path().join("lines.c"), dir.path().join("lines.wasm"));
    let program = r#"#include <stdio.h>
int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "r");
    if (!file) { perror(argv[1]); return 3; }
    long lines = 0; int c;
    while ((c = fgetc(file)) != EOF) lines += c == '\n';
    printf("%ld %s\n", lines, argv[1]);
    return 0;
}"#;
    std::fs::write(&source, program).expect("written");
    let built = Command::new("clang")
        .args(["--target=wasm32-wasi", "--sysroot=/usr", "-O2", "-o"])
        .arg(&module)
        .arg(&source)
        .output()
        .expect("clang runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let module = module.display().to_string();
    let done = Weft::new([
        "run",
        "--wasm",
        &module,
        "--each",
        &format!("{LICENSES}/GPL-3"),
        "--",
        "{}",
    ])
    .run()
    .expect_code(0);
    let lines = std::fs::read_to_string(format!("{LICENSES}/GPL-3"))
        .expect("readable")
        .lines()
        .count();
    assert_eq!(done.stdout, format!("{lines} GPL-3\n"));
}

#[test]
fn the_exit_code_is_the_works() {
    let _ = Weft::new(["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .run()
        .expect_code(7);
    let done = Weft::new(["run", "--", "no-such-command-anywhere"])
        .run()
        .expect_code(127);
    assert!(
        done.stderr.contains("no-such-command-anywhere"),
        "{}",
        done.stderr
    );
    let _ = Weft::new(["run", "--", "/etc/passwd"])
        .run()
        .expect_code(126);
    let _ = Weft::new(["run", "--", "sh", "-c", "kill -9 $$"])
        .run()
        .expect_code(137);
}

#[test]
fn output_streams_are_kept_apart_and_complete() {
    let done = Weft::new(["run", "--", "sh", "-c", "seq 1 20000; echo problem >&2"])
        .run()
        .expect_code(0);
    assert_eq!(done.stdout.lines().count(), 20_000);
    assert_eq!(done.stdout.lines().last(), Some("20000"));
    assert!(
        done.stderr.lines().any(|line| line == "problem"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_time_limit_leaves_nothing_running() {
    let done = Weft::new([
        "run",
        "--timeout",
        "1s",
        "--",
        "sh",
        "-c",
        "sleep 61.25 & sleep 61.25",
    ])
    .run()
    .expect_code(124);
    assert!(done.stderr.contains("timeout"), "{}", done.stderr);
    assert_eq!(processes_with("sleep 61.25"), Vec::<u32>::new());
}

/// Commands that start it have its words in theirs.
fn is_sleep(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
}

#[test]
fn an_interrupt_cancels_and_leaves_nothing_running() {
    let child = Weft::new(["run", "--", "sh", "-c", "echo ready; sleep 362.25"]).spawn();
    eventually("the sleep runs", Duration::from_secs(30), || {
        processes_with("sleep 362.25").into_iter().any(is_sleep)
    });
    // SAFETY: kill has no memory preconditions; the child is ours and not yet waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    let done = finish(child, Duration::from_secs(30), "interrupted run");
    assert_eq!(done.code, 130, "{}", done.stderr);
    eventually("nothing is left", Duration::from_secs(60), || {
        processes_with("sleep 362.25").is_empty()
    });
}

#[test]
fn a_killed_run_leaves_nothing_running_and_no_directory() {
    let before = private_directories();
    let mut child = Weft::new(["run", "--", "sleep", "363.25"]).spawn();
    eventually("the sleep runs", Duration::from_secs(30), || {
        processes_with("sleep 363.25").into_iter().any(is_sleep)
    });
    child.kill().expect("it can be killed");
    let _ = child.wait();
    eventually("no process is left", Duration::from_secs(60), || {
        processes_with("sleep 363.25").is_empty()
    });
    eventually("no directory is left", Duration::from_secs(60), || {
        private_directories()
            .iter()
            .all(|dir| before.contains(dir) || !dir_is_of(dir, child.id()))
    });
}

fn private_directories() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.display().to_string().contains("weft-run-"))
        .collect()
}

/// Other tests make such directories at the same time; only abandoned ones count.
fn dir_is_of(dir: &std::path::Path, _pid: u32) -> bool {
    processes_with("weft run").is_empty() && dir.exists()
}

#[test]
fn a_memory_hog_a_fork_bomb_and_a_disk_filler_are_contained() {
    let hog = [
        "run",
        "--memory",
        "64Mi",
        "--",
        "sh",
        "-c",
        "x=$(head -c 500M /dev/zero | tr '\\0' x); echo ${#x}",
    ];
    let done = Weft::new(hog).timeout(Duration::from_secs(90)).run();
    assert!(
        done.code != 0 && done.stderr.contains("oom-killed"),
        "{done:?}"
    );

    let bomb = [
        "run",
        "--timeout",
        "3s",
        "--",
        "sh",
        "-c",
        "b() { b | b & }; b; sleep 364.25",
    ];
    let done = Weft::new(bomb).timeout(Duration::from_secs(90)).run();
    assert!(done.code != 0, "{done:?}");
    eventually("the bomb is gone", Duration::from_secs(60), || {
        processes_with("sleep 364.25").is_empty()
    });

    let filler = [
        "run",
        "--disk",
        "64Mi",
        "--",
        "sh",
        "-c",
        "i=0; while true; do head -c 8M /dev/zero > f$i || exit 9; i=$((i+1)); done",
    ];
    let done = Weft::new(filler).timeout(Duration::from_secs(90)).run();
    assert!(
        done.code != 0 && done.stderr.contains("storage-error"),
        "{done:?}"
    );
}

#[test]
fn files_written_to_weft_out_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("results");
    let script = "mkdir -p $WEFT_OUT/sub; echo hello > $WEFT_OUT/sub/greeting; ln -s /etc/passwd $WEFT_OUT/leak";
    let _ = Weft::new([
        "run",
        "--out",
        &out.display().to_string(),
        "--",
        "sh",
        "-c",
        script,
    ])
    .run()
    .expect_code(0);
    assert_eq!(
        std::fs::read_to_string(out.join("sub/greeting")).expect("it came back"),
        "hello\n"
    );
    assert!(!out.join("leak").exists(), "links are not followed");
}

#[test]
fn the_sandbox_hides_the_machine() {
    let script = "id -u; ls /proc | grep -c '^[0-9]'; cat /etc/shadow; touch /usr/x; echo done";
    let done = Weft::new(["run", "--", "sh", "-c", script])
        .run()
        .expect_code(0);
    assert!(done.stdout.ends_with("done\n"));
    assert!(!done.stdout.contains("root:"), "{}", done.stdout);
    assert!(
        done.stderr.contains("shadow") && done.stderr.contains("/usr/x"),
        "{}",
        done.stderr
    );
}

#[test]
fn many_tasks_from_an_array_each_know_their_index() {
    let done = Weft::new([
        "run",
        "--array",
        "200",
        "--",
        "sh",
        "-c",
        "echo $WEFT_TASK_INDEX {index}",
    ])
    .run()
    .expect_code(0);
    let expected: Vec<String> = (0..200).map(|index| format!("{index} {index}")).collect();
    assert_eq!(done.stdout.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_failing_task_among_many_is_named_and_sets_the_exit_code() {
    let script = "test {index} -ne 3 || exit 5; echo {index}";
    let done = Weft::new(["run", "--array", "6", "--", "sh", "-c", script])
        .run()
        .expect_code(5);
    assert_eq!(
        done.stdout.lines().collect::<Vec<_>>(),
        ["0", "1", "2", "4", "5"]
    );
    assert!(
        done.stderr.contains("3: nonzero-exit") && done.stderr.contains("1 of 6 tasks failed"),
        "{}",
        done.stderr
    );
}
