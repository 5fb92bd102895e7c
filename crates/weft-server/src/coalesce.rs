//! Answers that are ready together leave together.
//!
//! On an HTTP/2 connection each answer comes from a task of its own, and each is flushed by itself:
//! a TLS record and a system call an answer, although a group commit makes dozens of them ready at
//! once. [`Coalesce`] keeps what is written until the flush, and lets the tasks that are ready run
//! before it flushes, once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is kept at most; a write that finds less room than that goes on when there is some.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// A stream whose small writes are kept until the flush.
pub struct Coalesce<S> {
    stream: S,
    kept: BytesMut,
    /// Whether the others have had their turn since something was kept.
    has_yielded: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Coalesce<S> {
    /// Over this stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            kept: BytesMut::new(),
            has_yielded: false,
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(written);
        }
        self.has_yielded = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept.len() + bytes.len() > MAX_KEPT_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        if bytes.len() > MAX_KEPT_BYTES {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        self.kept.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.kept.is_empty() && !self.has_yielded {
            self.has_yielded = true;
            // A task that wakes itself goes behind those that are ready.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts the writes that reach it.
    struct Counted<S>(S, usize);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    #[tokio::test]
    async fn small_writes_leave_together_at_the_flush() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut stream = Coalesce::new(Counted(near, 0));
        for _ in 0..100 {
            stream.write_all(b"0123456789").await.unwrap();
        }
        assert_eq!(stream.stream.1, 0);
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.1, 1);
        let mut read = vec![0; 1_000];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, b"0123456789".repeat(100));
    }

    #[tokio::test]
    async fn writes_of_any_size_arrive_whole_and_in_order() {
        // Narrower than what is kept, so that writes meet a stream that is full.
        let (near, mut far) = tokio::io::duplex(1_000);
        let mut stream = Coalesce::new(near);
        let sizes = [
            1,
            MAX_KEPT_BYTES - 1,
            2,
            MAX_KEPT_BYTES + 1,
            5,
            3 * MAX_KEPT_BYTES,
        ];
        let bytes: Vec<u8> = (0..sizes.iter().sum::<usize>())
            .map(|at| (at % 251) as u8)
            .collect();
        let expected = bytes.clone();
        let writing = tokio::spawn(async move {
            let mut rest = bytes.as_slice();
            for size in sizes {
                let (now, later) = rest.split_at(size);
                stream.write_all(now).await.unwrap();
                rest = later;
            }
            // Shutting down sends what is kept.
            stream.shutdown().await.unwrap();
        });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        writing.await.unwrap();
        assert!(read == expected);
    }
}
