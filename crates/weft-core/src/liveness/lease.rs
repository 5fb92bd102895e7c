//! One node's lease.

use weft_types::NodeState;

use crate::{Epoch, Monotonic};

use super::Config;

/// What its heartbeats say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pulse {
    Live,
    Late,
    Lost,
}

/// What a person wants of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Open,
    Cordoned,
    Draining,
}

impl Mode {
    pub(super) fn from_flags(cordoned: bool, draining: bool) -> Self {
        match (draining, cordoned) {
            (true, _) => Self::Draining,
            (false, true) => Self::Cordoned,
            (false, false) => Self::Open,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) epoch: Epoch,
    pub(super) renewed: Monotonic,
    pub(super) pulse: Pulse,
    pub(super) mode: Mode,
    /// Whether the machine's heap has an entry for it.
    pub(super) watched: bool,
}

impl Lease {
    pub(super) fn new(now: Monotonic, epoch: Epoch) -> Self {
        Self {
            epoch,
            renewed: now,
            pulse: Pulse::Live,
            mode: Mode::Open,
            watched: false,
        }
    }

    pub(super) fn state(&self) -> NodeState {
        match (self.pulse, self.mode) {
            (Pulse::Lost, _) => NodeState::Offline,
            (Pulse::Late, _) => NodeState::Suspect,
            (Pulse::Live, Mode::Draining) => NodeState::Draining,
            (Pulse::Live, Mode::Cordoned) => NodeState::Cordoned,
            (Pulse::Live, Mode::Open) => NodeState::Healthy,
        }
    }

    /// When its state changes next if nothing is heard.
    pub(super) fn due(&self, config: Config) -> Option<Monotonic> {
        match self.pulse {
            Pulse::Live => Some(self.renewed.plus_ms(config.suspect_after_ms)),
            Pulse::Late => Some(self.renewed.plus_ms(config.ttl_ms)),
            Pulse::Lost => None,
        }
    }
}
