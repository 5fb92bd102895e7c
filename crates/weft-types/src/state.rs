//! The lifecycle words of the contract.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal, $code:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* $variant = $code,)*
        }

        impl $name {
            /// Every state, in the order of life.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word of the contract.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The stable number used in journals and on the wire.
            pub fn code(self) -> u8 {
                self as u8
            }

            /// The state of a stable number.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Where a task is in its life: `queued → assigned → running →
    /// completed | failed | cancelled | dead`.
    TaskState {
        /// Waits for a node.
        Queued = "queued", 0;
        /// Handed to a node, not started.
        Assigned = "assigned", 1;
        /// Runs on a node.
        Running = "running", 2;
        /// Ended well. Final.
        Completed = "completed", 3;
        /// Ended badly and is not tried again: its reason is not one to retry on. Final.
        Failed = "failed", 4;
        /// Was cancelled. Final.
        Cancelled = "cancelled", 5;
        /// Used up its attempts; waits among the dead letters to be requeued or dropped. Final.
        Dead = "dead", 6;
    }
}

impl TaskState {
    /// Whether nothing changes any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Dead
        )
    }
}

words! {
    /// Where a job is in its life, from the states of its tasks.
    JobState {
        /// No task has been handed out.
        Queued = "queued", 0;
        /// Some task has been handed out and not all are final.
        Running = "running", 1;
        /// Every task completed. Final.
        Succeeded = "succeeded", 2;
        /// Every task is final, and at least one failed or is dead. Final.
        Failed = "failed", 3;
        /// Was cancelled; every task is final. Final.
        Cancelled = "cancelled", 4;
    }
}

impl JobState {
    /// Whether nothing changes any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

words! {
    /// Where a service, or one unit of it, is in its life:
    /// `pending → placing → starting → running → succeeded | failed | stopped`.
    WorkloadState {
        /// Waits for the scheduler, or for its next try.
        Pending = "pending", 0;
        /// A node is looked for.
        Placing = "placing", 1;
        /// A node prepares and starts it.
        Starting = "starting", 2;
        /// It runs; a unit with a health check has passed it.
        Running = "running", 3;
        /// Ended well.
        Succeeded = "succeeded", 4;
        /// Ended badly, or does not pass its health check.
        Failed = "failed", 5;
        /// Somebody stopped it.
        Stopped = "stopped", 6;
        /// Its node cannot be heard.
        Unknown = "unknown", 7;
    }
}

words! {
    /// What the control plane believes of a node: `healthy → suspect → offline`.
    NodeState {
        /// Its heartbeats arrive.
        Healthy = "healthy", 0;
        /// A heartbeat is late; nothing new is placed there, nothing is moved yet.
        Suspect = "suspect", 1;
        /// Its lease ended; its tasks go elsewhere.
        Offline = "offline", 2;
        /// Somebody closed it for new work.
        Cordoned = "cordoned", 3;
        /// Somebody is moving its work away.
        Draining = "draining", 4;
    }
}

words! {
    /// How much life is left in a node's certificate.
    NodeValidity {
        /// Before half of its life.
        Fresh = "fresh", 0;
        /// Past half of its life: renewal is due and under way.
        RenewDue = "renew-due", 1;
        /// In its last quarter: renewal has been failing.
        ExpiringSoon = "expiring-soon", 2;
        /// Past its end: the node has to be approved again.
        Expired = "expired", 3;
    }
}
