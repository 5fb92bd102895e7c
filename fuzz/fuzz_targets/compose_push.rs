//! Pushes of Git servers: looked at without a panic, and never taken for genuine without the secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_compose_rules::push::{Proof, concerns, is_genuine, is_push};

const SECRET: &str = "a secret that nobody guesses";

fuzz_target!(|input: (&str, &[u8])| {
    let (header, body) = input;
    let _ = (
        is_push(header),
        concerns(Some(header), body),
        concerns(None, body),
    );
    assert!(!is_genuine(
        SECRET.as_bytes(),
        body,
        Proof::Signature(header)
    ));
    let is_token = is_genuine(SECRET.as_bytes(), body, Proof::Token(header));
    assert_eq!(is_token, header == SECRET);
    assert!(!is_genuine(b"", body, Proof::Token(header)));
});
