//! From what a user calls a volume to the name of its directory.

use weft_types::VolumeSpec;

/// Longer ones are cut, and told apart by a hash.
const MAX_BYTES: usize = 120;

/// The directory of a volume within its workload: its name, or `@` and its target when it has none.
/// Names never begin with `@`, and no two targets give the same directory.
pub(crate) fn directory(spec: &VolumeSpec) -> String {
    let name = match &spec.name {
        Some(name) => return name.clone(),
        None => escaped(spec.target.trim_matches('/')),
    };
    if name.len() <= MAX_BYTES {
        return format!("@{name}");
    }
    let hash = fnv64(name.as_bytes());
    let cut: String = name.chars().take(MAX_BYTES).collect();
    format!("@{cut}~{hash:016x}")
}

/// One step of a path becomes `-`, so that what means something keeps its look; whatever else is
/// not a letter, a digit or a dot becomes `_xx`, the bytes in hexadecimal.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let parts = path.split('/').filter(|part| !part.is_empty());
    for (index, part) in parts.enumerate() {
        if index > 0 {
            text.push('-');
        }
        for byte in part.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' => text.push(char::from(byte)),
                _ => text.push_str(&format!("_{byte:02x}")),
            }
        }
    }
    text
}

/// FNV-1a (draft-eastlake-fnv), which stays the same over versions, unlike the standard library's.
pub(crate) fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, name: Option<&str>) -> String {
        directory(&VolumeSpec {
            target: target.to_owned(),
            name: name.map(str::to_owned),
            ..VolumeSpec::default()
        })
    }

    #[test]
    fn targets_and_names_never_share_a_directory() {
        assert_eq!(of("/var/lib/data", None), "@var-lib-data");
        assert_eq!(of("/var/lib-data/", None), "@var-lib_2ddata");
        assert_eq!(of("/var/lib/data", Some("var-lib-data")), "var-lib-data");
        assert_eq!(of("/ä b", None), "@_c3_a4_20b");
        assert_eq!(of("/x/..y", None), "@x-..y");
    }

    #[test]
    fn long_targets_fit_a_file_name_and_stay_apart() {
        let (one, other) = ("/a".repeat(900), "/a".repeat(901));
        assert!(of(&one, None).len() < 255);
        assert_ne!(of(&one, None), of(&other, None));
    }
}
