//! What calls and watchers share.

use std::collections::HashMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use weft_types::UnitId;

use crate::disks::Disks;
use crate::filter::Filter;
use crate::images::Images;
use crate::machine::Hypervisor;
use crate::options::Options;
use crate::record;

/// Everything behind the port.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) hypervisor: Box<dyn Hypervisor>,
    pub(crate) images: Images,
    pub(crate) disks: Disks,
    pub(crate) filter: Filter,
    /// Told when a machine may have changed.
    pub(crate) changed: Notify,
    pub(crate) watchers: Mutex<HashMap<UnitId, JoinHandle<()>>>,
}

impl Shared {
    /// Directory of a unit.
    pub(crate) fn dir(&self, unit: UnitId) -> PathBuf {
        let node = record::node_dir(&self.options.data_dir, &self.options.node);
        node.join(unit.to_string())
    }
}
