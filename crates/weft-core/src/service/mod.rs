//! Services: what is kept running, and the decisions that keep it so.

pub mod record;
