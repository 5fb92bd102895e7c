//! Pushes to Git repositories: a signed request has the units of a Compose application made anew,
//! with the newest commit of its reference.
//!
//! Anybody on the network can send one. Which applications there are is not told: whatever is wrong
//! looks and takes the same.

use parking_lot::Mutex;
use ring::hmac;
use serde::Deserialize;
use weft_types::{GitSource, Namespace};

use super::apply;
use super::resolve::{self, WEBHOOK_KEY};
use crate::rest::problem::ApiError;
use crate::state::Server;
use weft_api::Problem;
use weft_core::service::record::WorkloadRecord;
use weft_types::Reason;

/// Pushes a second that are looked at, and how many may come at once.
const PER_SECOND: u64 = 20;
const BURST: u64 = 100;

/// A bucket of pushes that may be looked at.
#[derive(Debug, Default)]
pub struct Rate {
    /// Thousandths of pushes that were taken, and until when that is counted.
    state: Mutex<(u64, u64)>,
}

impl Rate {
    /// Whether one more may be looked at, at this steady time in milliseconds.
    pub fn allows(&self, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        let (taken, at_ms) = *state;
        let drained = now_ms.saturating_sub(at_ms).saturating_mul(PER_SECOND);
        let taken = taken.saturating_sub(drained);
        let allows = taken + 1_000 <= BURST * 1_000;
        *state = (taken + if allows { 1_000 } else { 0 }, now_ms);
        allows
    }
}

/// What of a push is looked at.
#[derive(Debug, Default, Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: Option<String>,
    repository: Option<Repository>,
}

#[derive(Debug, Default, Deserialize)]
struct Repository {
    default_branch: Option<String>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Units are made anew.
    Restarted,
    /// It was for another branch, or is no push.
    Ignored,
}

/// Takes a push.
///
/// # Errors
/// The same for an unknown name, an application without a webhook, and a wrong signature.
pub async fn push(
    server: &Server,
    namespace: &str,
    name: &str,
    signature: Option<&str>,
    event: Option<&str>,
    body: &[u8],
) -> Result<Outcome, ApiError> {
    let found = find(server, namespace, name);
    // Without a key the same is done with another one, so that it takes as long.
    let secret = found.as_ref().map_or("", |(secret, _)| secret.as_str());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = signature.and_then(|text| hex::decode(text.trim()).ok());
    let signature = signature.unwrap_or_default();
    let is_signed = hmac::verify(&key, body, &signature).is_ok();
    let Some((_, git)) = found.filter(|(secret, _)| is_signed && !secret.is_empty()) else {
        return Err(refused());
    };
    if event.is_some_and(|event| event != "push") || !concerns(&git, body) {
        return Ok(Outcome::Ignored);
    }
    let namespace: Namespace = namespace.parse().map_err(|_| refused())?;
    let key = WorkloadRecord::key(&namespace, name);
    apply::change(server, &key, None, |record| {
        record.restarts += 1;
        Ok(())
    })
    .await?;
    Ok(Outcome::Restarted)
}

/// The secret of an application's webhook, and where its Compose file lies.
fn find(server: &Server, namespace: &str, name: &str) -> Option<(String, GitSource)> {
    let namespace: Namespace = namespace.parse().ok()?;
    server.services.workloads.read(|tables| {
        let record = &tables.by_name(&namespace, name)?.value;
        let git = record.spec.compose.as_ref()?.git.as_ref()?;
        let secret = git.webhook.as_deref()?;
        let sealer = &server.services.sealer;
        let mut values = resolve::values(tables, sealer, &namespace, secret).ok()?;
        Some((values.remove(WEBHOOK_KEY)?, git.clone()))
    })
}

/// Whether a push is to the reference that is deployed. One that does not say counts.
fn concerns(git: &GitSource, body: &[u8]) -> bool {
    let push: Push = serde_json::from_slice(body).unwrap_or_default();
    let Some(pushed) = push.reference else {
        return true;
    };
    let default = || {
        push.repository
            .and_then(|repository| repository.default_branch)
    };
    let Some(deployed) = git.reference.clone().or_else(default) else {
        return true;
    };
    pushed == deployed
        || pushed == format!("refs/heads/{deployed}")
        || pushed == format!("refs/tags/{deployed}")
}

fn refused() -> ApiError {
    Problem::new(
        403,
        "hook-refused",
        Reason::PermissionDenied,
        "no application takes a push under this name with this signature",
    )
    .with_next(format!(
        "name a secret with the key {WEBHOOK_KEY:?} in `compose.git.webhook`, and send the HMAC-SHA256 of the body as `x-hub-signature-256: sha256=HEX`"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(reference: Option<&str>) -> GitSource {
        GitSource {
            reference: reference.map(str::to_owned),
            ..GitSource::default()
        }
    }

    #[test]
    fn a_push_to_another_branch_is_none_of_ours() {
        let main = br#"{"ref":"refs/heads/main","repository":{"default_branch":"main"}}"#;
        let other = br#"{"ref":"refs/heads/x","repository":{"default_branch":"main"}}"#;
        for (reference, body, expected) in [
            (Some("main"), main.as_slice(), true),
            (Some("v1"), main, false),
            (None, main, true),
            (None, other, false),
            (Some("x"), other, true),
            (Some("main"), b"not json", true),
        ] {
            assert_eq!(concerns(&git(reference), body), expected, "{reference:?}");
        }
    }

    #[test]
    fn pushes_are_bounded_and_come_again() {
        let rate = Rate::default();
        let taken = (0..1_000).filter(|_| rate.allows(5_000)).count();
        assert_eq!(taken as u64, BURST);
        assert!(!rate.allows(5_001));
        assert!(rate.allows(5_000 + 1_000 / PER_SECOND));
    }
}
