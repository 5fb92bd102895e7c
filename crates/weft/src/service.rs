//! What a service manager is told (sd_notify(3)); nothing happens without one.

use sd_notify::NotifyState;

/// The server listens, or the agent is part of its cluster.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// It was asked to stop, and does.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
