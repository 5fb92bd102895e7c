//! A small HTTP server for images.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Serves files from memory; `redirect-HEX` answers with a redirect to the decoded URL, `endless`
/// with bytes that do not end.
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(files: Vec<(&'static str, Vec<u8>)>) -> Self {
        let files: Arc<BTreeMap<_, _>> = Arc::new(files.into_iter().collect());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let files = Arc::clone(&files);
                // A client that goes away is none of the server's business.
                tokio::spawn(async move { drop(answer(stream, &files).await) });
            }
        });
        Self { address, task }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn redirect(&self, to: &str) -> String {
        let hex: String = to.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.url(&format!("redirect-{hex}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<&'static str, Vec<u8>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut stream).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = first.split(' ').nth(1).unwrap_or_default();
    let name = path.trim_start_matches('/');
    if let Some(hex) = name.strip_prefix("redirect-") {
        let digits = hex.as_bytes().chunks(2);
        let bytes =
            digits.filter_map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        let to = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
        let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        return stream.write_all(head.as_bytes()).await;
    }
    if name == "endless" {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[0; 64 << 10]).await?;
        }
    }
    let Some(content) = files.get(name) else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(head.as_bytes()).await;
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(content).await
}
