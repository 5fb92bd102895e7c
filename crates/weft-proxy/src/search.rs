//! Replicas of a port, one after the other, for as long as a client may wait for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::backend::{Backend, Flight};
use crate::core::Core;
use crate::routes::Route;

/// When all replicas have failed, the wait before they are tried again: first and longest. A
/// change of the table or of a unit ends it.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(250);

/// Which replica of a route is tried next, after these.
type Draw = fn(&Route, &[Arc<Backend>]) -> Option<Arc<Backend>>;

/// A search for a replica that can be reached.
pub(crate) struct Search<'a> {
    core: &'a Core,
    port: u16,
    draw: Draw,
    /// Those that failed in this round.
    tried: Vec<Arc<Backend>>,
    deadline: Instant,
    wait: Duration,
    changed: Option<watch::Receiver<()>>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(core: &'a Core, port: u16, draw: Draw) -> Self {
        Self {
            core,
            port,
            draw,
            tried: Vec::new(),
            deadline: Instant::now() + core.limits.ready_wait,
            wait: FIRST_RETRY,
            changed: None,
        }
    }

    /// This one could not be reached: the others are tried before it.
    pub(crate) fn failed(&mut self, backend: Arc<Backend>) {
        self.tried.push(backend);
    }

    /// The next replica to try, waiting for one within the bound.
    pub(crate) async fn next(&mut self) -> Option<Flight> {
        loop {
            if let Some(flight) = self.draw() {
                return Some(flight);
            }
            // Subscribed before it is looked once more, so that no change is missed.
            let Some(changed) = &mut self.changed else {
                self.changed = Some(self.core.changed.subscribe());
                continue;
            };
            let now = Instant::now();
            if now >= self.deadline {
                return None;
            }
            let mut until = self.deadline;
            if !self.tried.is_empty() {
                self.tried.clear();
                until = until.min(now + self.wait);
                self.wait = (self.wait * 2).min(LAST_RETRY);
            }
            let _ = tokio::time::timeout_at(until, changed.changed()).await;
        }
    }

    fn draw(&self) -> Option<Flight> {
        let routes = self.core.routes.load();
        let route: &Route = routes.ports.get(&self.port)?;
        // Between drawing and beginning a replica may begin to drain: then another is drawn.
        std::iter::from_fn(|| (self.draw)(route, &self.tried))
            .take(self.core.limits.attempts)
            .find_map(|backend| backend.begin().ok())
    }
}
