//! The layers of docs/ARCHITECTURE.md as a test: an arrow may point down only.

use std::collections::BTreeMap;

/// Crates by layer, the lowest first.
const LAYERS: &[&[&str]] = &[
    &["weft-ops"],
    &["weft-types", "weft-compose-rules"],
    &["weft-placement"],
    &["weft-core"],
    &[
        "weft-store",
        "weft-queue",
        "weft-intake",
        "weft-blobs",
        "weft-pki",
        "weft-proto",
        "weft-discovery",
        "weft-fetch",
        "weft-sandbox",
        "weft-runtime",
        "weft-api",
    ],
    &["weft-unit"],
    &["weft-volumes"],
    &[
        "weft-engine",
        "weft-oci",
        "weft-compose",
        "weft-vm",
        "weft-proxy",
    ],
    &["weft-agent", "weft-server", "weft-client"],
    &["weft", "weft-sim"],
];

/// Crates that do no I/O, read no clock and draw no random numbers.
const PURE: &[&str] = &[
    "weft-ops",
    "weft-types",
    "weft-compose-rules",
    "weft-placement",
    "weft-core",
];

/// What pure crates must not depend on.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "rustix",
    "libc",
    "getrandom",
    "rand",
    "hyper",
    "axum",
    "tonic",
    "reqwest",
    "redb",
    "tempfile",
    "tracing",
];

/// Ways to read a clock or to draw random numbers without a dependency.
const IMPURE_WORDS: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "RandomState",
];

fn crates_dir() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names in the `[dependencies]` of each crate.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let entries = std::fs::read_dir(crates_dir())
        .expect("the crates are there")
        .flatten();
    entries
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("Cargo.toml")).ok()?;
            let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
            let section = section.split("\n[").next().unwrap_or_default();
            let names = section
                .lines()
                .filter_map(|line| line.split(['.', ' ', '=']).next());
            let names = names
                .filter(|name| !name.is_empty() && !name.starts_with('#'))
                .map(str::to_owned);
            Some((
                entry.file_name().to_string_lossy().into_owned(),
                names.collect(),
            ))
        })
        .collect()
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[test]
fn every_crate_has_a_layer_and_depends_only_on_lower_ones_or_its_neighbours() {
    for (name, dependencies) in dependencies() {
        let layer = layer_of(&name).unwrap_or_else(|| panic!("{name} has no layer"));
        for dependency in dependencies
            .iter()
            .filter(|dependency| dependency.starts_with("weft"))
        {
            let below = layer_of(dependency).unwrap_or_else(|| panic!("{dependency} has no layer"));
            assert!(
                below <= layer,
                "{name} depends on {dependency}, which lies above it"
            );
        }
    }
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io() {
    let dependencies = dependencies();
    for name in PURE {
        for dependency in &dependencies[*name] {
            assert!(
                !IMPURE.contains(&dependency.as_str()),
                "{name} is pure and depends on {dependency}"
            );
        }
    }
}

#[test]
fn pure_crates_read_no_clock_and_touch_no_system() {
    for name in PURE {
        let mut open = vec![crates_dir().join(name).join("src")];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).expect("sources").flatten() {
                if entry.path().is_dir() {
                    open.push(entry.path());
                    continue;
                }
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let code = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                for (number, line) in code.enumerate() {
                    let found = IMPURE_WORDS.iter().find(|word| line.contains(**word));
                    assert!(
                        found.is_none(),
                        "{}:{number}: {line}",
                        entry.path().display()
                    );
                }
            }
        }
    }
}
