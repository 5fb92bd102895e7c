//! A connection to a running QEMU.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout_at};

use super::message::Message;
use crate::socket;

/// The longest line that is read, in bytes; the console's buffer in base 64 is the longest.
const MAX_LINE_BYTES: usize = 4 << 20;
/// How many events are kept until somebody asks for them; later ones are dropped.
const MAX_EVENTS: usize = 256;

/// Why a command had no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody is at the other end any more.
    #[error("the connection to QEMU is gone: {0}")]
    Gone(String),
    /// No answer in time.
    #[error("QEMU does not answer within {0:?}")]
    Late(Duration),
    /// QEMU refused.
    #[error("QEMU refuses `{command}`: {said}")]
    Refused {
        /// Which command.
        command: String,
        /// Its words.
        said: String,
    },
    /// QEMU said something else than the protocol has.
    #[error("QEMU's answer is not QMP: {0}")]
    Garbled(String),
}

/// A connection; commands are sent one after another.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What was read of a line whose end has not come yet.
    partial: Vec<u8>,
    events: Vec<String>,
    last_id: u64,
    patience: Duration,
}

impl Client {
    /// Connects and negotiates. `patience` bounds this and every command.
    ///
    /// # Errors
    /// When nobody listens, or what answers is not QEMU.
    pub(crate) async fn connect(path: &Path, patience: Duration) -> Result<Self, Failure> {
        let end = Instant::now() + patience;
        let late = |_| Failure::Late(patience);
        let stream = timeout_at(end, socket::connect(path))
            .await
            .map_err(late)?
            .map_err(|e| Failure::Gone(e.to_string()))?;
        let (reader, writer) = stream.into_split();
        let mut client = Self {
            reader: BufReader::new(reader),
            writer,
            partial: Vec::new(),
            events: Vec::new(),
            last_id: 0,
            patience,
        };
        let greeting = async {
            loop {
                if client.message().await? == Message::Greeting {
                    return Ok::<(), Failure>(());
                }
            }
        };
        timeout_at(end, greeting).await.map_err(late)??;
        client.call("qmp_capabilities", json!({})).await?;
        Ok(client)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// Those of [`Failure`].
    pub(crate) async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        let patience = self.patience;
        let end = Instant::now() + patience;
        self.last_id += 1;
        let id = self.last_id;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        let exchange = async {
            self.writer
                .write_all(line.as_bytes())
                .await
                .map_err(|e| Failure::Gone(e.to_string()))?;
            loop {
                match self.message().await? {
                    Message::Answer(of, answer) if of == id => return Ok(answer),
                    Message::Event(event) => self.note(event),
                    // The late answer to a command that nobody waits for any more.
                    Message::Answer(..) | Message::Greeting => {}
                }
            }
        };
        let answer: Result<_, Failure> = timeout_at(end, exchange)
            .await
            .map_err(|_| Failure::Late(patience))?;
        answer?.map_err(|said| Failure::Refused {
            command: command.to_owned(),
            said,
        })
    }

    /// Waits for an event, at most for so long; tells those that came so far.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn events(&mut self, at_most: Duration) -> Result<Vec<String>, Failure> {
        if self.events.is_empty() {
            match timeout_at(Instant::now() + at_most, self.message()).await {
                Ok(Ok(Message::Event(event))) => self.note(event),
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
        Ok(std::mem::take(&mut self.events))
    }

    fn note(&mut self, event: String) {
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        }
    }

    /// The next message; lines that are none are skipped. May be dropped at any await: what was
    /// read so far is kept.
    async fn message(&mut self) -> Result<Message, Failure> {
        loop {
            let available = self
                .reader
                .fill_buf()
                .await
                .map_err(|e| Failure::Gone(e.to_string()))?;
            if available.is_empty() {
                return Err(Failure::Gone("closed by QEMU".to_owned()));
            }
            let end = available.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(available.len(), |at| at + 1);
            self.partial.extend_from_slice(&available[..taken]);
            self.reader.consume(taken);
            if self.partial.len() > MAX_LINE_BYTES {
                let message = format!("a line of more than {MAX_LINE_BYTES} bytes");
                return Err(Failure::Garbled(message));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.partial);
                if let Some(message) = Message::parse(&line) {
                    return Ok(message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const PATIENCE: Duration = Duration::from_millis(300);

    async fn serve(said: Vec<u8>, patience: Duration) -> Result<Client, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&said).await.unwrap();
            // Held open without an answer, as a QEMU that hangs does.
            std::future::pending::<()>().await;
        });
        let outcome = Client::connect(&path, patience).await;
        server.abort();
        outcome
    }

    #[tokio::test]
    async fn silent_qemu_is_given_up() {
        let silent = serve(vec![], PATIENCE).await;
        assert_eq!(silent.unwrap_err(), Failure::Late(PATIENCE));
        let greeting = b"{\"QMP\": {}}\n".to_vec();
        let mute = serve(greeting, PATIENCE).await;
        assert_eq!(mute.unwrap_err(), Failure::Late(PATIENCE));
    }

    #[tokio::test]
    async fn endless_line_is_refused() {
        // Reading so much takes its time on a loaded machine.
        let patience = Duration::from_secs(30);
        let endless = vec![b'x'; MAX_LINE_BYTES + 2];
        let failure = serve(endless, patience).await.unwrap_err();
        assert!(matches!(failure, Failure::Garbled(_)), "{failure:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_told() {
        let failure = Client::connect(Path::new("/nonexistent/qmp"), PATIENCE).await;
        assert!(matches!(failure.unwrap_err(), Failure::Gone(_)));
    }
}
