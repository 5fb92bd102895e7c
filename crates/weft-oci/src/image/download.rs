//! Blobs: streamed into a file, hashed on the way, taken up again where they broke off.

use std::io::{Read, Seek};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::manifest::Blob;
use super::progress::Pulled;
use super::reference::Digest;
use super::registry::{Refused, Session};
use crate::Error;
use crate::error::During;

/// How often something is tried again that may work the next time.
const RETRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Calls until it works, it cannot work, or the retries are used up.
pub(super) async fn retried<T, F>(mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Refused>>,
{
    let mut wait = FIRST_WAIT;
    for _ in 0..RETRIES {
        match call().await {
            Ok(done) => return Ok(done),
            Err(Refused::Final(error)) => return Err(error),
            Err(Refused::Transient(why)) => tracing::info!(why, "pulling again"),
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    call().await.map_err(|refused| match refused {
        Refused::Final(error) => error,
        Refused::Transient(why) => Error::Pull(format!("{why}, {} times", RETRIES + 1)),
    })
}

/// Fetches a blob into a file, which is the whole blob or does not count.
pub(super) async fn download(
    session: &Session,
    blob: &Blob,
    part: &Path,
    pulled: &Pulled,
) -> Result<(), Error> {
    let is_resumed = std::fs::metadata(part).is_ok_and(|found| found.len() > 0);
    retried(|| attempt(session, blob, part, pulled)).await?;
    match verify(part, blob).await {
        // What was there of it may have been another's, or broken.
        Err(Error::Corrupt(_)) if is_resumed => {
            remove(part)?;
            retried(|| attempt(session, blob, part, pulled)).await?;
            verify(part, blob).await
        }
        other => other,
    }
    .inspect_err(|_| {
        let _ = std::fs::remove_file(part);
    })
}

fn remove(part: &Path) -> Result<(), Error> {
    std::fs::remove_file(part).during(|| format!("remove {}", part.display()))
}

/// Appends what is missing. The hash is of the file, as that is what is unpacked.
async fn attempt(
    session: &Session,
    blob: &Blob,
    part: &Path,
    pulled: &Pulled,
) -> Result<(), Refused> {
    let on_disk = |e: std::io::Error| Refused::Final(Error::io(part.display().to_string(), e));
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(part)
        .map_err(on_disk)?;
    let mut have = file.seek(std::io::SeekFrom::End(0)).map_err(on_disk)?;
    if have > blob.size {
        file.set_len(0).map_err(on_disk)?;
        have = 0;
    }
    if have == blob.size {
        return Ok(());
    }
    let mut response = session.blob(&blob.digest, have).await?;
    if have > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        file.set_len(0).map_err(on_disk)?;
        have = 0;
    }
    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, tokio::fs::File::from_std(file));
    let outcome = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                have += chunk.len() as u64;
                if have > blob.size {
                    break Err(Refused::Final(Error::Corrupt(format!(
                        "{}: longer than the {} bytes of its manifest",
                        blob.digest, blob.size
                    ))));
                }
                out.write_all(&chunk).await.map_err(on_disk)?;
                pulled.add_bytes(chunk.len() as u64);
            }
            Ok(None) if have < blob.size => {
                break Err(Refused::Transient(format!(
                    "{}: ended after {have} of {} bytes",
                    blob.digest, blob.size
                )));
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(session.broken(&error)),
        }
    };
    out.flush().await.map_err(on_disk)?;
    outcome
}

async fn verify(part: &Path, blob: &Blob) -> Result<(), Error> {
    let path = part.to_owned();
    let found = tokio::task::spawn_blocking(move || hash_file(&path))
        .await
        .map_err(|e| Error::Pull(e.to_string()))??;
    if found != blob.digest {
        return Err(Error::Corrupt(format!(
            "{} has the digest {found}: the registry gives another file than its manifest names",
            blob.digest
        )));
    }
    Ok(())
}

fn hash_file(path: &Path) -> Result<Digest, Error> {
    let mut file = std::fs::File::open(path).during(|| format!("open {}", path.display()))?;
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file
            .read(&mut buffer)
            .during(|| format!("read {}", path.display()))?;
        if read == 0 {
            return Ok(Digest::from_ring(&hash.finish()));
        }
        hash.update(&buffer[..read]);
    }
}
