//! Whether a push that a Git server tells of is genuine. Pure: no engine, no clock.

use ring::hmac;

/// Checks the signature of a webhook's body: `sha256=HEX` of GitHub's `X-Hub-Signature-256`, or the
/// bare `HEX` of Gitea's and Gogs' `X-Gitea-Signature`. Takes the same time wherever the signature
/// differs. An empty secret verifies nothing.
pub fn verify_signature(secret: &[u8], body: &[u8], header: &str) -> bool {
    let hex = header.trim();
    let hex = hex.strip_prefix("sha256=").unwrap_or(hex);
    let Some(tag) = decode_hex(hex) else {
        return false;
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    !secret.is_empty() && hmac::verify(&key, body, &tag).is_ok()
}

/// Compares the token of GitLab's `X-Gitlab-Token` with the secret, in constant time. An empty
/// secret verifies nothing.
pub fn verify_token(secret: &[u8], header: &str) -> bool {
    // Both are hashed under one key, so that neither length nor content shows in the time taken.
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"weft webhook token");
    let expected = hmac::sign(&key, secret);
    !secret.is_empty() && hmac::verify(&key, header.as_bytes(), expected.as_ref()).is_ok()
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (slot, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |byte: u8| (byte as char).to_digit(16);
        *slot = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of GitHub's documentation of webhooks.
    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn signatures_of_github_and_gitea_are_verified() {
        assert!(verify_signature(
            SECRET,
            BODY,
            &format!("sha256={SIGNATURE}")
        ));
        assert!(verify_signature(SECRET, BODY, SIGNATURE));
        assert!(verify_signature(
            SECRET,
            BODY,
            &SIGNATURE.to_ascii_uppercase()
        ));
    }

    #[test]
    fn anything_else_is_refused() {
        let other = SIGNATURE.replacen('7', "8", 1);
        let wide = "é".repeat(32);
        for header in ["", "sha256=", "sha1=00", &other, &SIGNATURE[2..], &wide] {
            assert!(!verify_signature(SECRET, BODY, header), "{header}");
        }
        assert!(!verify_signature(b"other", BODY, SIGNATURE));
        assert!(!verify_signature(SECRET, b"Hello, World?", SIGNATURE));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"");
        let empty: String = hmac::sign(&key, BODY)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(!verify_signature(b"", BODY, &empty));
    }

    #[test]
    fn tokens_of_gitlab_are_compared() {
        assert!(verify_token(b"s3cret", "s3cret"));
        for header in ["", "s3cre", "s3cret ", "S3cret"] {
            assert!(!verify_token(b"s3cret", header));
        }
        assert!(!verify_token(b"", ""));
    }
}
