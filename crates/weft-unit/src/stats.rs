//! What units use.

/// What a unit uses. Counters begin with the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Resident memory now, in bytes.
    pub memory_bytes: u64,
    /// Bytes that the instance has written to its own layer or disks.
    pub disk_bytes: u64,
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Processes, or virtual processors of a machine.
    pub pids: u32,
}
