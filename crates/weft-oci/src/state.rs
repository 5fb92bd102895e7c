//! How a unit is, from its records.

use weft_types::Reason;
use weft_unit::Phase;

use crate::Error;
use crate::files::now_ms;
use crate::record::{Exit, UnitDir};

/// How a unit is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Absent,
    /// It has a record, and a monitor may be starting it.
    Created,
    Running {
        since_ms: u64,
    },
    Exited(Exit),
    /// It ran, and its monitor was killed: what is left of it has to be cleared away.
    Abandoned,
}

impl State {
    pub(crate) fn of(unit: &UnitDir) -> Result<Self, Error> {
        if unit.record()?.is_none() {
            return Ok(Self::Absent);
        }
        // The monitor goes after it has written how it ended: this order misses nothing.
        let is_watched = unit.monitor()?.is_some();
        if let Some(exit) = unit.exit()? {
            return Ok(Self::Exited(exit));
        }
        Ok(match (unit.started()?, is_watched) {
            (Some(started), true) => Self::Running {
                since_ms: started.since_ms,
            },
            (Some(_), false) => Self::Abandoned,
            (None, _) => Self::Created,
        })
    }

    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Absent => Phase::Absent,
            Self::Created => Phase::Created,
            Self::Running { since_ms } => Phase::Running { since_ms },
            Self::Exited(exit) => exited(exit),
            Self::Abandoned => exited(abandoned()),
        }
    }
}

fn exited(exit: Exit) -> Phase {
    Phase::Exited {
        exit_code: exit.exit_code,
        signal: exit.signal,
        reason: exit.reason,
        detail: exit.detail,
        at_ms: exit.at_ms,
    }
}

/// How a container ended whose monitor did not see it.
pub(crate) fn abandoned() -> Exit {
    Exit {
        exit_code: None,
        signal: Some(libc::SIGKILL),
        reason: Some(Reason::RuntimeError),
        detail: "its monitor was killed or the machine was started anew; \
                 how it ended is not known"
            .into(),
        at_ms: now_ms(),
    }
}

/// Whether more may be printed.
pub(crate) fn is_alive(unit: &UnitDir) -> Result<bool, Error> {
    let state = State::of(unit)?;
    let is_starting = state == State::Created && unit.monitor()?.is_some();
    Ok(is_starting || matches!(state, State::Running { .. }))
}
