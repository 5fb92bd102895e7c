//! The backend of one unit, which may not be known yet when the unit is.

use std::sync::Arc;

use parking_lot::Mutex;
use weft_types::RuntimeKind;
use weft_unit::UnitRuntime;

use crate::runtimes::{Held, UnitRuntimes};

/// The backend of a unit, held from when it is found for as long as the unit is here; cloning
/// shares it.
#[derive(Clone, Default)]
pub(super) struct Backend {
    held: Arc<Mutex<Option<Held>>>,
}

impl Backend {
    pub(super) fn new(held: Option<Held>) -> Self {
        Self {
            held: Arc::new(Mutex::new(held)),
        }
    }

    /// The backend, if it has been found.
    pub(super) fn get(&self) -> Option<Arc<dyn UnitRuntime>> {
        let held = self.held.lock();
        held.as_ref().map(|held| Arc::clone(held.runtime()))
    }

    /// The name by which the node remembers it.
    pub(super) fn name(&self) -> Option<&'static str> {
        self.held.lock().as_ref().map(Held::name)
    }

    /// The backend, once it is known which; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(super) async fn find(
        &self,
        runtimes: &UnitRuntimes,
        kind: RuntimeKind,
    ) -> std::io::Result<Option<Arc<dyn UnitRuntime>>> {
        if let Some(runtime) = self.get() {
            return Ok(Some(runtime));
        }
        let held = runtimes.hold(kind).await?;
        let runtime = held.as_ref().map(|held| Arc::clone(held.runtime()));
        *self.held.lock() = held;
        Ok(runtime)
    }
}
