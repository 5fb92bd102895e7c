//! Whether a push that a Git server tells of is genuine, and whether it matters.

use ring::hmac;
use serde::Deserialize;

/// What a Git server sends to show that it knows the secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof<'a> {
    /// The HMAC-SHA256 of the body: `sha256=HEX` of GitHub's `X-Hub-Signature-256`, or the bare `HEX`
    /// of `X-Gitea-Signature` and `X-Forgejo-Signature`.
    Signature(&'a str),
    /// The secret itself: GitLab's `X-Gitlab-Token`.
    Token(&'a str),
}

/// Whether a push was sent by somebody who knows the secret. Takes the same time wherever a proof
/// differs. An empty secret proves nothing.
pub fn is_genuine(secret: &[u8], body: &[u8], proof: Proof<'_>) -> bool {
    let is_proven = match proof {
        Proof::Signature(header) => is_signed(secret, body, header),
        Proof::Token(token) => is_same(secret, token.as_bytes()),
    };
    is_proven && !secret.is_empty()
}

fn is_signed(secret: &[u8], body: &[u8], header: &str) -> bool {
    let hex = header.trim();
    let hex = hex.strip_prefix("sha256=").unwrap_or(hex);
    // What is no signature is compared as well, so that it takes as long as a wrong one.
    let tag = decode_hex(hex).unwrap_or_default();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), body, &tag).is_ok()
}

fn is_same(secret: &[u8], token: &[u8]) -> bool {
    // Both are hashed under one key, so that neither length nor content shows in the time taken.
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"weft webhook token");
    let expected = hmac::sign(&key, secret);
    hmac::verify(&key, token, expected.as_ref()).is_ok()
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

/// Whether an event is a push, by the header that names it: `push` of GitHub, Gitea and Forgejo,
/// `Push Hook` and `Tag Push Hook` of GitLab.
pub fn is_push(event: &str) -> bool {
    ["push", "Push Hook", "Tag Push Hook"].contains(&event)
}

/// What of a push is looked at.
#[derive(Debug, Default, Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: Option<String>,
    repository: Option<Repository>,
    /// GitLab has the default branch here.
    project: Option<Repository>,
}

#[derive(Debug, Default, Deserialize)]
struct Repository {
    default_branch: Option<String>,
}

/// Whether a push is to the reference that is deployed, the repository's default branch when
/// `deployed` is `None`. One that does not say counts.
pub fn concerns(deployed: Option<&str>, body: &[u8]) -> bool {
    let push: Push = serde_json::from_slice(body).unwrap_or_default();
    let Some(pushed) = push.reference else {
        return true;
    };
    let places = [push.repository, push.project].into_iter().flatten();
    let default = places.filter_map(|place| place.default_branch).next();
    let Some(deployed) = deployed.or(default.as_deref()) else {
        return true;
    };
    let name = pushed
        .strip_prefix("refs/heads/")
        .or_else(|| pushed.strip_prefix("refs/tags/"));
    pushed == deployed || name == Some(deployed)
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
        for header in [
            format!("sha256={SIGNATURE}"),
            SIGNATURE.to_owned(),
            SIGNATURE.to_ascii_uppercase(),
        ] {
            assert!(is_genuine(SECRET, BODY, Proof::Signature(&header)));
        }
    }

    #[test]
    fn other_signatures_are_refused() {
        let other = SIGNATURE.replacen('7', "8", 1);
        let wide = "é".repeat(32);
        for header in ["", "sha256=", "sha1=00", &other, &SIGNATURE[2..], &wide] {
            let proof = Proof::Signature(header);
            assert!(!is_genuine(SECRET, BODY, proof), "{header}");
        }
        let proof = Proof::Signature(SIGNATURE);
        assert!(!is_genuine(b"other", BODY, proof));
        assert!(!is_genuine(SECRET, b"Hello, World?", proof));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"");
        let empty: String = hmac::sign(&key, BODY)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(!is_genuine(b"", BODY, Proof::Signature(&empty)));
    }

    #[test]
    fn tokens_of_gitlab_are_compared() {
        assert!(is_genuine(b"s3cret", BODY, Proof::Token("s3cret")));
        for header in ["", "s3cre", "s3cret ", "S3cret"] {
            assert!(!is_genuine(b"s3cret", BODY, Proof::Token(header)));
        }
        assert!(!is_genuine(b"", BODY, Proof::Token("")));
    }

    #[test]
    fn a_push_to_another_branch_is_none_of_ours() {
        let main = br#"{"ref":"refs/heads/main","repository":{"default_branch":"main"}}"#;
        let other = br#"{"ref":"refs/heads/x","repository":{"default_branch":"main"}}"#;
        let gitlab = br#"{"ref":"refs/heads/x","project":{"default_branch":"main"},"repository":{"name":"a"}}"#;
        let tag = br#"{"ref":"refs/tags/v1"}"#;
        for (deployed, body, expected) in [
            (Some("main"), main.as_slice(), true),
            (Some("v1"), main, false),
            (None, main, true),
            (None, other, false),
            (Some("x"), other, true),
            (None, gitlab, false),
            (Some("refs/heads/x"), gitlab, true),
            (Some("v1"), tag, true),
            (Some("main"), b"not json", true),
        ] {
            assert_eq!(concerns(deployed, body), expected, "{deployed:?}");
        }
    }

    #[test]
    fn events_that_are_no_pushes_are_known() {
        for (event, expected) in [
            ("push", true),
            ("Tag Push Hook", true),
            ("ping", false),
            ("Merge Request Hook", false),
        ] {
            assert_eq!(is_push(event), expected, "{event}");
        }
    }
}
