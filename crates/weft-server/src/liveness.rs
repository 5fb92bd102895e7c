//! The shell of the liveness machine: heartbeats in, lost leases out.
//!
//! The machine sits behind a lock that is held for microseconds, and its ticks come from a thread
//! of its own: neither a loaded runtime nor a long queue of results delays a heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use weft_core::liveness::{Cause, Config, Input, Machine, Output};
use weft_core::{Epoch, Monotonic};
use weft_types::{NodeId, NodeState};

use crate::clock::Clock;

/// The longest the ticking thread sleeps, so that it notices the end of the server.
const MAX_SLEEP: Duration = Duration::from_millis(250);

/// Who is told when a node's state changes or its lease ends. Called under the lock: must not block.
pub trait Listener: Send + Sync + 'static {
    /// A node's state is another now.
    fn state_changed(&self, node: &NodeId, from: Option<NodeState>, to: NodeState, cause: Cause);
    /// A node may not act any more.
    fn lease_lost(&self, node: &NodeId, epoch: Epoch);
}

/// Whether a heartbeat counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    /// It renewed the lease.
    Renewed,
    /// It came under a stale epoch: its session should end.
    Fenced,
}

/// The leases of all nodes.
#[derive(Clone)]
pub struct Liveness {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Mutex<Machine>,
    listener: Arc<dyn Listener>,
    clock: Clock,
    stopped: AtomicBool,
}

impl Liveness {
    /// Starts with leases of this length; every epoch will be greater than `epoch_base`.
    pub fn start(
        lease_ttl: Duration,
        epoch_base: Epoch,
        clock: Clock,
        listener: Arc<dyn Listener>,
    ) -> std::io::Result<Self> {
        let ttl_ms = u64::try_from(lease_ttl.as_millis())
            .unwrap_or(u64::MAX)
            .max(100);
        let machine = Mutex::new(Machine::new(Config::with_ttl_ms(ttl_ms), epoch_base));
        let shared = Arc::new(Shared {
            machine,
            listener,
            clock,
            stopped: AtomicBool::new(false),
        });
        let ticking = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("weft-liveness".to_owned())
            .spawn(move || ticking.tick())?;
        Ok(Self { shared })
    }

    /// The times the leases are made with.
    pub fn config(&self) -> Config {
        self.shared.machine.lock().config()
    }

    /// A node opened a session: gives it a lease and a fresh epoch.
    pub fn register(&self, node: &NodeId) -> Epoch {
        let mut out = Vec::new();
        let mut machine = self.shared.machine.lock();
        let epoch = machine.register(self.shared.now(), node, &mut out);
        self.shared.tell(out);
        epoch
    }

    /// Renews a node's lease.
    pub fn heartbeat(&self, node: &NodeId, epoch: Epoch) -> Beat {
        let out = self.step(Input::Heartbeat {
            node: node.clone(),
            epoch,
        });
        if out
            .iter()
            .any(|output| matches!(output, Output::Fenced { .. }))
        {
            Beat::Fenced
        } else {
            Beat::Renewed
        }
    }

    /// Feeds any other input.
    pub fn step(&self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        let mut machine = self.shared.machine.lock();
        machine.step(self.shared.now(), input, &mut out);
        self.shared.tell(out.clone());
        out
    }

    /// A node's state; `None` when it is unknown.
    pub fn state(&self, node: &NodeId) -> Option<NodeState> {
        self.shared.machine.lock().state(node)
    }

    /// A node's current epoch; `None` when it is unknown.
    pub fn epoch(&self, node: &NodeId) -> Option<Epoch> {
        self.shared.machine.lock().epoch(node)
    }

    /// Ends the ticking thread.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn now(&self) -> Monotonic {
        Monotonic(self.clock.steady().as_millis())
    }

    fn tell(&self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::StateChanged {
                    node,
                    from,
                    to,
                    cause,
                } => self.listener.state_changed(&node, from, to, cause),
                Output::LeaseLost { node, epoch } => self.listener.lease_lost(&node, epoch),
                Output::Fenced { .. } => {}
            }
        }
    }

    fn tick(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let sleep = {
                let now = self.now();
                let next = self.machine.lock().next_tick(now);
                next.map_or(MAX_SLEEP, |at| {
                    Duration::from_millis(at.since_ms(now)).min(MAX_SLEEP)
                })
            };
            std::thread::sleep(sleep.max(Duration::from_millis(1)));
            let mut out = Vec::new();
            let mut machine = self.machine.lock();
            machine.step(self.now(), Input::Tick, &mut out);
            self.tell(out);
        }
    }
}
