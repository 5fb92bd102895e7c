//! The states of a job's tasks, eight bytes a task.

use weft_types::{Reason, TaskState};

/// Where a task is, as the machine sees it; finer than [`TaskState`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// Waits for a node.
    Queued = 0,
    /// Waits for its backoff to pass.
    Delayed = 1,
    /// Held by a node, not known to have started.
    Assigned = 2,
    /// Held by a node, started.
    Running = 3,
    /// Its outcome is being written to the journal.
    Recording = 4,
    /// Final.
    Completed = 5,
    /// Final.
    Failed = 6,
    /// Final.
    Cancelled = 7,
    /// Final.
    Dead = 8,
    /// Waits for other tasks of its job.
    Blocked = 9,
}

impl Phase {
    pub(super) const COUNT: usize = 10;
    const ALL: [Self; Self::COUNT] = [
        Self::Queued,
        Self::Delayed,
        Self::Assigned,
        Self::Running,
        Self::Recording,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Dead,
        Self::Blocked,
    ];

    pub(super) fn state(self) -> TaskState {
        match self {
            Self::Queued | Self::Delayed | Self::Blocked => TaskState::Queued,
            Self::Assigned => TaskState::Assigned,
            // What is not on disk has not ended.
            Self::Running | Self::Recording => TaskState::Running,
            Self::Completed => TaskState::Completed,
            Self::Failed => TaskState::Failed,
            Self::Cancelled => TaskState::Cancelled,
            Self::Dead => TaskState::Dead,
        }
    }

    /// The phase of a final state; `None` for the others.
    pub(super) fn of_final(state: TaskState) -> Option<Self> {
        match state {
            TaskState::Completed => Some(Self::Completed),
            TaskState::Failed => Some(Self::Failed),
            TaskState::Cancelled => Some(Self::Cancelled),
            TaskState::Dead => Some(Self::Dead),
            TaskState::Queued | TaskState::Assigned | TaskState::Running => None,
        }
    }

    /// Whether a node holds the task.
    pub(super) fn is_held(self) -> bool {
        matches!(self, Self::Assigned | Self::Running)
    }

    /// Whether the task waits, for a node, for time or for other tasks.
    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Queued | Self::Delayed | Self::Blocked)
    }
}

/// The greatest attempt of a task; one more makes it a dead letter.
pub(super) const MAX_ATTEMPT: u32 = (1 << 19) - 1;
const NO_NODE: u64 = (1 << 16) - 1;
/// The most node slots that a cell can name.
pub(super) const MAX_NODES: usize = NO_NODE as usize;

/// A field of a cell: where it begins and how many bits it has.
struct Field {
    shift: u32,
    bits: u32,
}

const PHASE: Field = Field { shift: 0, bits: 4 };
const SPENT: Field = Field { shift: 4, bits: 1 };
const REASON: Field = Field { shift: 5, bits: 5 };
const FAILURES: Field = Field {
    shift: 10,
    bits: 10,
};
const MOVES: Field = Field { shift: 20, bits: 6 };
const ATTEMPT: Field = Field {
    shift: 26,
    bits: 19,
};
const NODE: Field = Field {
    shift: 45,
    bits: 16,
};

/// One task: phase, attempt, failures, moves, node and reason in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cell(u64);

impl Default for Cell {
    /// Queued, never tried.
    fn default() -> Self {
        Self(NO_NODE << NODE.shift)
    }
}

impl Cell {
    fn get(self, field: Field) -> u64 {
        (self.0 >> field.shift) & ((1 << field.bits) - 1)
    }

    fn put(&mut self, field: Field, value: u64) {
        let mask = (1u64 << field.bits) - 1;
        let value = value.min(mask);
        self.0 = (self.0 & !(mask << field.shift)) | (value << field.shift);
    }

    pub(super) fn phase(self) -> Phase {
        Phase::ALL[self.get(PHASE) as usize]
    }

