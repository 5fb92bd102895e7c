//! Containers on Docker Engine or Podman.
