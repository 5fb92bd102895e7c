//! Requests that are made without `bollard`.
//!
//! The connection of a command inside a container is made out of an HTTP request. `bollard` can do
//! it too, but takes what a terminal prints for a frame when it begins with a byte below 3, and
//! keeps whole frames in memory. And it refuses answers of Podman with a state that Docker has not.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use weft_unit::ExecOutput;

/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The longest body of a refusal, in bytes.
const MAX_REFUSAL_BYTES: u64 = 64 << 10;
/// The longest body of an answer, in bytes.
const MAX_BODY_BYTES: u64 = 64 << 20;
/// The most that is passed on at once, in bytes.
const PIECE_BYTES: usize = 16 << 10;
const HEADER_BYTES: usize = 8;
const STDERR: u8 = 2;
/// How long the engine may take to answer, and to say why it refuses.
const ANSWER: Duration = Duration::from_secs(60);
const REFUSAL: Duration = Duration::from_secs(2);

/// Both directions of a connection.
pub(crate) struct Hijacked {
    pub output: Output,
    pub input: OwnedWriteHalf,
}

/// What the command prints.
pub(crate) struct Output {
    stream: BufReader<OwnedReadHalf>,
    /// Of a terminal there are no frames.
    is_raw: bool,
    left: usize,
    is_stderr: bool,
}

/// Gets what is at a path: the status of the answer and its body.
///
/// HTTP/1.0, so that the body comes in one piece and ends with the connection.
pub(crate) async fn get(socket: &Path, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let asking = async {
        let stream = UnixStream::connect(socket).await?;
        let (read, mut write) = stream.into_split();
        let request = format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n");
        write.write_all(request.as_bytes()).await?;
        let mut stream = BufReader::new(read);
        let head = head(&mut stream).await?;
        let mut body = Vec::new();
        stream.take(MAX_BODY_BYTES).read_to_end(&mut body).await?;
        io::Result::Ok((head, body))
    };
    let answer = tokio::time::timeout(ANSWER, asking).await;
    let (head, body) = answer.map_err(|_| io::Error::other("the engine does not answer"))??;
    let status = status(&head).ok_or_else(|| io::Error::other("no answer in HTTP"))?;
    Ok((status, body))
}

/// What the engine says of a refusal, which is JSON with a `message`.
pub(crate) fn message(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (from, to) = text.find('{').zip(text.rfind('}'))?;
    let value: serde_json::Value = serde_json::from_str(text.get(from..=to)?).ok()?;
    Some(value.get("message")?.as_str()?.to_owned())
}

/// Sends a request and takes the connection over.
pub(crate) async fn post(
    socket: &Path,
    path: &str,
    body: &str,
    is_raw: bool,
) -> io::Result<Hijacked> {
    let connecting = async {
        let stream = UnixStream::connect(socket).await?;
        let (read, mut input) = stream.into_split();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n\
             Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        input.write_all(request.as_bytes()).await?;
        let mut stream = BufReader::new(read);
        let head = head(&mut stream).await?;
        io::Result::Ok((stream, input, head))
    };
    let answer = tokio::time::timeout(ANSWER, connecting).await;
    let (mut stream, input, head) =
        answer.map_err(|_| io::Error::other("the engine does not answer"))??;
    if !matches!(status(&head), Some(101 | 200)) {
        return Err(refusal(&mut stream, &head).await);
    }
    let output = Output {
        stream,
        is_raw,
        left: 0,
        is_stderr: false,
    };
    Ok(Hijacked { output, input })
}

async fn head(stream: &mut BufReader<OwnedReadHalf>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            return Err(io::Error::other("the engine's answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn status(head: &str) -> Option<u16> {
    head.split(' ').nth(1)?.parse().ok()
}

/// What the engine says instead, which is JSON with a `message`.
async fn refusal(stream: &mut BufReader<OwnedReadHalf>, head: &str) -> io::Error {
    let mut body = Vec::new();
    let mut limited = stream.take(MAX_REFUSAL_BYTES);
    // The connection may stay open: then the time ends it.
    let _ = tokio::time::timeout(REFUSAL, async {
        while !body.contains(&b'}') && limited.read_buf(&mut body).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let line = head.lines().next().unwrap_or_default().to_owned();
    io::Error::other(message(&body).unwrap_or(line))
}

impl Output {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<ExecOutput>> {
        if !self.is_raw && self.left == 0 && !self.next_frame().await? {
            return Ok(None);
        }
        let most = if self.is_raw { PIECE_BYTES } else { self.left };
        let mut piece = vec![0; most.min(PIECE_BYTES)];
        let count = self.stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(None);
        }
        piece.truncate(count);
        self.left = self.left.saturating_sub(count);
        let piece = Bytes::from(piece);
        Ok(Some(if self.is_stderr {
            ExecOutput::Stderr(piece)
        } else {
            ExecOutput::Stdout(piece)
        }))
    }

    /// Reads the header of the next frame that has anything in it.
    async fn next_frame(&mut self) -> io::Result<bool> {
        while self.left == 0 {
            let mut header = [0; HEADER_BYTES];
            match self.stream.read_exact(&mut header).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
            let length = [header[4], header[5], header[6], header[7]];
            self.left = u32::from_be_bytes(length) as usize;
            self.is_stderr = header[0] == STDERR;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn answered(answer: &'static [u8], is_raw: bool) -> io::Result<Vec<ExecOutput>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut asked = vec![0; 4_096];
            let count = stream.read(&mut asked).await?;
            stream.write_all(answer).await?;
            io::Result::Ok(String::from_utf8_lossy(&asked[..count]).into_owned())
        });
        let mut there = post(&path, "/exec/1/start", "{}", is_raw).await?;
        let mut all = Vec::new();
        while let Some(piece) = there.output.next().await? {
            all.push(piece);
        }
        let asked = server.await.map_err(io::Error::other)??;
        assert!(
            asked.starts_with("POST /exec/1/start HTTP/1.1\r\n"),
            "{asked}"
        );
        Ok(all)
    }

    #[tokio::test]
    async fn frames_are_told_apart_and_terminals_are_raw() {
        let framed = b"HTTP/1.1 101 UPGRADED\r\n\r\n\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x01c";
        let all = answered(framed, false).await.unwrap();
        let expected = [
            ExecOutput::Stdout(Bytes::from_static(b"ab")),
            ExecOutput::Stderr(Bytes::from_static(b"c")),
        ];
        assert_eq!(all, expected);
        let raw = b"HTTP/1.1 200 OK\r\n\r\n\x01\x02ab";
        let all = answered(raw, true).await.unwrap();
        assert_eq!(all, [ExecOutput::Stdout(Bytes::from_static(b"\x01\x02ab"))]);
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_engines_words() {
        let refused = b"HTTP/1.1 409 Conflict\r\n\r\n{\"message\":\"it is paused\"}";
        let error = answered(refused, false).await.unwrap_err();
        assert_eq!(error.to_string(), "it is paused");
    }
}
