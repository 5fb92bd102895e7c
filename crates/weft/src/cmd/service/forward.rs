//! `weft port-forward`: ports inside a unit on this machine's loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use weft_client::Client;

use super::need_service;
use crate::args::{ForwardArgs, Global};
use crate::exit::Failed;
use crate::output::Output;

/// The most connections at once.
const MAX_CONNECTIONS: usize = 256;
const PIECE_BYTES: usize = 32 << 10;

/// Where connections lead.
struct Target {
    client: Client,
    service: String,
    unit: Option<u32>,
    port: u16,
}

/// Forwards ports until Ctrl-C.
pub async fn port_forward(
    client: &Client,
    args: &ForwardArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let service = need_service(client, &args.name, global).await?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut listeners = Vec::new();
    for text in &args.ports {
        let (local, remote) = ports(text)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local))
            .await
            .map_err(|error| Failed::usage(format!("127.0.0.1:{local}: {error}")))?;
        let address = listener
            .local_addr()
            .map_err(|error| Failed::internal(error.to_string()))?;
        let target = Target {
            client: client.clone(),
            service: service.id.clone(),
            unit: args.instance,
            port: remote,
        };
        listeners.push((listener, Arc::new(target)));
        output.line(&format!("{address} -> {}:{remote}", service.name))?;
    }
    for (listener, target) in listeners {
        tokio::spawn(accept(listener, target, Arc::clone(&room)));
    }
    output.note("Ctrl-C ends it");
    let _ = tokio::signal::ctrl_c().await;
    Ok(())
}

/// `8080:80`, or `80` for both.
fn ports(text: &str) -> Result<(u16, u16), Failed> {
    let malformed = || {
        Failed::usage(format!("{text:?} names no ports"))
            .with_next("write LOCAL:REMOTE, as in 8080:80")
    };
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    match (local.parse(), remote.parse()) {
        (Ok(local), Ok(remote)) if remote != 0 => Ok((local, remote)),
        _ => Err(malformed()),
    }
}

async fn accept(listener: TcpListener, target: Arc<Target>, room: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: others may end meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let target = Arc::clone(&target);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = pass(stream, &target).await {
                tracing::warn!(%error, "a forwarded connection ended");
            }
        });
    }
}

/// Each connection is opened anew, so that a replaced unit is followed.
async fn pass(stream: TcpStream, target: &Target) -> Result<(), weft_client::Error> {
    let opened = target
        .client
        .forward(&target.service, target.unit, target.port);
    let (mut to_port, mut from_port) = opened.await?;
    let (mut reader, mut writer) = stream.into_split();
    let there = async {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let read = reader.read(&mut buffer).await.unwrap_or(0);
            to_port.send(&buffer[..read]).await?;
            if read == 0 {
                return Ok(());
            }
        }
    };
    let back = async {
        while let Some(bytes) = from_port.next().await? {
            if bytes.is_empty() || writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
        Ok(())
    };
    tokio::pin!(there);
    tokio::pin!(back);
    // What comes back may go on after the client has said all.
    tokio::select! {
        ended = &mut back => ended,
        sent = &mut there => match sent {
            Ok(()) => back.await,
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_pair_or_one() {
        let ports = |text| ports(text).map_err(|failed| failed.code);
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        assert_eq!(ports("0:80"), Ok((0, 80)));
        assert_eq!(ports("80"), Ok((80, 80)));
        for bad in ["", "80:", ":80", "80:0", "70000", "a:b"] {
            assert_eq!(ports(bad), Err(crate::exit::USAGE), "{bad}");
        }
    }
}
