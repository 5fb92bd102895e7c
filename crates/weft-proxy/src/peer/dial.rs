//! Reaching a replica of another node through its proxy.

use std::io;
use std::net::SocketAddr;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;
use weft_pki::{PEER_PROTOCOL, PeerTls, SERVER_NAME};
use weft_types::NodeId;

use super::{Hello, Reply};
use crate::core::Core;
use crate::wire;

/// A connection to a replica of another node, and what is cancelled when that node is no member
/// of the cluster any more.
pub(crate) type Dialled = (TlsStream<TcpStream>, CancellationToken);

/// Connects to the proxy of `node` at `address` and asks for a port of a unit there.
pub(crate) async fn dial(
    core: &Core,
    node: &NodeId,
    address: SocketAddr,
    hello: Hello,
) -> io::Result<Dialled> {
    let tls = core
        .tls
        .as_ref()
        .ok_or_else(|| io::Error::other("this node does not connect to others"))?;
    let member = core
        .members
        .admit(node)
        .ok_or_else(|| io::Error::other(format!("{node} is no member of the cluster")))?;
    let bound = core.limits.peer_connect;
    let stream =
        tokio::time::timeout(bound, shake_hands(tls, node, address, hello, bound)).await??;
    Ok((stream, member))
}

async fn shake_hands(
    tls: &PeerTls,
    node: &NodeId,
    address: SocketAddr,
    hello: Hello,
    bound: std::time::Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = wire::connect(address, bound).await?;
    wire::tune_node(&stream);
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(tls.dial_config())
        .connect(name, stream)
        .await?;
    let session = stream.get_ref().1;
    let answers = tls
        .node(session.peer_certificates())
        .map_err(io::Error::other)?;
    if answers != *node || session.alpn_protocol() != Some(PEER_PROTOCOL) {
        return Err(io::Error::other(format!(
            "at {address} answers {answers}, not the proxy of {node}"
        )));
    }
    stream.write_all(&hello.encode()).await?;
    stream.flush().await?;
    match Reply::decode(stream.read_u8().await?) {
        Reply::Ok => Ok(TlsStream::Client(stream)),
        refused => Err(io::Error::other(format!(
            "{node} says that the replica {}",
            refused.meaning()
        ))),
    }
}
