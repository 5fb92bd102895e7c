//! Dead letters: jobs that cannot be run, with their reason.

use base64::Engine;
use bytes::Bytes;
use serde::Serialize;
use weft_types::Reason;

use crate::Delivery;

/// How much of a job its dead letter carries, in bytes.
const MAX_QUOTED_BYTES: usize = 256 << 10;

/// A job that cannot be run, as JSON among the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Why, as a word.
    pub reason: Reason,
    /// Why, as a sentence that names the field.
    pub detail: String,
    /// The job's id, when it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// When, in RFC 3339.
    pub at: String,
    /// How often it was delivered.
    pub deliveries: u32,
    /// The job as it was pushed, when it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The job as it was pushed, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// How many bytes were pushed.
    body_bytes: usize,
    /// Whether the body is only the beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    body_truncated: bool,
}

impl DeadLetter {
    /// The letter of a delivery.
    pub fn new(
        delivery: &Delivery,
        job_id: Option<String>,
        reason: Reason,
        detail: impl Into<String>,
        at: String,
    ) -> Self {
        let whole = delivery.is_whole() && delivery.body.len() <= MAX_QUOTED_BYTES;
        let quoted = &delivery.body[..delivery.body.len().min(MAX_QUOTED_BYTES)];
        let text = match std::str::from_utf8(quoted) {
            Ok(text) => Some(text),
            // A character that was cut in two is not the producer's fault.
            Err(error) if !whole && error.error_len().is_none() => {
                std::str::from_utf8(&quoted[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let base64 = base64::engine::general_purpose::STANDARD;
        Self {
            reason,
            detail: detail.into(),
            job_id,
            at,
            deliveries: delivery.receipt.deliveries,
            body: text.map(str::to_owned),
            body_base64: text.is_none().then(|| base64.encode(quoted)),
            body_bytes: delivery.size,
            body_truncated: !whole,
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Receipt;

    fn letter(body: &[u8], size: usize) -> serde_json::Value {
        let delivery = Delivery {
            receipt: Receipt {
                sequence: 1,
                deliveries: 2,
            },
            body: Bytes::copy_from_slice(body),
            size,
            key: None,
        };
        let letter = DeadLetter::new(&delivery, None, Reason::InvalidSpec, "why", "now".into());
        serde_json::from_slice(&letter.to_json()).unwrap()
    }

    #[test]
    fn a_body_is_quoted_as_text_or_as_base64_and_says_when_it_is_cut() {
        let text = letter(b"{\"a\":", 5);
        assert_eq!(text["body"], "{\"a\":");
        assert_eq!(text["reason"], "invalid-spec");
        assert!(text.get("body_truncated").is_none());
        let binary = letter(&[0xff, 0xfe], 2);
        assert_eq!(binary["body_base64"], "//4=");
        assert!(binary.get("body").is_none());
        let cut = letter("äöü".get(..4).unwrap().as_bytes(), 6);
        assert_eq!(
            (&cut["body"], &cut["body_truncated"]),
            (&"äö".into(), &true.into())
        );
        let within_a_character = letter(&"äöü".as_bytes()[..3], 6);
        assert_eq!(within_a_character["body"], "ä");
        assert_eq!(within_a_character["body_bytes"], 6);
    }
}
