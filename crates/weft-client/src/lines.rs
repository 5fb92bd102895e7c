//! Streams of JSON values, one a line, and of server-sent events.

use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;

use crate::Error;
use crate::error::root_cause;

/// The longest line that is accepted, in bytes.
const MAX_LINE_BYTES: usize = 64 << 20;

/// How values are told apart in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// One JSON value a line.
    Ndjson,
    /// Server-sent events: the JSON value follows `data:`.
    ServerSentEvents,
}

/// A stream of values from the server.
pub struct Lines<T> {
    response: reqwest::Response,
    framing: Framing,
    buffer: BytesMut,
    ready: VecDeque<Bytes>,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn new(response: reqwest::Response, framing: Framing) -> Self {
        Self {
            response,
            framing,
            buffer: BytesMut::new(),
            ready: VecDeque::new(),
            value: PhantomData,
        }
    }

    /// The next value; `None` when the server has ended the stream.
    ///
    /// # Errors
    /// When the connection breaks or a line is not such a value.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                if let Some(json) = self.payload(&line) {
                    return serde_json::from_slice(json)
                        .map(Some)
                        .map_err(|error| self.garbled(error.to_string()));
                }
            }
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|error| Error::Unreachable {
                    server: self.response.url().origin().ascii_serialization(),
                    detail: root_cause(&error),
                })?;
            match chunk {
                Some(chunk) => self.take(&chunk)?,
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.garbled("the stream ended within a line".to_owned())),
            }
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let searched = self.buffer.len();
        self.buffer.extend_from_slice(chunk);
        let mut from = searched;
        while let Some(offset) = self.buffer[from..].iter().position(|byte| *byte == b'\n') {
            self.ready
                .push_back(self.buffer.split_to(from + offset + 1).freeze());
            from = 0;
        }
        if self.buffer.len() > MAX_LINE_BYTES {
            return Err(self.garbled(format!("a line is longer than {MAX_LINE_BYTES} bytes")));
        }
        Ok(())
    }

    fn payload<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let line = line.trim_ascii();
        match self.framing {
            Framing::Ndjson => Some(line).filter(|line| !line.is_empty()),
            Framing::ServerSentEvents => line.strip_prefix(b"data:").map(<[u8]>::trim_ascii),
        }
    }

    fn garbled(&self, detail: String) -> Error {
        Error::Garbled {
            call: self.response.url().path().to_owned(),
            detail,
        }
    }
}
