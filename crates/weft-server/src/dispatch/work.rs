//! What the dispatcher sends to sessions.

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_core::dispatch::{TaskRef, TaskRun};
use weft_types::{JobId, Reason};

/// The most messages that wait for one session; a node so far behind is cut off and comes back.
pub const MAX_WAITING_WORK: usize = 4_096;

/// Something for a node, still without payloads: the session adds them, so that reading and
/// encoding happens beside the dispatcher.
#[derive(Debug, Clone)]
pub enum Work {
    /// Answer to the node's greeting: what it must stop and forget.
    Attached {
        /// Attempts that are stale.
        stop: Vec<TaskRef>,
    },
    /// Run these; each with the encoded `JobSpec` of its job.
    Assign(Vec<(TaskRun, Bytes)>),
    /// Stop these.
    Stop {
        /// Which.
        tasks: Vec<TaskRef>,
        /// Why.
        reason: Reason,
    },
    /// Give these back if they have not started.
    Recall(Vec<TaskRef>),
    /// Forget these: their results are on disk.
    Ack(Vec<TaskRef>),
    /// Send what this task prints, from these offsets on.
    Follow {
        /// Its job.
        job: JobId,
        /// Its number.
        task: u32,
        /// Bytes of standard output that are known.
        stdout_offset: u64,
        /// Bytes of standard error that are known.
        stderr_offset: u64,
    },
    /// The session ends on purpose.
    End(SessionEnd),
}

/// Why the server ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The node was removed.
    Removed,
    /// The same node opened another session.
    Replaced,
    /// The lease ended: what the node does is stale.
    LeaseLost,
    /// The server stops.
    Shutdown,
}

impl SessionEnd {
    /// The word on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::LeaseLost => "lease-lost",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The way to a node's session.
pub type Outbound = mpsc::Sender<Work>;
