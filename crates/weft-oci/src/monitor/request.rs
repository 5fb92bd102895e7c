//! What the agent asks of a monitor, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_types::Reason;

use crate::Error;
use crate::network::Attachment;
use crate::record::UnitDir;

/// The largest request, in bytes.
pub(crate) const MAX_REQUEST_BYTES: u64 = 8 << 20;
/// The largest answer, in bytes.
pub(crate) const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// A container to run and watch. It comes through a pipe, as it carries secrets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) unit: UnitDir,
    /// Name of the container for the OCI runtime.
    pub(crate) id: String,
    pub(crate) layers_dir: PathBuf,
    /// Names of the layers' directories, the lowest first.
    pub(crate) layers: Vec<String>,
    /// Whether layers are mounted; copied otherwise.
    pub(crate) has_overlay: bool,
    pub(crate) runtime: RuntimeCommand,
    pub(crate) config: Value,
    /// `user`, `uid` or `uid:gid`; root when empty.
    pub(crate) user: String,
    /// Files for `/etc`: name and content.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) network: MonitorNetwork,
    pub(crate) cgroup: String,
    /// Where the monitor itself goes.
    pub(crate) monitors_cgroup: String,
}

/// How an OCI runtime is called.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RuntimeCommand {
    pub(crate) program: PathBuf,
    /// Before the name of the command.
    pub(crate) options: Vec<String>,
    /// Whether the container's first process is not a process of this machine.
    pub(crate) is_sandbox: bool,
}

/// Which network namespace a container gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum MonitorNetwork {
    /// That of the agent.
    Host,
    /// One of its own, with nothing in it but loopback.
    Loopback,
    /// One of its own, behind the bridge.
    Bridge(Attachment),
}

/// How a start went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The container runs.
    Running,
    /// Another monitor is at it, or the unit is being removed.
    Busy,
    /// It does not run, and nothing is left of the attempt.
    Failed {
        reason: Reason,
        detail: String,
        evidence: Vec<String>,
    },
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        let reason = error.reason();
        let detail = error.to_string();
        let evidence = match error {
            Error::Runtime { evidence, .. } => evidence,
            _ => Vec::new(),
        };
        Self::Failed {
            reason,
            detail,
            evidence,
        }
    }
}
