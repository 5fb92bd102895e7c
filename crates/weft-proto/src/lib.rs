//! Protobuf messages and gRPC services: between agents and servers, and for clients.
//!
//! The messages are generated from `proto/weft/v1/agent.proto` and `api.proto`, which are the
//! reference. This crate adds only conversions between messages and the types of `weft-types`; it opens no
//! connection and decides nothing.

mod convert;

/// Version 1 of the protocol.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("weft.v1");
}

/// Version 1 of the interface for clients.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/api/weft.v1.rs"));

    /// The interface as an encoded `FileDescriptorSet`.
    pub const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));
}

pub use convert::{InvalidMessage, capacity_from_proto, capacity_to_proto, job_spec, task_payload};

/// The largest gRPC message either side accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The size of the pieces in which artifacts travel, in bytes.
pub const BLOB_CHUNK_BYTES: usize = 256 << 10;
/// The largest standard output or error that travels inside a result, in bytes; what is larger
/// becomes an artifact.
pub const MAX_INLINE_OUTPUT_BYTES: usize = 1 << 20;
