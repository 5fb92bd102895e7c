//! What is decided about Compose applications without a node: what their files may ask for, and
//! which pushes to their repositories are genuine.
//!
//! Pure: text in, a verdict out. Paths are collected, and looked at by whoever has the files. The
//! server vets inline files with it before they are kept; a node vets every file before it runs it.
//!
//! Architecture invariant: nothing here trusts what it is given. A file may come from anyone who
//! may push to a repository, a push from anyone on the network; what is read of either is bounded.

pub mod policy;
pub mod push;
mod yaml;

pub use yaml::{MAX_YAML_BYTES, parse as parse_yaml};
