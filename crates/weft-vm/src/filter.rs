//! What machines in the user network may not reach. Their packets are those of a process of the
//! node: at its gateway's address a guest would find whatever listens on the node's loopback.
//!
//! Machines run as users of their own, so one rule for the range of them keeps them all away. It is
//! there before the first machine starts and goes after the last one. Name servers on loopback stay
//! reachable: the user network passes the guest's questions on to the node's.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use weft_unit::Missing;

use crate::Options;
use crate::qemu::in_path;
use crate::user::{FIRST, LAST, User};

/// How long the tool may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rules of one node, in the network namespace of this process.
#[derive(Debug)]
pub(crate) struct Filter {
    tool: Option<PathBuf>,
    table: String,
    /// Rules do not go while a machine starts.
    changing: Mutex<()>,
}

impl Filter {
    /// `options` name the node; agents with the same name keep their data apart.
    pub(crate) fn new(options: &Options) -> Self {
        let named = format!("{} {}", options.node, options.data_dir.display());
        let hash = hex::encode(digest(&SHA256, named.as_bytes()));
        Self {
            tool: in_path("nft"),
            table: format!("weft-vm-{}", &hash[..12]),
            changing: Mutex::default(),
        }
    }

    /// Why machines are not kept away, when that is known without trying.
    fn why_not(&self) -> Option<&'static str> {
        match &self.tool {
            None => Some("nft is not in PATH"),
            Some(_) if User::named("probe").is_none() => {
                Some("the agent is not root, and machines have no users of their own")
            }
            Some(_) => None,
        }
    }

    /// What people are told when machines are not kept away.
    pub(crate) async fn missing(&self) -> Option<Missing> {
        let why = match self.why_not() {
            Some(why) => why.to_owned(),
            // Tried under another name; the rules that are there stay.
            None => self
                .run(&rules(&format!("{}-try", self.table), true))
                .await
                .err()?,
        };
        Some(Missing {
            what: "a loopback that machines cannot reach".to_owned(),
            why,
            fix: "install nftables and run the agent as root; until then machines in the user \
                  network reach what listens on the node's loopback"
                .to_owned(),
        })
    }

    /// Makes the rules, which may be there already. Where that is not possible machines run
    /// without, and the probe has said so.
    pub(crate) async fn ensure(&self) {
        let _alone = self.changing.lock().await;
        if self.why_not().is_none()
            && let Err(error) = self.run(&rules(&self.table, false)).await
        {
            tracing::warn!(%error, "machines reach the node's loopback");
        }
    }

    /// Takes the rules away if `is_last` says, once nothing starts, that there are no machines.
    pub(crate) async fn remove_if(&self, is_last: impl FnOnce() -> bool) {
        let _alone = self.changing.lock().await;
        if is_last() && self.why_not().is_none() {
            let none = format!("table inet {0} {{}}\ndelete table inet {0}\n", self.table);
            // What is left is there for nobody.
            let _ = self.run(&none).await;
        }
    }

    async fn run(&self, rules: &str) -> Result<(), String> {
        let tool = self.tool.as_ref().ok_or("nft is not in PATH")?;
        let said = |e: std::io::Error| format!("{}: {e}", tool.display());
        let mut child = Command::new(tool)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(said)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has ended says why itself.
            let _ = stdin.write_all(rules.as_bytes()).await;
        }
        let late = |_| format!("{} takes longer than {PATIENCE:?}", tool.display());
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.map_err(late)?.map_err(said)?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("no message");
        Err(format!("{}: {first}", tool.display()))
    }
}

/// The rules; with `is_trial` gone again at once. Whoever opens a connection sends SYN alone, who
/// answers at a published port does not.
fn rules(table: &str, is_trial: bool) -> String {
    let end = if is_trial {
        format!("delete table inet {table}\n")
    } else {
        String::new()
    };
    format!(
        "table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n\
         chain out {{ type filter hook output priority 0; policy accept;\n\
         meta skuid {FIRST}-{LAST} ip daddr 127.0.0.0/8 jump loopback\n\
         meta skuid {FIRST}-{LAST} ip6 daddr ::1 jump loopback\n}}\n\
         chain loopback {{\n\
         tcp flags & (syn | ack) == syn tcp dport != 53 reject with tcp reset\n\
         meta l4proto udp udp dport != 53 reject\n}}\n}}\n{end}"
    )
}
