//! Heartbeats, from a thread of their own: a loaded runtime does not delay them.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;

use crate::executor::Executor;
use crate::lease;
use crate::machine::{self, CpuMeter};

/// A thread that sends heartbeats until this is dropped.
pub(crate) struct Heartbeats {
    _stop: SyncSender<()>,
}

impl Heartbeats {
    /// Starts sending.
    pub(crate) fn start(
        period: Duration,
        epoch: u64,
        executor: Executor,
        data_dir: PathBuf,
        out: Sender<v1::AgentMessage>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let mut meter = CpuMeter::default();
        std::thread::Builder::new()
            .name("weft-heartbeat".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                    let (running, held) = executor.load();
                    let beat = v1::Heartbeat {
                        epoch,
                        running,
                        held,
                        used_cpu_millicores: meter.used_millicores(),
                        used_memory_bytes: machine::used_memory_bytes(),
                        free_disk_bytes: machine::free_disk_bytes(&data_dir),
                        sent_ms: lease::now_ms(),
                    };
                    // A full channel means that the connection stands still: the next one will do.
                    if out
                        .try_send(v1::AgentMessage {
                            message: Some(Message::Heartbeat(beat)),
                        })
                        .is_err()
                        && out.is_closed()
                    {
                        return;
                    }
                }
            })?;
        Ok(Self { _stop: stop })
    }
}
