//! A connection to a port inside a unit.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use weft_proto::v1;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::Reason;
use weft_unit::publish_address;

use super::{Failed, OPEN_TIMEOUT, PIECE_BYTES, Tunnel, ended, gone};

pub(super) async fn run(
    tunnel: &Tunnel,
    port: u32,
    incoming: &mut Streaming<v1::TunnelFrame>,
) -> Result<(), Failed> {
    let stream = dial(tunnel, port).await?;
    let (read, write) = stream.into_split();
    let is_over = CancellationToken::new();
    let inward = inward(incoming, write, &is_over);
    let outward = outward(tunnel, read, &is_over);
    tokio::try_join!(inward, outward).map(|_| ())
}

async fn dial(tunnel: &Tunnel, port: u32) -> Result<TcpStream, Failed> {
    let (view, _) = tunnel.running()?;
    let target = u16::try_from(port).ok();
    let observed = view.observed.as_ref();
    let address = observed.and_then(|observed| publish_address(observed, target?));
    let address = address.ok_or_else(|| {
        let detail = format!("port {port} of {} has no address on its node", tunnel.unit);
        (Reason::NetworkError, detail)
    })?;
    let failed = |why: &dyn std::fmt::Display| {
        let detail = format!("port {port} of {}: {why}", tunnel.unit);
        (Reason::NetworkError, detail)
    };
    match tokio::time::timeout(OPEN_TIMEOUT, TcpStream::connect(address)).await {
        Ok(stream) => stream.map_err(|error| failed(&error)),
        Err(_) => Err(failed(&"no connection within 10 s")),
    }
}

/// An empty piece ends this direction.
async fn inward(
    incoming: &mut Streaming<v1::TunnelFrame>,
    mut write: OwnedWriteHalf,
    is_over: &CancellationToken,
) -> Result<(), Failed> {
    loop {
        let message = incoming.message().await.map_err(|_| gone())?;
        match message.ok_or_else(gone)?.frame {
            Some(Frame::Data(bytes)) if bytes.is_empty() => break,
            Some(Frame::Data(bytes)) => write.write_all(&bytes).await.map_err(of_io)?,
            _ => {}
        }
    }
    // A peer that has closed already needs no end.
    let _ = write.shutdown().await;
    tokio::select! {
        () = is_over.cancelled() => Ok(()),
        // Noticed also while the unit sends nothing.
        () = ended(incoming) => Err(gone()),
    }
}

async fn outward(
    tunnel: &Tunnel,
    mut read: OwnedReadHalf,
    is_over: &CancellationToken,
) -> Result<(), Failed> {
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    while read.read_buf(&mut buffer).await.map_err(of_io)? > 0 {
        tunnel.pieces(buffer.split().freeze(), Frame::Data).await?;
        buffer.reserve(PIECE_BYTES);
    }
    tunnel.send(Frame::Data(Bytes::new())).await?;
    is_over.cancel();
    Ok(())
}

fn of_io(error: std::io::Error) -> Failed {
    (Reason::NetworkError, error.to_string())
}
