//! What must hold after every step.

use super::{Action, Lease, Machine, State, Then};

impl Machine {
    pub(super) fn check(&self) {
        debug_assert!(
            !self.status.ready || self.is_running(),
            "ready without an instance: {self:?}"
        );
        debug_assert!(
            !self.status.ready || self.order.run,
            "ready and to end: {self:?}"
        );
        debug_assert_eq!(self.status.gone, self.state == State::Gone);
        debug_assert!(!self.status.kept || self.status.gone, "{self:?}");
        debug_assert!(
            !self.status.given_up || self.is_at_its_end(),
            "given up and going on: {self:?}"
        );
        debug_assert!(
            self.failures <= self.max_failures(),
            "too many tries: {self:?}"
        );
        debug_assert_eq!(self.call.is_some(), self.has_its_call(), "{self:?}");
        debug_assert!(
            !self.may_run_without_lease(),
            "exclusive, without a lease: {self:?}"
        );
        debug_assert!(
            self.status.next_try_ms.is_none() || matches!(self.state, State::Resting { .. }),
            "a next try that is none: {self:?}"
        );
    }

    fn is_at_its_end(&self) -> bool {
        match &self.state {
            State::Resting { then, .. } => matches!(then, Then::Stop(_) | Then::Remove),
            State::Draining | State::Stopping(_) | State::Removing => true,
            State::New | State::Over | State::Gone => true,
            _ => false,
        }
    }

    /// Whether the call under way is one of the state; states that wait for a call have one.
    fn has_its_call(&self) -> bool {
        let action = self.call.as_ref().map(|(_, action)| action);
        match (&self.state, action) {
            (State::Looking | State::Running(_), Some(Action::Observe)) => true,
            (State::Admitting { .. }, Some(Action::Admit)) => true,
            (State::Preparing, Some(Action::Prepare)) => true,
            (State::Starting, Some(Action::Start)) => true,
            (State::Draining, Some(Action::Drain)) => true,
            (State::Stopping(_), Some(Action::Stop { .. })) => true,
            (State::Removing, Some(Action::Remove { .. })) => true,
            (State::Running(_), None) => false,
            (
                State::New | State::Over | State::Gone | State::Leaseless | State::Resting { .. },
                None,
            ) => false,
            (_, action) => {
                debug_assert!(false, "{action:?} in {:?}", self.state);
                false
            }
        }
    }

    fn may_run_without_lease(&self) -> bool {
        let may_run = match &self.state {
            State::Looking | State::Admitting { .. } | State::Preparing | State::Starting => true,
            State::Running(_) | State::Draining => true,
            State::Resting { then, .. } => matches!(then, Then::Look | Then::Begin),
            _ => false,
        };
        may_run && self.settings.exclusive && self.lease != Lease::Held
    }
}
