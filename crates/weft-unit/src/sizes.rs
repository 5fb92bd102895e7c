//! What instances have written, found at a bounded cost.
//!
//! Most file systems keep no sums: somebody has to look at every file of a layer. A size is
//! therefore found beside the call that asks for it, one at a time, and again only after a pause
//! that grows with the work: a layer of a million files is measured every few minutes and not at
//! each look.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use weft_types::UnitId;

/// The shortest pause between two measurements of a unit; shorter than that between two looks.
const MIN_PAUSE: Duration = Duration::from_secs(4);
/// The pause is so many times as long as the measurement took: five percent of the time, for one
/// unit at a time.
const REST: u32 = 19;
/// How long a measurement may take.
const MAX_TIME: Duration = Duration::from_secs(300);
/// How long somebody who asks waits for one; afterwards what was known before is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sizes of what units' instances have written, as they were measured last.
#[derive(Clone, Debug)]
pub struct Sizes {
    known: Arc<Mutex<HashMap<UnitId, Known>>>,
    /// One measurement at a time: many units take no more of the machine than one.
    turn: Arc<Semaphore>,
    min_pause: Duration,
}

#[derive(Debug)]
struct Known {
    instance: String,
    bytes: u64,
    /// When it may be measured again; `None` while it is.
    next: Option<Instant>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
            min_pause: MIN_PAUSE,
        }
    }
}

impl Sizes {
    /// How much an instance has written, in bytes, as far as is known: 0 before the first
    /// measurement has ended. `measure` runs when it is time for another one, and gives `None` when
    /// it cannot tell; work that waits for a disk belongs on a thread of its own. What is known of
    /// another instance of the unit is forgotten.
    pub async fn of<F>(&self, unit: UnitId, instance: &str, measure: F) -> u64
    where
        F: Future<Output = Option<u64>> + Send + 'static,
    {
        if let Some(under_way) = self.begin(unit, instance) {
            // It goes on when nobody waits for it any more.
            let work = tokio::spawn(under_way.measure(measure));
            let _ = tokio::time::timeout(PATIENCE, work).await;
        }
        let known = self.known.lock();
        let found = known.get(&unit).filter(|it| it.instance == instance);
        found.map_or(0, |it| it.bytes)
    }

    /// Forgets a unit that is gone.
    pub fn forget(&self, unit: UnitId) {
        self.known.lock().remove(&unit);
    }

    /// A measurement, when it is time for one.
    fn begin(&self, unit: UnitId, instance: &str) -> Option<UnderWay> {
        let now = Instant::now();
        let mut known = self.known.lock();
        let entry = known
            .entry(unit)
            .or_insert_with(|| Known::new(instance, now));
        if entry.instance != instance {
            *entry = Known::new(instance, now);
        }
        entry.next.take_if(|next| *next <= now)?;
        Some(UnderWay {
            sizes: self.clone(),
            unit,
            instance: instance.to_owned(),
            pause: self.min_pause,
        })
    }
}

impl Known {
    fn new(instance: &str, now: Instant) -> Self {
        Self {
            instance: instance.to_owned(),
            bytes: 0,
            next: Some(now),
        }
    }
}

/// A measurement; another one may begin after a pause, however this one ends.
struct UnderWay {
    sizes: Sizes,
    unit: UnitId,
    instance: String,
    pause: Duration,
}

impl UnderWay {
    async fn measure(mut self, measure: impl Future<Output = Option<u64>>) {
        let turn = Arc::clone(&self.sizes.turn);
        let _turn = turn.acquire().await;
        let begun = Instant::now();
        let measured = tokio::time::timeout(MAX_TIME, measure).await;
        self.pause = self.pause.max(begun.elapsed() * REST);
        if let Ok(Some(bytes)) = measured {
            self.change(|known| known.bytes = bytes);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.sizes.known.lock();
        if let Some(known) = known.get_mut(&self.unit)
            && known.instance == self.instance
        {
            change(known);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let next = Instant::now() + self.pause;
        self.change(|known| known.next = Some(next));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::oneshot;
    use weft_types::WorkloadId;

    use super::*;

    /// Far less than a measurement may take, which somebody who asks does not wait for.
    const MAX_WAIT: Duration = Duration::from_secs(60);

    fn unit(number: u32) -> UnitId {
        UnitId {
            workload: WorkloadId(1),
            number,
        }
    }

    #[tokio::test]
    async fn it_is_measured_again_only_after_a_pause_and_for_another_instance() {
        let (sizes, count) = (Sizes::default(), Arc::new(AtomicU64::new(0)));
        let measure = || {
            let count = Arc::clone(&count);
            async move { Some(10 + count.fetch_add(1, Ordering::Relaxed)) }
        };
        assert_eq!(sizes.of(unit(1), "a", measure()).await, 10);
        assert_eq!(sizes.of(unit(1), "a", measure()).await, 10);
        assert_eq!(sizes.of(unit(1), "b", measure()).await, 11);
        assert_eq!(sizes.of(unit(2), "b", measure()).await, 12);
        sizes.forget(unit(1));
        assert_eq!(sizes.of(unit(1), "b", measure()).await, 13);
    }

    #[tokio::test]
    async fn a_long_measurement_delays_nobody_for_long_and_is_not_begun_twice() {
        let sizes = Sizes::default();
        let (done, wait) = oneshot::channel();
        let begun = Instant::now();
        let slow = async { wait.await.ok() };
        assert_eq!(sizes.of(unit(1), "a", slow).await, 0);
        let second = async { panic!("begun twice") };
        assert_eq!(sizes.of(unit(1), "a", second).await, 0);
        assert!(begun.elapsed() < MAX_WAIT, "{:?}", begun.elapsed());
        done.send(7).unwrap();
        while sizes.of(unit(1), "a", async { None }).await != 7 {
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() < MAX_WAIT, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_cannot_be_measured_keeps_what_was_known() {
        let sizes = Sizes {
            min_pause: Duration::ZERO,
            ..Sizes::default()
        };
        assert_eq!(sizes.of(unit(1), "a", async { Some(5) }).await, 5);
        let breaks = async { panic!("as a broken engine's client may") };
        for _ in 0..2 {
            assert_eq!(sizes.of(unit(1), "a", async { None }).await, 5);
        }
        assert_eq!(sizes.of(unit(1), "a", breaks).await, 5);
        while sizes.of(unit(1), "a", async { Some(6) }).await != 6 {
            tokio::task::yield_now().await;
        }
    }
}
