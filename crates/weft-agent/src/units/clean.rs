//! Images, caches and logs that nothing needs any more, by age and by pressure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_unit::CleanPolicy;

use super::Shared;
use crate::machine::free_disk_bytes;

const INTERVAL: Duration = Duration::from_secs(600);
/// How long one backend may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What no unit has used for this long goes.
const UNUSED_FOR: Duration = Duration::from_secs(24 * 3_600);
/// With less free disk than this, whatever no unit uses goes, in bytes.
const MIN_FREE_BYTES: u64 = 2 << 30;

/// Cleans for as long as the agent runs.
pub(super) async fn clean(shared: Arc<Shared>, data_dir: PathBuf) {
    let policy = CleanPolicy {
        unused_for: UNUSED_FOR,
        min_free_bytes: MIN_FREE_BYTES,
    };
    loop {
        tokio::time::sleep(INTERVAL).await;
        for runtime in shared.runtimes.all() {
            match tokio::time::timeout(TIMEOUT, runtime.clean(policy)).await {
                Ok(Ok(cleaned)) if cleaned.items > 0 => tracing::info!(
                    runtime = runtime.name(),
                    items = cleaned.items,
                    bytes = cleaned.bytes,
                    free_bytes = free_disk_bytes(&data_dir),
                    "cleaned"
                ),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(runtime = runtime.name(), %error, "caches cannot be cleaned");
                }
                Err(_) => tracing::warn!(runtime = runtime.name(), "cleaning takes too long"),
            }
        }
        let cleaning = Arc::clone(&shared);
        let _ = tokio::task::spawn_blocking(move || {
            let table = cleaning.table.lock();
            let kept: std::collections::BTreeSet<_> = table.keys().copied().collect();
            drop(table);
            cleaning.shelf.clean(&kept);
        })
        .await;
    }
}
