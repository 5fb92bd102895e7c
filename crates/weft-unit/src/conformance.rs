//! The suite that every backend passes against its real engine.
