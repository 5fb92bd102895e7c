//! The node's own count of its lease, which exclusive units must not outlive.
//!
//! A heartbeat that was sent at `s` reached the server at `s` or later, so that the server's count
//! ends at `s + ttl` or later. The node stops exclusive units at `s + ttl·3/4`; of the last quarter
//! instances have half (`ttl/8`) to end by themselves, and the engine has the other half to kill
//! those that did not. With the default of 3 s: asked to end at 2.25 s, killed at 2.625 s, dead
//! before 3 s. Only the answer to a heartbeat counts (`Beat`): what was merely sent may not have
//! arrived.
//!
//! Time is that of the boot (`CLOCK_BOOTTIME`), which goes on while the machine sleeps. A lost
//! lease is held again only once a server has said what is to run here: until then somebody else
//! may run it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use weft_core::unit::Lease as Right;

/// How late the end of a lease is noticed at most after the machine slept: waits do not count that.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The lease of this node; cloning shares it.
#[derive(Clone)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    right: watch::Sender<Right>,
    file: PathBuf,
}

#[derive(Debug)]
struct State {
    ttl_ms: u64,
    /// When the last heartbeat that was answered, or greeting, was sent.
    sent_ms: Option<u64>,
    /// Whether a server has said what is to run here since the lease was last lost.
    is_confirmed: bool,
    /// Exclusive units on this node; without any nobody needs to look.
    exclusive: usize,
    is_over: bool,
}

/// An exclusive unit of this node, until this is dropped.
pub(crate) struct ExclusiveUnit {
    lease: Lease,
}

impl State {
    fn stop_at(&self) -> Option<u64> {
        Some(self.sent_ms?.saturating_add(self.ttl_ms * 3 / 4))
    }

    fn right(&mut self, now_ms: u64) -> Right {
        if self.stop_at().is_none_or(|at| at <= now_ms) {
            self.is_confirmed = false;
        }
        if self.is_confirmed {
            return Right::Held;
        }
        let ends_ms = self.sent_ms.map_or(0, |sent| sent + self.ttl_ms);
        Right::Lost {
            grace_ms: (ends_ms.saturating_sub(now_ms) / 2).min(self.ttl_ms / 8),
        }
    }
}

