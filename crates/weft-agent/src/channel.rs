//! Connections to a server: gRPC over TLS 1.3 under the cluster's CA.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use weft_pki::{ClientTls, SERVER_NAME, explain_tls_error};
use weft_proto::MAX_MESSAGE_BYTES;
use weft_proto::v1::agent_client::AgentClient;

use crate::Error;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is probed, and how long the answer may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control windows, in bytes: a batch of tasks or a piece of an artifact fits.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A client of the agents' service.
pub(crate) type Client = AgentClient<Channel>;

/// Connects to the first address that answers.
pub(crate) async fn connect(addresses: &[String], tls: &ClientTls) -> Result<Client, Error> {
    let mut detail = "no address is known".to_owned();
    for address in addresses {
        match connect_one(address, tls).await {
            Ok(channel) => {
                return Ok(AgentClient::new(channel)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES));
            }
            Err(cause) => detail = cause,
        }
    }
    Err(Error::Unreachable {
        addresses: addresses.join(", "),
        detail,
    })
}

async fn connect_one(address: &str, tls: &ClientTls) -> Result<Channel, String> {
    let uri: Uri = format!("https://{address}")
        .parse()
        .map_err(|error| format!("{address:?}: {error}"))?;
    let connector = TlsConnector::from(tls.config());
    let address = address.to_owned();
    let dial = service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            // Whatever address was dialled, the certificate must be that of a server of the cluster.
            let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    endpoint
        .connect_with_connector(dial)
        .await
        .map_err(|error| {
            explain_tls_error(&error).unwrap_or_else(|| {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                cause.to_string()
            })
        })
}
