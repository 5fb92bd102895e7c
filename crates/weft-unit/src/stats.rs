//! What units use.

/// What a unit uses. Counters begin with the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Resident memory now, in bytes.
    pub memory_bytes: u64,
    /// Bytes that the instance's own layer takes, without its volumes, as they were last measured:
    /// a large layer is not measured at each look. Of a machine, all that it has written to its
    /// disks so far.
    pub disk_bytes: u64,
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Processes, or virtual processors of a machine.
    pub pids: u32,
}