impl Lease {
    /// With what is left of the lease from before a restart of the agent.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn open(data_dir: &Path) -> std::io::Result<Self> {
        let file = data_dir.join("lease");
        let kept = std::fs::read_to_string(&file).ok();
        let kept = kept.and_then(|text| parse(&text, &boot_id()));
        let mut state = State {
            ttl_ms: kept.map_or(0, |(_, ttl_ms)| ttl_ms),
            sent_ms: kept.map(|(sent_ms, _)| sent_ms),
            is_confirmed: kept.is_some(),
            exclusive: 0,
            is_over: false,
        };
        let (right, _) = watch::channel(state.right(now_ms()));
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            right,
            file,
        });
        let watching = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("weft-lease".to_owned())
            .spawn(move || watching.watch())?;
        Ok(Self { shared })
    }

    /// A server answered the greeting that was sent then.
    pub(crate) fn welcomed(&self, sent_ms: u64, ttl_ms: u64) {
        let mut state = self.shared.state.lock();
        state.ttl_ms = ttl_ms;
        state.sent_ms = state.sent_ms.max(Some(sent_ms));
        self.shared.renewed(state);
    }

    /// A server answered the heartbeat that was sent then. One from the future is no answer.
    pub(crate) fn beat(&self, sent_ms: u64) {
        if sent_ms > now_ms() {
            return;
        }
        let mut state = self.shared.state.lock();
        // Judged before it is renewed: an answer that was read late does not undo the end.
        state.right(now_ms());
        state.sent_ms = state.sent_ms.max(Some(sent_ms));
        self.shared.renewed(state);
    }

    /// A server said what is to run here.
    pub(crate) fn confirmed(&self) {
        let mut state = self.shared.state.lock();
        state.is_confirmed = true;
        self.shared.renewed(state);
    }

    /// Whether exclusive units may run at this moment.
    pub(crate) fn judge(&self) -> Right {
        self.shared.judge()
    }

    /// Follows it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Right> {
        self.shared.right.subscribe()
    }

    /// Resolves when exclusive units had to stop: another session may bring the lease back.
    pub(crate) async fn lost(&self) {
        let mut right = self.subscribe();
        right.mark_unchanged();
        while right.changed().await.is_ok() {
            let is_lost = *right.borrow_and_update() != Right::Held;
            if is_lost && self.shared.state.lock().exclusive > 0 {
                return;
            }
        }
        std::future::pending().await
    }

    /// There is one more exclusive unit.
    pub(crate) fn guard(&self) -> ExclusiveUnit {
        self.shared.state.lock().exclusive += 1;
        self.shared.judge();
        self.shared.changed.notify_all();
        ExclusiveUnit {
            lease: self.clone(),
        }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.shared.state.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for ExclusiveUnit {
    fn drop(&mut self) {
        self.lease.shared.state.lock().exclusive -= 1;
    }
}

impl Shared {
    fn renewed(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let right = state.right(now_ms());
        let keep = (state.exclusive > 0 && right == Right::Held).then_some(state.sent_ms);
        let ttl_ms = state.ttl_ms;
        drop(state);
        self.publish(right);
        self.changed.notify_all();
        // Not synced: after a loss of power there is no lease, and nothing that runs.
        if let Some(Some(sent_ms)) = keep
            && let Err(error) =
                std::fs::write(&self.file, format!("{} {sent_ms} {ttl_ms}\n", boot_id()))
        {
            tracing::warn!(%error, "the lease could not be written down");
        }
    }

    fn judge(&self) -> Right {
        let right = self.state.lock().right(now_ms());
        self.publish(right);
        right
    }

    /// Tells of what changed; how much grace is left changes with time and is no news.
    fn publish(&self, right: Right) {
        self.right.send_if_modified(|known| {
            let is_news = (*known == Right::Held) != (right == Right::Held);
            if is_news {
                *known = right;
            }
            is_news
        });
    }

    fn watch(&self) {
        loop {
            self.judge();
            let mut state = self.state.lock();
            if state.is_over {
                return;
            }
            if state.exclusive == 0 || !state.is_confirmed {
                self.changed.wait(&mut state);
                continue;
            }
            let left_ms = state.stop_at().map_or(0, |at| at.saturating_sub(now_ms()));
            let pause = Duration::from_millis(left_ms).min(LOOK_INTERVAL);
            self.changed.wait_for(&mut state, pause);
        }
    }
}

/// Milliseconds since the machine was started, asleep or not.
pub(crate) fn now_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1000 + nanos / 1_000_000
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// When the heartbeat was sent that the kept lease counts from, and for how long it lasts; of
/// another boot it says nothing.
fn parse(text: &str, boot_id: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace();
    (words.next()? == boot_id && !boot_id.is_empty()).then_some(())?;
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(lease: &Lease) -> bool {
        lease.judge() == Right::Held
    }

    #[test]
    fn it_is_lost_a_quarter_before_its_end_and_comes_back_only_confirmed() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path()).unwrap();
        assert!(!is_held(&lease));
        lease.welcomed(now_ms(), 60_000);
        assert!(!is_held(&lease), "no server has said what is to run");
        lease.confirmed();
        assert!(is_held(&lease));
        let mut state = lease.shared.state.lock();
        let sent_ms = state.sent_ms.unwrap();
        assert_eq!(state.right(sent_ms + 44_999), Right::Held);
        let lost = Right::Lost { grace_ms: 7_500 };
        assert_eq!(state.right(sent_ms + 45_000), lost);
        assert_eq!(state.right(sent_ms), Right::Lost { grace_ms: 7_500 });
        drop(state);
        lease.beat(now_ms());
        assert!(!is_held(&lease));
        lease.confirmed();
        assert!(is_held(&lease));
        lease.close();
    }

    #[test]
    fn an_answer_from_the_future_renews_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path()).unwrap();
        lease.welcomed(now_ms().saturating_sub(10_000), 1_000);
        lease.beat(u64::MAX);
        lease.confirmed();
        assert!(!is_held(&lease));
        lease.close();
    }

    #[test]
    fn what_is_left_of_it_outlives_the_agent_within_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path()).unwrap();
        let unit = lease.guard();
        lease.welcomed(now_ms(), 60_000);
        lease.confirmed();
        drop(unit);
        lease.close();
        let again = Lease::open(dir.path()).unwrap();
        assert!(is_held(&again));
        again.close();
        assert_eq!(parse("other 1 2", "this"), None);
        assert_eq!(parse("this 1 2", "this"), Some((1, 2)));
    }
}
