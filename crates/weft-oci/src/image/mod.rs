//! Images: named, fetched, verified and kept as layers.

mod manifest;
mod reference;

pub use manifest::*;
pub use reference::{Digest, Reference};
