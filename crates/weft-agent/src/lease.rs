//! The node's own count of its lease, which exclusive units must not outlive.
//!
//! A heartbeat that was sent at `s` reached the server at `s` or later, so that the server's count
//! ends at `s + ttl` or later. The node stops exclusive units at `s + ttl·3/4`; of the last quarter
//! instances have half (`ttl/8`) to end by themselves, and the engine has the other half to kill
//! those that did not. With the default of 3 s: asked to end at 2.25 s, killed at 2.625 s, dead
//! before 3 s. Only the answer to a heartbeat counts (`Beat`): what was merely sent may not have
//! arrived.
//!
//! What an agent cannot do that is killed or stands still the guard does, by the same count
//! ([`crate::guard`]): it is written down whenever it changes ([`crate::lease_file`]).
//!
//! Time is that of the boot (`CLOCK_BOOTTIME`), which goes on while the machine sleeps. A lost
//! lease is held again only once a server has said what is to run here: until then somebody else
//! may run it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;
use weft_core::unit::Lease as Right;

use crate::lease_file::{Kept, LeaseFile};

pub(crate) use crate::lease_file::now_ms;

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
    file: Mutex<LeaseFile>,
}

#[derive(Debug)]
struct State {
    ttl_ms: u64,
    /// When the last heartbeat that was answered, or greeting, was sent.
    sent_ms: Option<u64>,
    /// The same of the last one while the lease was held.
    held_ms: Option<u64>,
    /// Whether a server has said what is to run here since the lease was last lost.
    is_confirmed: bool,
    /// Exclusive units on this node; without any nobody needs to look.
    exclusive: usize,
    /// The agent is about to leave: exclusive units are to end, in their own time.
    is_leaving: bool,
    is_over: bool,
}

/// An exclusive unit of this node, until this is dropped.
pub(crate) struct ExclusiveUnit {
    lease: Lease,
}

impl State {
    fn kept(&self) -> Option<Kept> {
        Some(Kept {
            sent_ms: self.sent_ms?,
            ttl_ms: self.ttl_ms,
            is_noticed: !self.is_confirmed,
        })
    }

    fn stop_at(&self) -> Option<u64> {
        Some(self.kept()?.ask_at())
    }

    /// Whether the lease is held, whatever the agent is about to do.
    fn is_held(&mut self, now_ms: u64) -> bool {
        if self.stop_at().is_none_or(|at| at <= now_ms) {
            self.is_confirmed = false;
        }
        if self.is_confirmed {
            self.held_ms = self.sent_ms;
        }
        self.is_confirmed
    }

    fn right(&mut self, now_ms: u64) -> Right {
        match (self.is_held(now_ms), self.is_leaving) {
            (true, false) => Right::Held,
            // The lease is renewed meanwhile; should that end, the guard cuts it short.
            (true, true) => Right::Lost { grace_ms: u64::MAX },
            (false, _) => {
                let ends_ms = self.kept().map_or(0, |kept| kept.ends_at());
                Right::Lost {
                    grace_ms: (ends_ms.saturating_sub(now_ms) / 2).min(self.ttl_ms / 8),
                }
            }
        }
    }
}

impl Lease {
    /// With what is left of the lease from before a restart of the agent.
    ///
    /// # Errors
    /// When there is no thread to be had, or no file.
    pub(crate) fn open(data_dir: &Path) -> std::io::Result<Self> {
        let kept = Kept::read(data_dir);
        let mut state = State {
            ttl_ms: kept.map_or(0, |kept| kept.ttl_ms),
            sent_ms: kept.map(|kept| kept.sent_ms),
            held_ms: None,
            is_confirmed: kept.is_some_and(|kept| !kept.is_noticed),
            exclusive: 0,
            is_leaving: false,
            is_over: false,
        };
        let (right, _) = watch::channel(state.right(now_ms()));
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            right,
            file: Mutex::new(LeaseFile::open(data_dir)?),
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
        drop(state);
        self.shared.renewed();
    }

