//! Inputs that are named by URL: fetched for one attempt of one task, and forgotten with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_fetch::{Allowed, Error, Fetch, Options, Part};
use weft_types::Failure;

/// The most bytes of one input.
const MAX_BYTES: u64 = 4 << 30;
/// How long fetching one may take, if its task has no shorter timeout.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Fetches inputs.
pub(crate) struct Urls {
    dir: PathBuf,
    fetch: Fetch,
    next: AtomicU64,
}

/// A file that is removed when this is dropped.
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            let path = self.path.display();
            tracing::warn!(%error, "{path} cannot be removed; restart the agent to try again");
        }
    }
}

impl Urls {
    /// Inputs under a directory of their own, which is emptied.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(dir: PathBuf, allowed: Allowed) -> io::Result<Self> {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&dir)?,
        }
        let fetch = Fetch::new(Options {
            allowed,
            max_bytes: MAX_BYTES,
            timeout: TIMEOUT,
        });
        Ok(Self {
            dir,
            fetch,
            next: AtomicU64::new(0),
        })
    }

    /// A part of what is at a URL, as a file.
    pub(crate) async fn fetch(
        &self,
        url: &str,
        part: Part,
        timeout: Option<Duration>,
    ) -> Result<Temporary, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = Temporary {
            path: self.dir.join(number.to_string()),
        };
        let fetched = self.fetch.to_file(url, part, &file.path, |_, _| ());
        let limit = timeout.unwrap_or(TIMEOUT);
        let fetched = tokio::time::timeout(limit, fetched).await;
        let late = |_| Error::Late {
            url: url.to_owned(),
            limit,
        };
        match fetched.map_err(late).flatten() {
            Ok(()) => Ok(file),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn failed(error: &Error) -> Failure {
    let advice = match error {
        Error::Refused { .. } => {
            "; upload the input as an artifact, or start the agent with --fetch-from"
        }
        Error::Short { .. } => "; correct `offset` and `length`",
        _ => "",
    };
    Failure::new(error.reason(), format!("data_url: {error}{advice}"))
}
