//! Forty bits as eight characters that people can read to each other: Crockford's base 32
//! (no i, l, o, u), lower case.

/// Bytes in a code.
pub(crate) const CODE_BYTES: usize = 5;
/// Characters in a code.
pub(crate) const CODE_CHARS: usize = 8;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BITS_PER_CHAR: usize = 5;

/// Encodes forty bits.
pub(crate) fn encode(bytes: [u8; CODE_BYTES]) -> String {
    let number = bytes
        .iter()
        .fold(0u64, |number, &byte| (number << 8) | u64::from(byte));
    (0..CODE_CHARS)
        .rev()
        .map(|position| ALPHABET[(number >> (position * BITS_PER_CHAR)) as usize & 31] as char)
        .collect()
}

/// Decodes eight characters of the alphabet, in either case.
pub(crate) fn decode(text: &str) -> Option<[u8; CODE_BYTES]> {
    if text.len() != CODE_CHARS {
        return None;
    }
    let mut number = 0u64;
    for byte in text.bytes() {
        let value = ALPHABET
            .iter()
            .position(|&b| b == byte.to_ascii_lowercase())?;
        number = (number << BITS_PER_CHAR) | value as u64;
    }
    let [_, _, _, bytes @ ..] = number.to_be_bytes();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_round_trip(bytes: [u8; CODE_BYTES]) {
            prop_assert_eq!(decode(&encode(bytes)), Some(bytes));
        }

        #[test]
        fn decoding_never_panics(text in "\\PC{0,10}") {
            let _ = decode(&text);
        }
    }
}
