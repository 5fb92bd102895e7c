//! Commands inside units and forwarded ports: WebSockets over the same identity as every call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use weft_api::{ExecEnd, Problem, TerminalSize, exec_channel};
use weft_types::Reason;

use crate::workloads::escaped;
use crate::{Client, Error};

/// How long a connection may take to be opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// A stream below a WebSocket: TLS, or plain on loopback.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

type Socket = WebSocketStream<Box<dyn Transport>>;

/// What to run inside a unit.
#[derive(Clone, Debug, Default)]
pub struct ExecCommand {
    /// Which unit; any that runs when absent.
    pub unit: Option<u32>,
    /// Which service of a Compose application; the first when absent.
    pub part: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal of this size.
    pub tty: Option<TerminalSize>,
}

/// What comes from a command inside a unit.
#[derive(Debug)]
pub enum ExecEvent {
    /// Printed to its standard output, or to the terminal.
    Stdout(Bytes),
    /// Printed to its standard error.
    Stderr(Bytes),
    /// It ended.
    End(ExecEnd),
}

/// The way to a command inside a unit.
pub struct ExecInput {
    sink: SplitSink<Socket, Message>,
    server: String,
}

/// The way from a command inside a unit.
pub struct ExecOutput {
    stream: SplitStream<Socket>,
    server: String,
}

/// A connection to a port inside a unit, towards it.
pub struct PortInput {
    sink: SplitSink<Socket, Message>,
    server: String,
}

/// A connection to a port inside a unit, from it.
pub struct PortOutput {
    stream: SplitStream<Socket>,
    server: String,
}

impl Client {
    /// Runs a command inside a unit of a service.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn exec(
        &self,
        id: &str,
        wanted: &ExecCommand,
    ) -> Result<(ExecInput, ExecOutput), Error> {
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(wanted.unit.map(|unit| ("unit", unit.to_string())));
        query.extend(wanted.part.iter().map(|part| ("part", part.clone())));
        query.extend(wanted.command.iter().map(|arg| ("command", arg.clone())));
        if let Some(size) = wanted.tty {
            query.push(("tty", "true".to_owned()));
            query.push(("columns", size.width.to_string()));
            query.push(("rows", size.height.to_string()));
        }
        let path = format!("/v1/workloads/{}/exec", escaped(id));
        let (sink, stream) = self.socket(&path, &query).await?.split();
        let server = self.server().to_owned();
        let input = ExecInput {
            sink,
            server: server.clone(),
        };
        Ok((input, ExecOutput { stream, server }))
    }

    /// Opens a connection to a port inside a unit of a service.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn forward(
        &self,
        id: &str,
        unit: Option<u32>,
        port: u16,
    ) -> Result<(PortInput, PortOutput), Error> {
        let mut query = vec![("port", port.to_string())];
        query.extend(unit.map(|unit| ("unit", unit.to_string())));
        let path = format!("/v1/workloads/{}/port-forward", escaped(id));
        let (sink, stream) = self.socket(&path, &query).await?.split();
        let server = self.server().to_owned();
        let input = PortInput {
            sink,
            server: server.clone(),
        };
        Ok((input, PortOutput { stream, server }))
    }

    async fn socket(&self, path: &str, query: &[(&str, String)]) -> Result<Socket, Error> {
        match tokio::time::timeout(OPEN_TIMEOUT, self.open_socket(path, query)).await {
            Ok(opened) => opened,
            Err(_) => Err(self.unreachable("it did not answer in time".to_owned())),
        }
    }

    async fn open_socket(&self, path: &str, query: &[(&str, String)]) -> Result<Socket, Error> {
        let mut url = reqwest::Url::parse(self.server())
            .map_err(|error| self.unreachable(error.to_string()))?;
        url.set_path(path);
        // Escaped already: `set_path` leaves what is.
        url.query_pairs_mut().extend_pairs(query);
        let transport = self.transport(&url).await?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        let address = url.as_str().replacen(url.scheme(), scheme, 1);
        let mut request = address
            .into_client_request()
            .map_err(|error| self.unreachable(error.to_string()))?;
        if let Some(token) = self.token() {
            let bearer = format!("Bearer {token}").parse();
            let bearer = bearer.map_err(|_| self.unreachable("the token is no header".into()))?;
            request.headers_mut().insert("authorization", bearer);
        }
        match tokio_tungstenite::client_async(request, transport).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => Err(refused(&response)),
            Err(error) => Err(self.unreachable(error.to_string())),
        }
    }

    async fn transport(&self, url: &reqwest::Url) -> Result<Box<dyn Transport>, Error> {
        let host = url.host_str().unwrap_or_default();
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((bare.as_str(), port))
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let Some(tls) = self.tls() else {
            return Ok(Box::new(stream));
        };
        let mut config = (*tls.config()).clone();
        // A WebSocket begins as HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = rustls::pki_types::ServerName::try_from(bare)
            .map_err(|error| self.unreachable(error.to_string()))?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
        match connected.await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.unreachable(error.to_string())),
        }
    }

    fn unreachable(&self, detail: String) -> Error {
        Error::Unreachable {
            server: self.server().to_owned(),
            detail,
        }
    }
}

/// What the server said instead of opening a WebSocket.
fn refused(response: &tungstenite::http::Response<Option<Vec<u8>>>) -> Error {
    let body = response.body().as_deref().unwrap_or_default();
    let problem = serde_json::from_slice(body).unwrap_or_else(|_| {
        Problem::new(
            response.status().as_u16(),
            "unexpected-answer",
            Reason::Internal,
            format!("the server answered {}", response.status()),
        )
    });
    Error::Refused(Box::new(problem))
}

fn broken(server: &str, error: &tungstenite::Error) -> Error {
    Error::Unreachable {
        server: server.to_owned(),
        detail: error.to_string(),
    }
}

impl ExecInput {
    /// Sends bytes to the command; none end its standard input.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.channel(exec_channel::STDIN, bytes).await
    }

    /// Tells the size of the terminal.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), Error> {
        let json = serde_json::to_vec(&size).unwrap_or_default();
        self.channel(exec_channel::RESIZE, &json).await
    }

    async fn channel(&mut self, channel: u8, bytes: &[u8]) -> Result<(), Error> {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        let sent = self.sink.send(Message::binary(message)).await;
        sent.map_err(|error| broken(&self.server, &error))
    }
}

impl ExecOutput {
    /// What the command does next; `None` when the connection ended without its end.
    ///
    /// # Errors
    /// When the connection breaks or the server sends what is none of this.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, Error> {
        loop {
            let message = match self.stream.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.server, &error)),
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(_)) => continue,
            };
            let Some((&channel, _)) = message.split_first() else {
                continue;
            };
            let rest = message.slice(1..);
            match channel {
                exec_channel::STDOUT => return Ok(Some(ExecEvent::Stdout(rest))),
                exec_channel::STDERR => return Ok(Some(ExecEvent::Stderr(rest))),
                exec_channel::END => {
                    let end = serde_json::from_slice(&rest).map_err(|error| Error::Garbled {
                        call: "exec".to_owned(),
                        detail: error.to_string(),
                    })?;
                    return Ok(Some(ExecEvent::End(end)));
                }
                _ => {}
            }
        }
    }
}

impl PortInput {
    /// Sends bytes to the port; none end this direction.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = self.sink.send(Message::binary(bytes.to_vec())).await;
        sent.map_err(|error| broken(&self.server, &error))
    }
}

impl PortOutput {
    /// The next bytes; empty ones end this direction, `None` the connection.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.stream.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.server, &error)),
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                Some(Ok(_)) => {}
            }
        }
    }
}
