//! Content-addressed artifacts in files named by their BLAKE3 hash
