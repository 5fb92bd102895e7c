//! Artifacts in files named by the BLAKE3 hash of their bytes.
//!
//! An artifact is written to a temporary file, hashed on the way, synced and renamed to its name,
//! so that a name never stands for other or incomplete bytes, whatever dies when.
//!
//! Architecture invariant: who refers to an artifact, this crate does not know; [`BlobStore::gc`]
//! is told what to keep.

mod error;
mod store;

pub use error::Error;
pub use store::{BlobStore, Stored};
