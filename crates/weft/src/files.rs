//! Input files: which ones a glob means, and their way to the cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use weft_client::Client;
use weft_types::{BlobHash, TaskSpec};

use crate::exit::Failed;

/// The most files one run takes.
const MAX_FILES: usize = 1_000_000;
/// How many uploads are under way at once.
const PARALLEL_UPLOADS: usize = 16;

/// The regular files that globs or plain paths mean, each once, sorted within its glob.
///
/// # Errors
/// When a glob is malformed or means no file: a silent empty run helps nobody.
pub fn expand(globs: &[String]) -> Result<Vec<PathBuf>, Failed> {
    let mut files = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for pattern in globs {
        let before = files.len();
        // A file whose name has brackets or stars in it is meant literally.
        if Path::new(pattern).is_file() {
            push(&mut files, &mut seen, PathBuf::from(pattern))?;
            continue;
        }
        let paths = glob::glob(pattern)
            .map_err(|error| Failed::usage(format!("--each {pattern:?}: {error}")))?;
        for path in paths {
            let path =
                path.map_err(|error| Failed::usage(format!("--each {pattern:?}: {error}")))?;
            if path.is_file() {
                push(&mut files, &mut seen, path)?;
            }
        }
        if files.len() == before {
            return Err(Failed::usage(format!("--each {pattern:?}: no such file"))
                .with_next("quote the glob, and look with `ls` what it means"));
        }
    }
    Ok(files)
}

fn push(
    files: &mut Vec<PathBuf>,
    seen: &mut std::collections::HashSet<PathBuf>,
    path: PathBuf,
) -> Result<(), Failed> {
    if seen.insert(path.clone()) {
        files.push(path);
    }
    if files.len() > MAX_FILES {
        return Err(Failed::usage(format!(
            "--each: more than {MAX_FILES} files"
        )));
    }
    Ok(())
}

/// Uploads files, each content once, and makes the task of each.
///
/// # Errors
/// When a file cannot be read or the server refuses one.
pub async fn upload(client: &Client, files: &[PathBuf]) -> Result<Vec<TaskSpec>, Failed> {
    let hashes = hash_all(files.to_vec()).await?;
    let mut by_content: BTreeMap<BlobHash, &Path> = BTreeMap::new();
    for (path, hash) in files.iter().zip(&hashes) {
        by_content.insert(*hash, path);
    }
    let mut uploads = futures::stream::iter(by_content)
        .map(|(hash, path)| upload_one(client, hash, path))
        .buffer_unordered(PARALLEL_UPLOADS);
    while let Some(done) = uploads.next().await {
        done?;
    }
    Ok(files
        .iter()
        .zip(hashes)
        .map(|(path, hash)| task_of(path, hash))
        .collect())
}

fn task_of(path: &Path, hash: BlobHash) -> TaskSpec {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    TaskSpec {
        blob: Some(hash),
        file: name,
        ..TaskSpec::default()
    }
}

/// Uploads one file and says under which hash.
///
/// # Errors
/// When it cannot be read or the server refuses it.
pub async fn upload_file(client: &Client, path: &Path) -> Result<BlobHash, Failed> {
    let hashes = hash_all(vec![path.to_path_buf()]).await?;
    let hash = hashes
        .first()
        .copied()
        .ok_or_else(|| Failed::internal("no hash"))?;
    upload_one(client, hash, path).await?;
    Ok(hash)
}

async fn upload_one(client: &Client, hash: BlobHash, path: &Path) -> Result<(), Failed> {
    if !client.has_blob(&hash).await? {
        client.put_blob(&hash, path).await?;
    }
    Ok(())
}

async fn hash_all(files: Vec<PathBuf>) -> Result<Vec<BlobHash>, Failed> {
    let hash_files = move || {
        files
            .iter()
            .map(|path| {
                let mut hasher = blake3::Hasher::new();
                let hashed =
                    std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
                hashed.map_err(|error| Failed::usage(format!("{}: {error}", path.display())))?;
                Ok(BlobHash(*hasher.finalize().as_bytes()))
            })
            .collect()
    };
    tokio::task::spawn_blocking(hash_files)
        .await
        .map_err(|error| Failed::internal(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_taken_once_and_directories_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        std::fs::write(dir.path().join("a[1]"), "a").unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let star = format!("{}/*", dir.path().display());
        let plain = format!("{}/a[1]", dir.path().display());
        let files = expand(&[star, plain]).unwrap();
        let names: Vec<_> = files
            .iter()
            .map(|f| f.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a[1]", "b"]);
    }

    #[test]
    fn a_glob_without_a_file_is_an_error() {
        assert_eq!(
            expand(&["/nonexistent/*".to_owned()]).unwrap_err().code,
            crate::exit::USAGE
        );
    }
}
