//! A unit that is to stand still, or to go on.

use std::time::Duration;

use weft_proto::v1::tunnel_frame::Frame;
use weft_types::Reason;

use super::exec::of_error;
use super::{Failed, Tunnel};

/// How long an engine may take.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(tunnel: &Tunnel, is_paused: bool) -> Result<(), Failed> {
    let (_, runtime) = tunnel.running()?;
    let set = tokio::time::timeout(TIMEOUT, runtime.set_paused(tunnel.unit, is_paused)).await;
    let silent = |_| {
        let detail = "the engine does not answer".to_owned();
        (Reason::RuntimeUnavailable, detail)
    };
    set.map_err(silent)?.map_err(of_error)?;
    // Not every engine tells.
    tunnel.shared.look();
    tunnel.send(Frame::Exit(0)).await
}
