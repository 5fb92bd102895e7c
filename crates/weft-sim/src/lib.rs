//! Deterministic simulator over the pure machines of Weft
