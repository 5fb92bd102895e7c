//! Layers of images: whatever an archive says, nothing appears outside the directory it is unpacked
//! to, and no more than its limits allow.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use weft_oci::{Compression, Limits, unpack_layer};

/// Names are searched for here: a file system in memory keeps up.
const DIR: &str = "/dev/shm";

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let compression = match choice % 4 {
        0 | 1 => Compression::None,
        2 => Compression::Gzip,
        _ => Compression::Zstd,
    };
    let limits = Limits {
        bytes: 1 << 20,
        entries: 64,
        ..Limits::default()
    };
    let outside = tempfile::tempdir_in(DIR).expect("a directory");
    let inside = outside.path().join("layer");
    std::fs::create_dir(&inside).expect("a directory");
    std::fs::write(outside.path().join("victim"), "whole").expect("a file");
    if let Ok(unpacked) = unpack_layer(bytes, compression, &inside, limits) {
        assert!(unpacked.bytes <= limits.bytes && unpacked.entries <= limits.entries);
    }
    is_untouched(outside.path());
});

fn is_untouched(outside: &Path) {
    let entries = std::fs::read_dir(outside).expect("it is there");
    assert_eq!(entries.count(), 2, "something appeared outside the layer");
    let victim = std::fs::read_to_string(outside.join("victim"));
    assert_eq!(victim.expect("it is there"), "whole");
}
