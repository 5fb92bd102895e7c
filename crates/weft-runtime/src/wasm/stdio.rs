//! Standard output and error of a program, into the output log.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::OutputLog;
use crate::output::Stream;

/// What a program may write at once; it bounds an allocation of the host.
const MAX_WRITE_BYTES: usize = 64 << 10;

/// One output stream. It never has a program wait: the log bounds itself.
#[derive(Clone)]
pub(super) struct Output {
    log: Arc<OutputLog>,
    stream: Stream,
}

/// The output could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the output: {0}")]
pub(super) struct OutputLost(io::Error);

impl Output {
    pub(super) fn new(log: &Arc<OutputLog>, stream: Stream) -> Self {
        Self {
            log: Arc::clone(log),
            stream,
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let written = self.log.write(self.stream, &bytes);
        written.map_err(|error| StreamError::Trap(OutputLost(error).into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.log.write(self.stream, bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
