//! What only WebAssembly does.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use weft_runtime::{Module, ModuleSource, Outcome, WasmOptions, WasmRuntime, Work};
use weft_types::{BlobHash, Reason};

use crate::runner::{Case, case};
use crate::subject::{Act, Subject, directories, named, text};
use crate::wasm_programs::{module, open, program, write};

pub(crate) fn subject() -> Subject {
    let (dir, root) = directories();
    let runtime =
        WasmRuntime::new(root.clone(), WasmOptions::new(dir.path().join("code"))).unwrap();
    let work = |act| {
        let args: &[&str] = if matches!(act, Act::CountFile) {
            &["{}"]
        } else {
            &[]
        };
        wasm_work(module(act), args)
    };
    Subject {
        name: "wasm",
        runtime: Arc::new(runtime),
        work,
        limits_memory: true,
        root,
        dir,
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("garbage_is_an_invalid_spec", garbage),
        case("a_missing_module_is_told_as_such", missing_module),
        case("a_trap_is_told_with_where_it_was", trap),
        case("endless_recursion_is_a_trap", recursion),
        case("nothing_outside_its_directories_can_be_opened", escape),
        case("a_command_component_runs", component),
        case(
            "compiled_code_is_found_again_and_damage_is_noticed",
            code_cache,
        ),
        case("a_program_in_c_runs", c_program),
    ]
}

fn wasm_work(module: impl Into<Bytes>, args: &[&str]) -> Work {
    let bytes = module.into();
    let hash = BlobHash(*blake3::hash(&bytes).as_bytes());
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    Work::Wasm {
        module: Module {
            hash,
            source: ModuleSource::Bytes(bytes),
        },
        args,
    }
}

async fn run(subject: &Subject, module: impl Into<Bytes>) -> Outcome {
    let mut task = subject.task(Act::Print);
    task.work = wasm_work(module, &[]);
    subject.run(task).await
}

async fn garbage(subject: Arc<Subject>) {
    let whole = wat::parse_str(module(Act::Print)).unwrap();
    let mut modules: Vec<Bytes> = [
        "",
        "garbage",
        "(module",
        "(module)",
        "\0asm",
        "\0asm\u{1}\0\0\0",
        "(component)",
    ]
    .map(Bytes::from)
    .into();
    modules.push(r#"(module (import "env" "f" (func)) (func (export "_start")))"#.into());
    modules.extend(
        (8..whole.len())
            .step_by(97)
            .map(|length| Bytes::copy_from_slice(&whole[..length])),
    );
    for bytes in modules {
        let shown = format!("{bytes:?}");
        let outcome = run(&subject, bytes).await;
        assert_eq!(
            outcome.reason(),
            Some(Reason::InvalidSpec),
            "{shown}: {outcome:?}"
        );
    }
}

async fn missing_module(subject: Arc<Subject>) {
    let mut task = subject.task(Act::Print);
    let source = ModuleSource::File("/nonexistent.wasm".into());
    task.work = Work::Wasm {
        module: Module {
            hash: BlobHash([1; 32]),
            source,
        },
        args: Vec::new(),
    };
    assert_eq!(
        subject.run(task).await.reason(),
        Some(Reason::ArtifactMissing)
    );
}

async fn trap(subject: Arc<Subject>) {
    let outcome = run(&subject, program(&(write(1, "so far") + "(unreachable)"))).await;
    assert_eq!(outcome.reason(), Some(Reason::RuntimeError), "{outcome:?}");
    assert_eq!(&outcome.stdout.inline[..], b"so far");
    let detail = outcome.failure.unwrap().detail;
    assert!(
        detail.contains("unreachable") && detail.contains("function"),
        "{detail}"
    );
}

async fn recursion(subject: Arc<Subject>) {
    let outcome = run(&subject, program("(drop (call $recurse))")).await;
    assert_eq!(outcome.reason(), Some(Reason::RuntimeError), "{outcome:?}");
    let detail = outcome.failure.unwrap().detail;
    assert!(detail.contains("stack") && detail.len() < 400, "{detail}");
}

async fn escape(subject: Arc<Subject>) {
    for path in ["../escaped", "/tmp/escaped", "../../../../../../etc/passwd"] {
        let outcome = run(&subject, program(&open(3, path))).await;
        assert_eq!(
            outcome.reason(),
            Some(Reason::NonzeroExit),
            "{path}: {outcome:?}"
        );
    }
    assert!(!subject.root.path().join("escaped").exists());
}

async fn component(subject: Arc<Subject>) {
    for (answer, code, reason) in [(0, 0, None), (1, 1, Some(Reason::NonzeroExit))] {
        let text = format!(
            r#"(component
              (core module $m (func (export "run") (result i32) (i32.const {answer})))
              (core instance $i (instantiate $m))
              (func $run (result (result)) (canon lift (core func $i "run")))
              (instance $command (export "run" (func $run)))
              (export "wasi:cli/run@0.2.0" (instance $command)))"#
        );
        let outcome = run(&subject, text).await;
        assert_eq!(
            (outcome.exit_code, outcome.reason()),
            (Some(code), reason),
            "{outcome:?}"
        );
    }
}

