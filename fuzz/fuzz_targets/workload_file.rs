//! Workload files in all notations: refused or understood, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_types::{SourceFormat, parse_workload};

fuzz_target!(|text: &str| {
    for format in [SourceFormat::Yaml, SourceFormat::Toml, SourceFormat::Json] {
        let _ = parse_workload(text, format);
    }
});
