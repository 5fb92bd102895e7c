//! Pushes to Git repositories: a request that proves itself has the units of a Compose application made anew,
//! with the newest commit of its reference.
//!
//! Anybody on the network can send one. Which applications there are is not told: whatever is wrong
//! looks and takes the same.

use parking_lot::Mutex;
use weft_compose_rules::push::{Proof, concerns, is_genuine, is_push};
use weft_types::{GitSource, Namespace};

use super::change;
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
/// The same for an unknown name, an application without a webhook, and a wrong proof.
pub async fn push(
    server: &Server,
    namespace: &str,
    name: &str,
    proof: Proof<'_>,
    event: Option<&str>,
    body: &[u8],
) -> Result<Outcome, ApiError> {
    let found = find(server, namespace, name);
    // Without a secret the same is done with another one, so that it takes as long.
    let secret = found.as_ref().map_or("", |(secret, _)| secret.as_str());
    let is_proven = is_genuine(secret.as_bytes(), body, proof);
    let Some((_, git)) = found.filter(|_| is_proven) else {
        return Err(refused());
    };
    let is_other = event.is_some_and(|event| !is_push(event));
    if is_other || !concerns(git.reference.as_deref(), body) {
        return Ok(Outcome::Ignored);
    }
    let namespace: Namespace = namespace.parse().map_err(|_| refused())?;
    let key = WorkloadRecord::key(&namespace, name);
    change::change(server, &key, None, |record| {
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

fn refused() -> ApiError {
    Problem::new(
        403,
        "hook-refused",
        Reason::PermissionDenied,
        "no application takes a push under this name with this signature or token",
    )
    .with_next(format!(
        "name a secret with the key {WEBHOOK_KEY:?} in `compose.git.webhook`, and send the HMAC-SHA256 of the body as `x-hub-signature-256: sha256=HEX`, or the secret as `x-gitlab-token`"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_bounded_and_come_again() {
        let rate = Rate::default();
        let taken = (0..1_000).filter(|_| rate.allows(5_000)).count();
        assert_eq!(taken as u64, BURST);
        assert!(!rate.allows(5_001));
        assert!(rate.allows(5_000 + 1_000 / PER_SECOND));
    }
}
