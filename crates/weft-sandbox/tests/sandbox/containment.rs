//! What a task in the full sandbox can see and do.

use crate::setup::{
    client, confined, exe, full, is_root, shell, tag, text, unique_seconds, work_dir,
};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use weft_sandbox::{Client, Options, Outcome, Sandbox, Spec};

pub(crate) async fn no_network() {
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/net/route | wc -l; \
         python3 -c 'import socket; s=socket.create_server((\"127.0.0.1\",0)); socket.create_connection(s.getsockname()); \
         print(\"loopback\")' 2>/dev/null || echo loopback";
    let finished = confined(script).await;
    assert_eq!(
        text(&finished).split_whitespace().collect::<Vec<_>>(),
        ["lo", "1", "loopback"]
    );
}

pub(crate) async fn read_only() {
    let client = client().await;
    let script = "for d in / /usr /etc /dev /bin /proc /opt; do touch $d/x 2>/dev/null && echo wrote $d; done; \
         echo mine > file && mkdir d && touch /tmp/t && cat file; echo > /dev/null && echo null";
    // Also where the work directory is beneath what is replaced by the task's own.
    for work in [work_dir(), tempfile::tempdir().unwrap()] {
        let finished = client
            .run(shell(script, work.path(), full(work.path())))
            .await
            .unwrap();
        assert_eq!(
            text(&finished),
            "mine\nnull",
            "{}",
            String::from_utf8_lossy(&finished.stderr)
        );
        assert_eq!(
            std::fs::read_to_string(work.path().join("file")).unwrap(),
            "mine\n"
        );
        assert!(
            work.path().join(".tmp/t").exists(),
            "/tmp is in the work directory"
        );
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn hidden() {
    let (private, beside, work) = (work_dir(), work_dir(), work_dir());
    std::fs::write(private.path().join("key"), "secret").unwrap();
    std::fs::write(beside.path().join("key"), "secret").unwrap();
    let mut options = Options::new(tag());
    // As if the agent's data were beneath a system directory.
    options.system_dirs.push(private.path().to_path_buf());
    options.hidden.push(private.path().to_path_buf());
    let client = Client::start(exe(), options).await.unwrap();
    let seconds = unique_seconds();
    let stranger = client
        .spawn(Spec::new(["sleep", &seconds], "/", Sandbox::None))
        .await
        .unwrap();
    let script = format!(
        "cat {}/key {}/key /root/.profile 2>/dev/null; ls /root /home /sys /run 2>/dev/null; \
         set -- /proc/[0-9]*; echo $#; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep {seconds}$; \
         kill -9 {} 2>/dev/null && echo killed",
        private.path().display(),
        beside.path().display(),
        client.pid(),
    );
    let finished = client
        .run(shell(&script, work.path(), full(work.path())))
        .await
        .unwrap();
    // The init, and the shell, which looks without another process.
    assert_eq!(text(&finished), "2");
    drop(stranger);
    client.shutdown().await.unwrap();
}

const CALLS: &str = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    outcome = libc.syscall(*arguments)
    print(name, errno.errorcode[ctypes.get_errno()] if outcome < 0 else "ALLOWED")
call("mount", 165, b"none", b"/tmp", b"tmpfs", 0, 0)
call("ptrace", 101, 16, 1, 0, 0)
call("unshare", 272, 0x10000000)
call("clone", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, 0, 0)
call("bpf", 321, 0, 0, 0)
call("keyctl", 250, 0, 0, 0, 0)
call("setns", 308, 0, 0)
call("pivot_root", 155, b".", b".")
call("kexec_load", 246, 0, 0, 0, 0)
call("init_module", 175, 0, 0, b"")
call("reboot", 169, 0, 0, 0, 0)
call("io_uring_setup", 425, 1, 0)
call("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
try:
    open("/proc/1/mem", "rb"); print("init ALLOWED")
except OSError as e: print("init", errno.errorcode[e.errno])
"#;

pub(crate) async fn privileged_calls() {
    if cfg!(not(target_arch = "x86_64")) || !std::path::Path::new("/usr/bin/python3").exists() {
        return;
    }
    let (client, work) = (client().await, work_dir());
    std::fs::write(work.path().join("calls.py"), CALLS).unwrap();
    let spec = Spec::new(
        ["/usr/bin/python3", "calls.py"],
        work.path(),
        full(work.path()),
    );
    let finished = client.run(spec).await.unwrap();
    let text = text(&finished);
    assert_eq!(
        text.lines().count(),
        15,
        "{text} {}",
        String::from_utf8_lossy(&finished.stderr)
    );
    for line in text.lines() {
        let expected = match line.split(' ').next() {
            Some("clone3") => "ENOSYS",
            Some("init") => "EACCES",
            _ => "EPERM",
        };
        assert!(line.ends_with(expected), "{line}");
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn identity() {
    let (client, work) = (client().await, work_dir());
    let script = "id -u; id -G; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; touch mine; hostname";
    let finished = client
        .run(shell(script, work.path(), full(work.path())))
        .await
        .unwrap();
    let text = text(&finished);
    assert!(text.starts_with("1000\n1000"), "{text}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            text.contains(&format!("{set}:\t0000000000000000")),
            "{text}"
        );
    }
    assert!(
        text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2") && text.ends_with("weft"),
        "{text}"
    );
    let owner = std::fs::metadata(work.path().join("mine")).unwrap().uid();
    if is_root() {
        assert_ne!(owner, 0, "a file of the task is not root's");
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn strangers() {
    let (client, first, second) = (client().await, work_dir(), work_dir());
    let holder = client
        .spawn(shell(
            "echo s > secret; sleep 1000",
            first.path(),
            full(first.path()),
        ))
        .await
        .unwrap();
    crate::setup::until("the first has written", || {
        first.path().join("secret").exists()
    })
    .await;
    let script = format!(
        "cat {}/secret; ls -A {}",
        first.path().display(),
        first.path().parent().unwrap().display()
    );
    let finished = client
        .run(shell(&script, second.path(), full(second.path())))
        .await
        .unwrap();
    let own = second
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert_eq!(
        text(&finished),
        own,
        "{}",
        String::from_utf8_lossy(&finished.stderr)
    );
    drop(holder);
    client.shutdown().await.unwrap();
}

pub(crate) async fn probe() {
    let capabilities = weft_sandbox::probe(exe()).await.unwrap();
    println!("{capabilities:#?}");
    assert!(capabilities.seccomp);
    assert_eq!(
        capabilities.full_sandbox(),
        capabilities.missing.iter().all(|missing| !missing.required)
    );
    for missing in &capabilities.missing {
        assert!(
            !missing.why.is_empty() && !missing.fix.is_empty(),
            "{missing:?}"
        );
    }
}

/// Runs the tests of this file once more as nobody.
pub(crate) async fn unprivileged() {
    if !is_root() {
        return;
    }
    const NOBODY: u32 = 65_534;
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let copy = place.path().join("tests");
    std::fs::copy(exe(), &copy).unwrap();
    for name in [
        "exit_codes",
        "there_is_no",
        "nothing_but",
        "host_processes",
        "privileged",
        "no_capabilities",
        "timeout",
    ] {
        let mut command = std::process::Command::new(&copy);
        command
            .arg(name)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir(place.path())
            .env("TMPDIR", place.path());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{name}: {}{}",
            text_of(&output.stdout),
            text_of(&output.stderr)
        );
    }
    assert_eq!(confined("true").await.exit.outcome, Outcome::Exited(0));
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
