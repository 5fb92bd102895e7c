//! What the engines have of ours: told when it changes, removed when nobody wants it.

use std::sync::Arc;
use std::time::Duration;

use weft_unit::UnitRuntime;

use super::Shared;
use super::calls::OBSERVE_TIMEOUT;
use super::desired::Desired;

/// Changes that follow each other closely are one look.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// How often is looked for what nobody wants.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
/// The same after the engine did not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Has the units looked at when an engine says that something changed.
pub(super) async fn watch(shared: Arc<Shared>, runtime: Arc<dyn UnitRuntime>) {
    loop {
        runtime.changed().await;
        shared.look();
        tokio::time::sleep(CHANGE_PAUSE).await;
    }
}

/// Removes what is ours and in nobody's set, also what was only half made.
pub(super) async fn remove(shared: Arc<Shared>, runtime: Arc<dyn UnitRuntime>) {
    loop {
        let found = tokio::time::timeout(OBSERVE_TIMEOUT, runtime.list()).await;
        let pause = match found {
            Ok(Ok(found)) => {
                for owned in found {
                    // Of a unit that is known this changes nothing.
                    let ghost = Desired::ghost(runtime.kind());
                    shared.insert(owned.unit, ghost, None, false);
                }
                SEARCH_INTERVAL
            }
            Ok(Err(error)) => {
                tracing::warn!(runtime = runtime.name(), %error, "what is left of units cannot be listed");
                RETRY_INTERVAL
            }
            Err(_) => {
                tracing::warn!(runtime = runtime.name(), "the engine does not answer");
                RETRY_INTERVAL
            }
        };
        tokio::time::sleep(pause).await;
    }
}
