//! Fetching an image by URL, hashed while it streams.

use std::path::Path;

use ring::digest::{Context, SHA256};
use weft_fetch::{Allowed, Fetch, Part};
use weft_types::Reason;
use weft_unit::{Error, Progress, Step};

use crate::{Options, fail};

/// How often progress is told, in bytes.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Fetches images as the options say.
pub(super) fn images(options: &Options) -> Fetch {
    Fetch::new(weft_fetch::Options {
        allowed: if options.allow_private_urls {
            Allowed::any_private()
        } else {
            Allowed::default()
        },
        max_bytes: options.max_image_bytes,
        timeout: options.fetch_timeout,
    })
}

/// Writes what is at a URL to a new file, when it has the wanted SHA-256.
pub(super) async fn to_file(
    fetch: &Fetch,
    url: &str,
    sha256: &str,
    file: &Path,
    progress: &Progress,
) -> Result<(), Error> {
    let mut hash = Context::new(&SHA256);
    let (mut read, mut told) = (0, 0);
    let seen = |piece: &[u8], total: Option<u64>| {
        hash.update(piece);
        read += piece.len() as u64;
        if read >= told {
            told = read + PROGRESS_BYTES;
            let of = total.map_or_else(String::new, |total| format!(" of {}", total >> 20));
            progress.send_replace(format!("fetching {url}: {}{of} MiB", read >> 20));
        }
    };
    let fetched = fetch.to_file(url, Part::default(), file, seen).await;
    fetched.map_err(failed)?;
    let storage = |e: std::io::Error| fail::file(Step::Prepare, "writing", file, &e);
    let written = tokio::fs::File::open(file).await.map_err(storage)?;
    written.sync_data().await.map_err(storage)?;
    let found = hex::encode(hash.finish());
    if found != sha256 {
        let detail = format!("{url} has SHA-256 {found}, not {sha256}");
        return Err(Error::new(Step::Prepare, Reason::ArtifactCorrupt, detail));
    }
    Ok(())
}

fn failed(error: weft_fetch::Error) -> Error {
    use weft_fetch::Error as Fetch;
    let reason = match error {
        Fetch::Url { .. } => return fail::refused("vm.image.url", error),
        Fetch::Missing { .. } => Reason::ImageNotFound,
        Fetch::Network { .. }
        | Fetch::Late { .. }
        | Fetch::TooLarge { .. }
        | Fetch::Short { .. } => Reason::ImagePullFailed,
        Fetch::Refused { .. } | Fetch::File(_) | Fetch::Tls(_) => error.reason(),
    };
    Error::new(Step::Prepare, reason, error.to_string())
}
