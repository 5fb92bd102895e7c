//! Compose applications, by the reference implementation found on the node.
