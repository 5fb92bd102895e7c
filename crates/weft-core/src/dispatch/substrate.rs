//! Classes of nodes that fail together: those of one provider, or one's own.
//!
//! A provider whose images or network are broken fails on every node it rents out, and new nodes
//! of it come without a history. So beside the breaker of each node there is one for each
//! *substrate*, fed by the same evidence with a higher threshold: any success on any of its nodes
//! starts the count again, and since a node that fails everything is soon closed by its own
//! breaker, one bad node alone does not open that of its substrate. Half-open, the substrate gets
//! one task, on whichever of its nodes is best.

use weft_placement::{Availability, ClosedReason};
use weft_types::Reason;

use crate::Monotonic;
use crate::breaker::{self, Breaker};

use super::Machine;
use super::node::candidate;
use super::timers::Timer;
use super::vocabulary::{Outcome, Output};

/// The substrate of nodes that are not rented.
const OWN: &str = "own";

/// One class of nodes.
#[derive(Debug)]
struct Substrate {
    name: Box<str>,
    breaker: Breaker,
    /// Slot of the node that got the probe.
    probe: Option<u16>,
}

/// All of them, by number; there are as many as there are providers.
#[derive(Default, Debug)]
pub(super) struct Substrates {
    all: Vec<Substrate>,
}

impl Substrates {
    /// The number of the substrate of a provider's nodes, made when it is new.
    pub(super) fn intern(&mut self, provider: &str, config: breaker::Config) -> u16 {
        let name = if provider.is_empty() { OWN } else { provider };
        let known = self.all.iter().position(|known| *known.name == *name);
        let number = known.unwrap_or_else(|| {
            self.all.push(Substrate {
                name: name.into(),
                breaker: Breaker::new(config),
                probe: None,
            });
            self.all.len() - 1
        });
        number as u16
    }

    /// Whether nodes of it get work.
    pub(super) fn state(&self, number: u16) -> breaker::State {
        let found = self.all.get(usize::from(number));
        found.map_or(breaker::State::Closed, |found| found.breaker.state())
    }

    pub(super) fn name(&self, number: u16) -> &str {
        self.all
            .get(usize::from(number))
            .map_or(OWN, |found| &found.name)
    }
}

impl Machine {
    /// Whether a node takes work: by itself, by its breaker and by that of its substrate.
    pub(super) fn effective(&self, slot: u16) -> Availability {
        let Some(node) = self.nodes.get(slot) else {
            return Availability::Closed(ClosedReason::Offline);
        };
        let own = node.effective();
        let closed = match self.substrates.state(node.substrate) {
            _ if planted!(SubstrateIgnored) => false,
            breaker::State::Closed => false,
            breaker::State::Open => true,
            breaker::State::HalfOpen => self.probe_is_out(node.substrate),
        };
        match own {
            Availability::Open if closed => Availability::Closed(ClosedReason::SubstrateOpen),
            own => own,
        }
    }

    fn probe_is_out(&self, number: u16) -> bool {
        let substrate = self.substrates.all.get(usize::from(number));
        let probe = substrate.and_then(|substrate| substrate.probe);
        let node = probe.and_then(|slot| self.nodes.get(slot));
        node.is_some_and(|node| node.held > 0)
    }

    /// Whether a node and its substrate take work without reserve.
    pub(super) fn is_sound(&self, slot: u16) -> bool {
        self.nodes.get(slot).is_some_and(|node| {
            node.breaker.state() == breaker::State::Closed
                && self.substrates.state(node.substrate) == breaker::State::Closed
        })
    }

    /// A node was given work: it may be the probe of its substrate.
    pub(super) fn note_probe(&mut self, slot: u16) {
        let Some(number) = self.nodes.get(slot).map(|node| node.substrate) else {
            return;
        };
        if let Some(substrate) = self.substrates.all.get_mut(usize::from(number))
            && substrate.breaker.state() == breaker::State::HalfOpen
        {
            substrate.probe = Some(slot);
            self.sync_substrate(number);
        }
    }

    /// A node reported an attempt: evidence for or against its substrate. `works` when the job has
    /// completed a task anywhere, so that it is not the job that is bad.
    pub(super) fn judge_substrate(
        &mut self,
        now: Monotonic,
        slot: u16,
        outcome: Outcome,
        job: u64,
        works: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(number) = self.nodes.get(slot).map(|node| node.substrate) else {
            return;
        };
        let Some(substrate) = self.substrates.all.get_mut(usize::from(number)) else {
            return;
        };
        let changed = match outcome {
            Outcome::Completed => substrate.breaker.succeeded(),
            // A node that is full says nothing about the others.
            Outcome::Failed(Reason::InsufficientResources) => false,
            Outcome::Failed(reason) => substrate.breaker.failed(now, reason, job, works),
        };
        if substrate.breaker.state() != breaker::State::Closed || changed {
            // Whatever came back, a probe that proved nothing is followed by another.
            substrate.probe = None;
            self.substrate_changed(number, changed, out);
        }
    }

    /// The time of an open substrate's breaker is up.
    pub(super) fn on_substrate_due(&mut self, now: Monotonic, number: u16, out: &mut Vec<Output>) {
        if let Some(substrate) = self.substrates.all.get_mut(usize::from(number)) {
            let changed = substrate.breaker.tick(now);
            substrate.probe = None;
            self.substrate_changed(number, changed, out);
        }
    }

    fn substrate_changed(&mut self, number: u16, changed: bool, out: &mut Vec<Output>) {
        if let Some(substrate) = self.substrates.all.get(usize::from(number))
            && changed
        {
            if let Some(until) = substrate.breaker.until() {
                let timer = Timer::Substrate { substrate: number };
                self.timers.set(until, timer);
            }
            out.push(Output::SubstrateBreaker {
                substrate: substrate.name.clone(),
                state: substrate.breaker.state(),
            });
        }
        self.sync_substrate(number);
    }

    /// What a node holds has changed: while its substrate is on probation, all its nodes may open
    /// or close for that.
    pub(super) fn sync_probe(&mut self, slot: u16) {
        if let Some(number) = self.nodes.get(slot).map(|node| node.substrate)
            && self.substrates.state(number) != breaker::State::Closed
        {
            self.sync_substrate(number);
        }
    }

    fn sync_substrate(&mut self, number: u16) {
        for slot in 0..self.nodes.len() {
            let belongs = |node: &super::node::Node| node.substrate == number && !node.removed;
            if self.nodes.get(slot).is_some_and(belongs) {
                self.sync_availability(slot);
            }
        }
    }

    /// Tells the index whether a node takes work.
    pub(super) fn sync_availability(&mut self, slot: u16) {
        let availability = self.effective(slot);
        self.index.set_availability(candidate(slot), availability);
    }
}
