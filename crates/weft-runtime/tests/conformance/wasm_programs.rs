//! WebAssembly programs, as text, that show each behaviour.

use crate::subject::Act;

/// A module that does this.
pub(crate) fn module(act: Act) -> String {
    let body = match act {
        Act::Exit(0) => String::new(),
        Act::Exit(code) => format!("(call $proc_exit (i32.const {code}))"),
        Act::Print => write(1, "out") + &write(2, "err"),
        Act::PrintMany(bytes) => print_many(bytes),
        Act::Spin => "(loop $again (br $again))".to_owned(),
        Act::Sleep => write(1, "up") + SLEEP,
        Act::CountFile | Act::CountStdin => {
            return include_str!("../../../../examples/wasm/wordcount.wat").to_owned();
        }
        Act::Env => ENV.to_owned(),
        Act::WriteOut => open(4, "hello.txt") + &data(40, "hi") + WRITE_OPENED,
        Act::EatMemory => EAT_MEMORY.to_owned(),
        Act::FillDisk => open(3, "big") + FILL_DISK,
    };
    program(&body)
}

/// A module whose `_start` is `body`. Memory: 0 to 31 results and vectors, from 40 texts, from 4096 free.
pub(crate) fn program(body: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
          (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (memory (export "memory") 4)
          (func $expect (param i32) (if (local.get 0) (then (call $proc_exit (local.get 0)))))
          (func $recurse (result i32) (i32.add (call $recurse) (i32.const 1)))
          (func (export "_start") (local $i i32) {body}))"#
    )
}

/// Puts a short text at an address.
fn data(address: usize, text: &str) -> String {
    let store = |(index, byte)| {
        format!(
            "(i32.store8 (i32.const {}) (i32.const {byte}))",
            address + index
        )
    };
    text.bytes().enumerate().map(store).collect()
}

fn vector(address: usize, length: usize) -> String {
    format!(
        "(i32.store (i32.const 16) (i32.const {address})) (i32.store (i32.const 20) (i32.const {length}))"
    )
}

/// Writes a short text to a descriptor.
pub(crate) fn write(fd: u32, text: &str) -> String {
    let call = format!(
        "(call $expect (call $fd_write (i32.const {fd}) (i32.const 16) (i32.const 1) (i32.const 8)))"
    );
    data(40, text) + &vector(40, text.len()) + &call
}

/// Opens a new file in a directory; its descriptor is at address 0.
pub(crate) fn open(directory: u32, name: &str) -> String {
    let call = format!(
        "(call $expect (call $path_open (i32.const {directory}) (i32.const 0) (i32.const 40) (i32.const {})
           (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)))",
        name.len()
    );
    data(40, name) + &call
}

fn print_many(bytes: u32) -> String {
    // 64 KiB at a time, as many as are asked for.
    format!(
        "(loop $more {}
           (call $expect (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
           (local.set $i (i32.add (local.get $i) (i32.load (i32.const 8))))
           (br_if $more (i32.lt_u (local.get $i) (i32.const {bytes}))))",
        vector(4096, 65_536)
    )
}

/// One subscription, to the monotonic clock, in a minute.
const SLEEP: &str = "
    (i32.store (i32.const 4112) (i32.const 1))
    (i64.store (i32.const 4120) (i64.const 60000000000))
    (call $expect (call $poll (i32.const 4096) (i32.const 8192) (i32.const 1) (i32.const 8)))";

const ENV: &str = "
    (call $expect (call $environ_sizes (i32.const 0) (i32.const 4)))
    (call $expect (call $environ (i32.const 4096) (i32.const 8192)))
    (i32.store (i32.const 16) (i32.const 8192))
    (i32.store (i32.const 20) (i32.load (i32.const 4)))
    (call $expect (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))";

const WRITE_OPENED: &str = "
    (i32.store (i32.const 16) (i32.const 40)) (i32.store (i32.const 20) (i32.const 2))
    (call $expect (call $fd_write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 8)))";

const EAT_MEMORY: &str =
    "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";

const FILL_DISK: &str = "
    (i32.store (i32.const 16) (i32.const 4096)) (i32.store (i32.const 20) (i32.const 65536))
    (loop $more
      (call $expect (call $fd_write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 8)))
      (br $more))";
