//! What goes wrong, with the reason that reaches the user.

use weft_types::Reason;

/// Which part of a unit's life failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Looking whether the machine can do it.
    Probe,
    /// Fetching images and sources, making volumes.
    Prepare,
    /// Making and starting the instance.
    Start,
    /// While it ran.
    Run,
    /// The health check.
    Health,
    /// Ending it.
    Stop,
    /// Clearing up.
    Remove,
}

impl Step {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Prepare => "prepare",
            Self::Start => "start",
            Self::Run => "run",
            Self::Health => "health",
            Self::Stop => "stop",
            Self::Remove => "remove",
        }
    }
}

/// A step that failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {detail}", step.as_str())]
pub struct Error {
    /// Which.
    pub step: Step,
    /// Why, as one of the reasons of the contract.
    pub reason: Reason,
    /// What the engine or the system said, in a sentence for people.
    pub detail: String,
    /// The last lines of a console or of the instance's output, when they explain it.
    pub evidence: Vec<String>,
}

impl Error {
    /// A step failed for a reason.
    pub fn new(step: Step, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            step,
            reason,
            detail: detail.into(),
            evidence: Vec::new(),
        }
    }

    /// The same, with what explains it.
    #[must_use]
    pub fn with_evidence(mut self, lines: Vec<String>) -> Self {
        self.evidence = lines;
        self
    }
}

/// Something the machine would need for a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why it is missing, as the system said.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}); {}", self.what, self.why, self.fix)
    }
}