    /// A server answered the heartbeat that was sent then. One from the future is no answer.
    pub(crate) fn beat(&self, sent_ms: u64) {
        if sent_ms > now_ms() {
            return;
        }
        let mut state = self.shared.state.lock();
        // Judged before it is renewed: an answer that was read late does not undo the end.
        state.is_held(now_ms());
        state.sent_ms = state.sent_ms.max(Some(sent_ms));
        drop(state);
        self.shared.renewed();
    }

    /// A server said what is to run here.
    pub(crate) fn confirmed(&self) {
        let mut state = self.shared.state.lock();
        state.is_confirmed = true;
        drop(state);
        self.shared.renewed();
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
            let state = self.shared.state.lock();
            if is_lost && state.exclusive > 0 && !state.is_leaving {
                return;
            }
        }
        std::future::pending().await
    }

    /// There is one more exclusive unit.
    pub(crate) fn guard(&self) -> ExclusiveUnit {
        self.shared.state.lock().exclusive += 1;
        self.shared.renewed();
        ExclusiveUnit {
            lease: self.clone(),
        }
    }

    /// Exclusive units are to end although the lease is held: nobody will renew it soon.
    pub(crate) fn leave(&self) {
        self.shared.state.lock().is_leaving = true;
        self.shared.judge();
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
    fn renewed(&self) {
        self.judge();
        self.changed.notify_all();
    }

    fn judge(&self) -> Right {
        let right = self.state.lock().right(now_ms());
        self.write_down();
        self.publish(right);
        right
    }

    /// Keeps the file in line with what is known; without exclusive units nobody needs it.
    fn write_down(&self) {
        let mut file = self.file.lock();
        let kept = {
            let mut state = self.state.lock();
            let is_held = state.is_held(now_ms());
            let needed = state.held_ms.filter(|_| state.exclusive > 0);
            needed.map(|sent_ms| Kept {
                sent_ms,
                ttl_ms: state.ttl_ms,
                is_noticed: !is_held,
            })
        };
        if let Some(kept) = kept
            && let Err(error) = file.write(kept)
        {
            tracing::warn!(%error, "the lease could not be written down");
        }
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
    }

    #[test]
    fn the_guard_can_read_when_it_was_renewed_and_that_it_was_lost() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path()).unwrap();
        lease.welcomed(now_ms(), 60_000);
        lease.confirmed();
        assert_eq!(Kept::read(dir.path()), None, "there is nothing to guard");
        let _unit = lease.guard();
        let first = Kept::read(dir.path()).unwrap();
        assert!(!first.is_noticed && first.ttl_ms == 60_000);
        let sent_ms = now_ms();
        lease.beat(sent_ms);
        assert_eq!(Kept::read(dir.path()).unwrap().sent_ms, sent_ms);
        lease.shared.state.lock().sent_ms = Some(sent_ms.saturating_sub(50_000));
        assert!(!is_held(&lease));
        // Answered again, but nobody has said that the units are still to run here.
        lease.beat(now_ms());
        let lost = Kept::read(dir.path()).unwrap();
        assert!(lost.is_noticed && lost.sent_ms == sent_ms);
        lease.confirmed();
        assert!(!Kept::read(dir.path()).unwrap().is_noticed);
        lease.close();
    }

    #[test]
    fn an_agent_that_leaves_gives_its_units_their_own_time_and_goes_on_renewing() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path()).unwrap();
        let _unit = lease.guard();
        lease.welcomed(now_ms(), 60_000);
        lease.confirmed();
        lease.leave();
        assert_eq!(lease.judge(), Right::Lost { grace_ms: u64::MAX });
        let sent_ms = now_ms();
        lease.beat(sent_ms);
        let kept = Kept::read(dir.path()).unwrap();
        assert_eq!((kept.sent_ms, kept.is_noticed), (sent_ms, false));
        lease.close();
    }
}
