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
    /// A scheduler that leads no more goes on writing.
    TermNotCompared,
    /// A node that registers is told its assignments out of a cache.
    WelcomeFromCache,
    /// A status is written though the unit was forgotten meanwhile.
    StatusOutlivesUnit,
    /// A node whose lease has ended goes on with what is exclusive.
    LeaseNotKept,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Every bug of the declarative path.
pub fn services() -> Vec<Bug> {
    let machines = machines::Bug::SERVICES.iter();
    let shell = [
        Bug::TermNotCompared,
        Bug::WelcomeFromCache,
        Bug::StatusOutlivesUnit,
        Bug::LeaseNotKept,
    ];
    machines
        .map(|&bug| Bug::Machine(bug))
        .chain(shell)
        .collect()
}

/// Every bug of the dispatch path.
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
