//! Revisioned key-value store port and its embedded backend
