//! Bugs to plant, in the machines and in the server's shell.

use std::cell::Cell;

use weft_core::planted as machines;

/// A defect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// One in the machines.
    Machine(machines::Bug),
    /// A submit is acknowledged before it is on disk.
    AcknowledgedBeforeDisk,
    /// A result is shown before it is on disk.
    VisibleBeforeDisk,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Every bug.
pub fn all() -> Vec<Bug> {
    let machines = machines::Bug::ALL.iter().map(|&bug| Bug::Machine(bug));
    machines
        .chain([Bug::AcknowledgedBeforeDisk, Bug::VisibleBeforeDisk])
        .collect()
}

/// Switches one bug on in this thread, and every other off.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
    machines::plant(match bug {
        Some(Bug::Machine(bug)) => Some(bug),
        _ => None,
    });
}

/// Whether a bug of the shell is switched on.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
