//! Clients of the gRPC and WebSocket doors that share no code with the server's side.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Cluster;

/// How long a door may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Whose certificate a client shows.
#[derive(Clone)]
pub enum Who {
    /// The administrator's.
    Admin,
    /// None.
    Nobody,
    /// That of an agent with this data directory.
    Node(std::path::PathBuf),
}

/// A request of REST: the JSON documents of its answer, one a line.
///
/// # Panics
/// When the answer is not JSON.
pub fn rest(cluster: &Cluster, args: &[&str], path: &str) -> Vec<Value> {
    let output = cluster.curl(args, path).stdout;
    let text = String::from_utf8_lossy(&output);
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Submits a job over REST and gives its id.
///
/// # Panics
/// When it is refused.
pub fn submit_over_rest(cluster: &Cluster, body: &str) -> String {
    let json = ["-H", "content-type: application/json", "-d", body];
    let job = rest(cluster, &json, "/v1/jobs").remove(0);
    job["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{job}"))
        .to_owned()
}

/// How many clients follow something at each door, and how many WebSockets are open.
pub fn subscriptions(cluster: &Cluster) -> Vec<(String, u64)> {
    let text = String::from_utf8_lossy(&cluster.curl(&[], "/metrics").stdout).into_owned();
    let lines = text.lines().filter(|line| {
        line.starts_with("weft_subscriptions{") || line.starts_with("weft_websocket_connections ")
    });
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, count)| (name.to_owned(), count.parse().unwrap_or(u64::MAX)))
        .collect()
}

/// Opens a TLS connection to the server.
///
/// # Errors
/// When the server refuses it.
pub async fn tls(
    cluster: &Cluster,
    who: &Who,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let admin = cluster.data_dir().join("pki/admin");
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(admin.join("ca.pem")).expect("the CA");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let dir = match who {
        Who::Admin => Some(admin),
        Who::Nobody => None,
        Who::Node(dir) => Some(dir.join("identity")),
    };
    let mut config = match dir {
        None => config.with_no_client_auth(),
        Some(dir) => {
            let chain = CertificateDer::pem_file_iter(dir.join("cert.pem")).expect("a certificate");
            let chain = chain.map(|certificate| certificate.expect("PEM")).collect();
            let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = cluster.dial()?;
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("weft").expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// A gRPC channel to the server.
///
/// # Panics
/// When the server refuses it.
pub async fn channel(cluster: &Cluster, who: Who) -> Channel {
    let stream = tls(cluster, &who, "h2").await.expect("a connection");
    let mut stream = Some(TokioIo::new(stream));
    let dial = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the connection broke off")) }
    });
    let endpoint = Endpoint::from_static("https://weft");
    endpoint
        .connect_with_connector(dial)
        .await
        .expect("a channel")
}

/// Sends bytes as the message of a gRPC method.
///
/// # Errors
/// As the server answers.
pub async fn raw_call(
    channel: &Channel,
    path: &'static str,
    bytes: Bytes,
) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = client
        .unary(tonic::Request::new(bytes), path, RawCodec)
        .await;
    answer.map(tonic::Response::into_inner)
}

/// The problem document of a refused gRPC call.
///
/// # Panics
/// When it has none.
pub fn problem(status: &Status) -> Value {
    let bytes = status.metadata().get_bin("weft-problem-bin");
    let bytes = bytes.unwrap_or_else(|| panic!("no problem document: {status:?}"));
    serde_json::from_slice(&bytes.to_bytes().expect("base64")).expect("JSON")
}

/// Messages as bytes, so that wrong ones can be sent.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A WebSocket client.
pub struct Ws {
    /// The socket, for frames that are no messages.
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Ws {
    /// Opens `/v1/ws`.
    ///
    /// # Errors
    /// When the server refuses it; with its answer.
    pub async fn try_open(cluster: &Cluster, who: Who, token: Option<&str>) -> Result<Self, Error> {
        let stream = tls(cluster, &who, "http/1.1").await.map_err(Error::Io)?;
        let mut request = format!("wss://weft:{}/v1/ws", cluster.port()).into_client_request()?;
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().expect("a header");
            request.headers_mut().insert("authorization", bearer);
        }
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self { socket })
    }

    /// Opens `/v1/ws` as the administrator.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn open(cluster: &Cluster) -> Self {
        Self::try_open(cluster, Who::Admin, None)
            .await
            .expect("a WebSocket")
    }

    /// Sends a message.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn send(&mut self, message: &Value) {
        self.text(&message.to_string()).await;
    }

    /// Sends a text, whatever it is.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn text(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .await
            .expect("it is sent");
    }

    /// The next message; `None` when the server has closed the connection.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let frame = tokio::time::timeout(ANSWER, self.socket.next()).await;
            match frame.expect("an answer in time")?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).expect("JSON")),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The next message with this id; others are passed over.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn answer(&mut self, id: &str) -> Value {
        loop {
            let message = self.next().await.expect("an answer");
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Sends a request and gives its first answer.
    pub async fn ask(&mut self, request: &Value) -> Value {
        self.send(request).await;
        self.answer(request["id"].as_str().unwrap_or_default())
            .await
    }

    /// What a subscription tells until it ends: the entries of `field` in each of its messages.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn follow(&mut self, request: &Value) -> Vec<Value> {
        self.send(request).await;
        let mut told = Vec::new();
        loop {
            let message = self
                .answer(request["id"].as_str().unwrap_or_default())
                .await;
            match message["type"].as_str() {
                Some("end") => {
                    assert_eq!(message["complete"], true, "{message}");
                    return told;
                }
                Some("job") => told.push(message["job"].clone()),
                Some("results") => {
                    told.extend(message["results"].as_array().cloned().unwrap_or_default());
                }
                _ => panic!("{message}"),
            }
        }
    }
}
