//! Bytes both ways between two streams, each direction ending on its own.

use std::future::Future;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use tokio_util::sync::CancellationToken;

use crate::wire::Wire;

/// Of each direction of a connection, in bytes.
const BUFFER_BYTES: usize = 16 << 10;

/// Carries bytes until both directions have ended, one broke, or `cut`; whether they ended.
pub(crate) async fn carry<A, B>(one: &mut A, two: &mut B, cut: impl Future<Output = ()>) -> bool
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    tokio::select! {
        copied = copy_bidirectional_with_sizes(one, two, BUFFER_BYTES, BUFFER_BYTES) => copied.is_ok(),
        () = cut => false,
    }
}

/// As [`carry`]; what did not end cleanly is broken off on both sides.
pub(crate) async fn tunnel(mut one: impl Wire, mut two: impl Wire, cut: impl Future<Output = ()>) {
    if !carry(&mut one, &mut two, cut).await {
        one.abort();
        two.abort();
    }
}

/// Returns when either is cancelled.
pub(crate) async fn either(one: &CancellationToken, two: &CancellationToken) {
    tokio::select! {
        () = one.cancelled() => {}
        () = two.cancelled() => {}
    }
}
