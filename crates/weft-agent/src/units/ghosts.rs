//! What the engines have of ours: told when it changes, removed when nobody wants it.

use std::sync::Arc;
use std::time::Duration;

use weft_types::RuntimeKind;
use weft_unit::UnitRuntime;

use super::Shared;
use super::calls::OBSERVE_TIMEOUT;
use super::desired::Desired;
use super::driver::Before;

/// Changes that follow each other closely are one look.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// How often is looked for what nobody wants.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
/// The same after the engine did not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Watches the backend that serves a kind, whichever it is.
pub(super) async fn follow(shared: Arc<Shared>, kind: RuntimeKind) {
    let mut changes = shared.runtimes.subscribe();
    loop {
        changes.mark_unchanged();
        let runtime = shared.runtimes.get(kind);
        let is_other = || match (&runtime, &shared.runtimes.get(kind)) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() != now.is_some(),
        };
        let watching = async {
            match &runtime {
                Some(runtime) => {
                    let watch = watch(Arc::clone(&shared), Arc::clone(runtime));
                    let remove = remove(Arc::clone(&shared), Arc::clone(runtime));
                    futures::future::join(watch, remove).await;
                }
                None => std::future::pending().await,
            }
        };
        let changed = async {
            while changes.changed().await.is_ok() {
                if is_other() {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = watching => {}
            () = changed => {}
        }
    }
}

/// Has the units looked at when an engine says that something changed.
async fn watch(shared: Arc<Shared>, runtime: Arc<dyn UnitRuntime>) {
    loop {
        runtime.changed().await;
        shared.look();
        tokio::time::sleep(CHANGE_PAUSE).await;
    }
}

/// Removes what is ours and in nobody's set, also what was only half made.
async fn remove(shared: Arc<Shared>, runtime: Arc<dyn UnitRuntime>) {
    // Said once for as long as it lasts: what the node lacks is told to the server.
    let mut is_silent = false;
    loop {
        let found = tokio::time::timeout(OBSERVE_TIMEOUT, runtime.list()).await;
        let was_silent = std::mem::replace(&mut is_silent, !matches!(found, Ok(Ok(_))));
        let pause = match found {
            Ok(Ok(found)) => {
                for owned in found {
                    // Of a unit that is known this changes nothing.
                    let ghost = Desired::ghost(runtime.kind());
                    shared.insert(owned.unit, ghost, Before::default());
                }
                SEARCH_INTERVAL
            }
            _ if was_silent => RETRY_INTERVAL,
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
