//! Putting the Compose file and what belongs to it in place.

use std::path::{Path, PathBuf};

use ring::digest;
use serde::{Deserialize, Serialize};
use weft_types::{ComposeSource, GitSource};
use weft_unit::{Error, Progress, Step, Unit};

use super::{Ready, invalid};
use crate::compose::{Compose, storage};
use crate::git::{self, Repository};
use crate::scratch::write_private;

/// The Compose file of a repository that names none.
const USUAL_FILE: &str = "compose.yaml";

/// Beside a checkout: what is not in its files.
#[derive(Serialize, Deserialize)]
struct CheckoutFacts {
    links: Vec<String>,
}

impl Compose {
    /// Puts the Compose file and what belongs to it in place, and tells which of it are links.
    pub(super) async fn fetch(
        &self,
        unit: &Unit,
        ready: &mut Ready<'_>,
        progress: &Progress,
    ) -> Result<Vec<String>, Error> {
        match ready.spec.source() {
            None => Err(invalid("compose: give either `inline` or `git`")),
            Some(ComposeSource::Inline(text)) => {
                let root = self.state.unit_dir(unit.id).join("project");
                ready.record.file = root.join(USUAL_FILE);
                ready.record.root = root;
                write_private(&ready.record.file, text.as_bytes())
                    .map_err(storage(Step::Prepare))?;
                Ok(Vec::new())
            }
            Some(ComposeSource::Git(source)) => {
                self.fetch_commit(unit, source, ready, progress).await
            }
        }
    }

    async fn fetch_commit(
        &self,
        unit: &Unit,
        source: &GitSource,
        ready: &mut Ready<'_>,
        progress: &Progress,
    ) -> Result<Vec<String>, Error> {
        let storage = storage(Step::Prepare);
        let repository = repository_dir(&self.state.sources(), unit, source);
        if let Some(commit) = &ready.record.commit
            && let Some(links) = found(&repository.join(commit))
        {
            return Ok(links);
        }
        progress.send_replace(format!("fetching {}", source.url));
        let remote = Repository::open(
            source,
            &unit.secrets,
            git::Policy {
                loopback: self.options.allow_loopback_git,
            },
            ready.private.path(),
            &self.state.known_hosts(),
            &ready.redactor,
        )
        .await?;
        let commit = match &ready.record.commit {
            Some(commit) => commit.clone(),
            None => remote.resolve().await?,
        };
        let place = repository.join(&commit);
        let path = source.path.as_deref().unwrap_or(USUAL_FILE);
        ready.record.root = place.join("tree");
        ready.record.file = ready.record.root.join(path);
        ready.record.commit = Some(commit.clone());
        self.state.save(unit.id, &ready.record).map_err(&storage)?;
        if let Some(links) = found(&place) {
            return Ok(links);
        }
        std::fs::create_dir_all(&repository).map_err(&storage)?;
        // A directory that is dropped half filled goes again; one that was left by a kill is
        // cleaned by its age.
        let new = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&repository)
            .map_err(&storage)?;
        let tree = new.path().join("tree");
        std::fs::create_dir(&tree).map_err(&storage)?;
        let links = remote.checkout(&commit, &tree).await?.links;
        let facts = serde_json::to_vec(&CheckoutFacts {
            links: links.clone(),
        })
        .map_err(|error| storage(error.into()))?;
        std::fs::write(new.path().join("facts.json"), facts).map_err(&storage)?;
        match std::fs::rename(new.path(), &place) {
            // Another unit was faster.
            Err(_) if found(&place).is_some() => Ok(links),
            other => other.map(|()| links).map_err(&storage),
        }
    }
}

/// The directory of a repository's checkouts; tenants do not share any.
fn repository_dir(sources: &Path, unit: &Unit, source: &GitSource) -> PathBuf {
    let name = format!("{}\0{}", unit.namespace, source.url);
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    let hex: String = hash.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    sources.join(hex)
}

/// The links of a checkout that is there as a whole; notes that it is in use.
fn found(place: &Path) -> Option<Vec<String>> {
    let facts = std::fs::File::open(place.join("facts.json")).ok()?;
    let facts: CheckoutFacts = serde_json::from_reader(facts).ok()?;
    // Only its age depends on it.
    let _ = std::fs::write(place.join("used"), b"");
    Some(facts.links)
}
