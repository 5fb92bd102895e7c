//! Byte programs: what decodes encodes to the same, and runs without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_ops::Program;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(program) = serde_json::from_slice::<Program>(bytes) {
        assert_eq!(Program::decode(&program.encode()).as_ref(), Ok(&program));
        let _ = program.run(bytes);
    }
    let (head, rest) = bytes.split_at(bytes.len().min(40));
    if let Ok(program) = Program::decode(head) {
        let _ = program.run(rest);
    }
});
