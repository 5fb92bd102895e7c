//! Containers without an engine: images, mounts, networks and an OCI runtime.
