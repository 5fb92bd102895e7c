//! Images: named, fetched, verified and kept as layers.

mod clean;
mod download;
mod manifest;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;

pub use manifest::*;
pub use reference::{Digest, Reference};
pub(crate) use registry::Registry;
pub(crate) use store::{Image, Images};
