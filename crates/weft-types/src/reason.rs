//! Why something failed or waits: one enum everywhere, with its class, its evidence and the next
//! step.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who can do something about a failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The one who submitted the work.
    User,
    /// The node it ran on.
    Node,
    /// Weft itself.
    Platform,
    /// A rented provider.
    Provider,
    /// A budget or quota.
    Budget,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:literal, $class:ident, $retryable:literal, $sentence:literal;)*) => {
        /// A failure reason, the same everywhere: API, CLI, events, metrics.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $code,)*
        }

        impl Reason {
            /// Every reason, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word of the contract.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Who can do something about it.
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// Whether trying again without a change may help.
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }

            /// One sentence a person can understand.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }

            /// The stable number used in journals and on the wire; never 0.
            pub fn code(self) -> u8 {
                self as u8
            }

            /// The reason of a stable number.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }

        impl FromStr for Reason {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$name),)*
                    _ => Err(format!("{text:?} is not a failure reason")),
                }
            }
        }
    };
}

reasons! {
    /// The specification itself is wrong.
    InvalidSpec = "invalid-spec", 1, User, false, "the specification is not valid";
    /// No node is large enough, or enough of it free.
    InsufficientResources = "insufficient-resources", 2, Platform, true, "no node has enough free resources";
    /// Every candidate was refused by a filter.
    NoCandidate = "no-candidate", 3, Platform, true, "no node satisfies the requirements";
    /// The namespace's quota is used up.
    QuotaExceeded = "quota-exceeded", 4, Budget, false, "the quota is used up";
    /// The budget is used up.
    BudgetExceeded = "budget-exceeded", 5, Budget, false, "the budget is used up";
    /// The image does not exist or may not be read.
    ImageNotFound = "image-not-found", 6, User, false, "the image does not exist or may not be read";
    /// The image could not be pulled.
    ImagePullFailed = "image-pull-failed", 7, Provider, true, "the image could not be pulled";
    /// An artifact that was referred to is not there.
    ArtifactMissing = "artifact-missing", 8, User, false, "an artifact is not there";
    /// An artifact's bytes do not match its hash.
    ArtifactCorrupt = "artifact-corrupt", 9, Platform, true, "an artifact's bytes do not match its hash";
    /// The runtime reported an error.
    RuntimeError = "runtime-error", 10, Node, true, "the runtime reported an error";
    /// The runtime is not available on the node.
    RuntimeUnavailable = "runtime-unavailable", 11, Node, true, "the runtime is not available on the node";
    /// The program ended with an exit code other than 0.
    NonzeroExit = "nonzero-exit", 12, User, false, "the program ended with an exit code other than 0";
    /// The program used more memory than its limit.
    OomKilled = "oom-killed", 13, User, false, "the program used more memory than its limit";
    /// The time limit was reached.
    Timeout = "timeout", 14, User, false, "the time limit was reached";
    /// Somebody cancelled it.
    Cancelled = "cancelled", 15, User, false, "it was cancelled";
    /// The network failed.
    NetworkError = "network-error", 16, Platform, true, "the network failed";
    /// Disk is full or failing, or the disk limit was reached.
    StorageError = "storage-error", 17, Node, true, "disk is full or failing, or the disk limit was reached";
    /// The virtual machine did not boot.
    VmBootFailed = "vm-boot-failed", 18, User, true, "the virtual machine did not boot";
    /// The node went away while it ran.
    NodeLost = "node-lost", 19, Node, true, "the node went away while it ran";
    /// A provider reported an error.
    ProviderError = "provider-error", 20, Provider, true, "the provider reported an error";
    /// Not allowed.
    PermissionDenied = "permission-denied", 21, User, false, "this is not allowed";
    /// A defect of Weft.
    Internal = "internal", 22, Platform, true, "a defect of Weft itself";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure as a person or a program gets to see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Which of the reasons.
    pub reason: Reason,
    /// Who can do something about it.
    pub class: Class,
    /// What happened, in one sentence.
    pub detail: String,
    /// One suggested command or change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Failure {
    /// A failure with its detail; the class follows from the reason.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            class: reason.class(),
            detail: detail.into(),
            next: None,
        }
    }

    /// With the next step to suggest.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_unique_and_round_trip() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(
                serde_json::to_value(reason).ok(),
                Some(reason.as_str().into())
            );
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