    /// Only [`super::job::Job::set_phase`] calls this: it keeps the counts.
    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.put(PHASE, phase as u64);
    }

    /// How often it was assigned.
    pub(super) fn attempt(self) -> u32 {
        self.get(ATTEMPT) as u32
    }

    pub(super) fn set_attempt(&mut self, attempt: u32) {
        self.put(ATTEMPT, u64::from(attempt));
    }

    /// How many attempts the retry policy has counted.
    pub(super) fn failures(self) -> u32 {
        self.get(FAILURES) as u32
    }

    pub(super) fn set_failures(&mut self, failures: u32) {
        self.put(FAILURES, u64::from(failures));
    }

    /// How often a node was lost under it.
    pub(super) fn moves(self) -> u32 {
        self.get(MOVES) as u32
    }

    pub(super) fn set_moves(&mut self, moves: u32) {
        self.put(MOVES, u64::from(moves));
    }

    /// Whether the last attempt was reported or given back: nobody may go on with it.
    pub(super) fn is_spent(self) -> bool {
        self.get(SPENT) == 1
    }

    pub(super) fn set_spent(&mut self, spent: bool) {
        self.put(SPENT, u64::from(spent));
    }

    /// Slot of the node that holds it, or held it last.
    pub(super) fn node(self) -> Option<u16> {
        let slot = self.get(NODE);
        (slot != NO_NODE).then_some(slot as u16)
    }

    pub(super) fn set_node(&mut self, slot: Option<u16>) {
        self.put(NODE, slot.map_or(NO_NODE, u64::from));
    }

    /// Why it ended, or will have ended once that is written.
    pub(super) fn reason(self) -> Option<Reason> {
        Reason::from_code(self.get(REASON) as u8)
    }

    pub(super) fn set_reason(&mut self, reason: Option<Reason>) {
        self.put(REASON, reason.map_or(0, |reason| u64::from(reason.code())));
    }
}

/// The tasks of one job.
#[derive(Default, Debug)]
pub(super) struct Table {
    cells: Vec<Cell>,
}

impl Table {
    pub(super) fn with_tasks(tasks: u32) -> Self {
        Self {
            cells: vec![Cell::default(); tasks as usize],
        }
    }

    pub(super) fn append(&mut self, tasks: u32) {
        self.cells
            .resize(self.cells.len() + tasks as usize, Cell::default());
    }

    pub(super) fn len(&self) -> u32 {
        self.cells.len() as u32
    }

    pub(super) fn get(&self, task: u32) -> Option<Cell> {
        self.cells.get(task as usize).copied()
    }

    pub(super) fn get_mut(&mut self, task: u32) -> Option<&mut Cell> {
        self.cells.get_mut(task as usize)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, Cell)> + '_ {
        self.cells
            .iter()
            .enumerate()
            .map(|(task, &cell)| (task as u32, cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_of_a_cell_do_not_disturb_each_other(
            attempt in 0..=MAX_ATTEMPT, failures in 0u32..1_000, moves in 0u32..64,
            node in proptest::option::of(0u16..u16::MAX), spent: bool,
            phase in 0..Phase::COUNT, reason in 0usize..Reason::ALL.len(),
        ) {
            let mut cell = Cell::default();
            cell.set_attempt(attempt);
            cell.set_failures(failures);
            cell.set_moves(moves);
            cell.set_node(node);
            cell.set_spent(spent);
            cell.set_phase(Phase::ALL[phase]);
            cell.set_reason(Some(Reason::ALL[reason]));
            prop_assert_eq!(
                (cell.attempt(), cell.failures(), cell.moves(), cell.node(), cell.is_spent()),
                (attempt, failures, moves, node, spent)
            );
            prop_assert_eq!(cell.phase(), Phase::ALL[phase]);
            prop_assert_eq!(cell.reason(), Some(Reason::ALL[reason]));
        }
    }

    #[test]
    fn a_task_takes_eight_bytes() {
        assert_eq!(size_of::<Cell>(), 8);
    }
}