async fn code_cache(subject: Arc<Subject>) {
    let code = subject.dir.path().join("other-code");
    let text = program(&write(1, "cached"));
    for damage in [false, false, true] {
        if damage {
            let file = std::fs::read_dir(&code)
                .unwrap()
                .flatten()
                .next()
                .unwrap()
                .path();
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::write(file, bytes).unwrap();
        }
        let fresh = WasmRuntime::new(subject.root.clone(), WasmOptions::new(&code)).unwrap();
        let mut task = subject.task(Act::Print);
        task.work = wasm_work(text.clone(), &[]);
        let outcome = weft_runtime::Runtime::run(&fresh, task, weft_runtime::Control::new()).await;
        assert_eq!(&outcome.stdout.inline[..], b"cached", "{outcome:?}");
        assert_eq!(std::fs::read_dir(&code).unwrap().count(), 1);
    }
}

/// Reads its argument, writes to `$WEFT_OUT` and both outputs, and exits with 3.
const C_PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    char word[64], path[256];
    FILE *in = fopen(argv[1], "r");
    if (!in) { perror(argv[1]); return 1; }
    int words = 0;
    while (fscanf(in, "%63s", word) == 1) words++;
    snprintf(path, sizeof path, "%s/count", getenv("WEFT_OUT"));
    FILE *out = fopen(path, "w");
    if (!out) { perror(path); return 1; }
    fprintf(out, "%d", words);
    fclose(out);
    printf("%d %s\n", words, argv[1]);
    fprintf(stderr, "done\n");
    return 3;
}
"#;

async fn c_program(subject: Arc<Subject>) {
    let Some(module) = compile_c(subject.dir.path()) else {
        return;
    };
    let mut task = subject.task(Act::Print);
    task.work = wasm_work(module, &["{}"]);
    task.input = named("in.txt", b"a few more words");
    let outcome = subject.run(task).await;
    assert_eq!(outcome.exit_code, Some(3), "{outcome:?}");
    assert_eq!(
        (text(&outcome.stdout.inline), text(&outcome.stderr.inline)),
        ("4 in.txt\n".into(), "done\n".into())
    );
    let [file] = outcome.files.as_slice() else {
        panic!("{:?}", outcome.files)
    };
    assert_eq!(std::io::read_to_string(file.open().unwrap()).unwrap(), "4");
}

fn compile_c(dir: &Path) -> Option<Vec<u8>> {
    std::fs::write(dir.join("program.c"), C_PROGRAM).unwrap();
    let clang = Command::new("clang")
        .current_dir(dir)
        .args([
            "--target=wasm32-wasi",
            "--sysroot=/usr",
            "-O2",
            "program.c",
            "-o",
            "program.wasm",
        ])
        .output();
    match clang {
        Ok(output) if output.status.success() => {
            Some(std::fs::read(dir.join("program.wasm")).unwrap())
        }
        Ok(output) => {
            println!(
                "skipped: clang cannot build for wasm32-wasi: {}",
                text(&output.stderr).trim()
            );
            None
        }
        Err(error) => {
            println!("skipped: no clang: {error}");
            None
        }
    }
}
