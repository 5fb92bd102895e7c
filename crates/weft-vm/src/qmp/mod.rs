//! The QEMU Machine Protocol: lines of JSON over a Unix socket.
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

mod client;
mod message;

pub(crate) use client::{Client, Failure};
