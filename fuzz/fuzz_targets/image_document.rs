//! What a registry answers: manifests, indices and configurations are refused or understood within
//! their bounds, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_oci::{Document, Reference, parse_config, parse_document};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Document::Manifest(manifest)) = parse_document(bytes) {
        assert!(manifest.layers.len() <= 127);
    }
    for layers in [0, 1] {
        let _ = parse_config(bytes, layers);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = text.parse::<Reference>()
    {
        let again = reference.to_string().parse::<Reference>();
        let version = again.map(|again| again.version());
        assert_eq!(version.ok(), Some(reference.version()));
    }
});
