//! Preparing and starting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use weft_types::{ComposeSource, ComposeSpec, GitSource, Reason};
use weft_unit::{Error, Progress, Step, Unit, UnitWork};

use crate::cgroup::{Groups, Limits};
use crate::cli::{Call, is_reserved};
use crate::compose::{Compose, storage};
use crate::git::{self, Repository};
use crate::over::{self, Bound, built_image};
use crate::policy::{Model, Rights, Service};
use crate::redact::Redactor;
use crate::scratch::{write_docker_config, write_private};
use crate::state::{Record, ServiceRecord};
use crate::vet::{self, Ground};

const CONFIG_TIMEOUT: Duration = Duration::from_secs(60);
const PULL_TIMEOUT: Duration = Duration::from_secs(1_800);
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);
const UP_TIMEOUT: Duration = Duration::from_secs(600);
/// The Compose file of a repository that names none.
const USUAL_FILE: &str = "compose.yaml";

/// Beside a checkout: what is not in its files.
#[derive(Serialize, Deserialize)]
struct CheckoutFacts {
    links: Vec<String>,
}

/// A unit's file, read and checked.
pub(crate) struct Ready<'a> {
    spec: &'a ComposeSpec,
    record: Record,
    override_file: PathBuf,
    private: TempDir,
    redactor: Redactor,
}

/// Whether `git` can be run.
pub(crate) async fn has_git() -> bool {
    let mut command = tokio::process::Command::new("git");
    command.arg("--version");
    let ran = crate::child::run(command, Duration::from_secs(10)).await;
    ran.is_ok_and(|ran| ran.status.success())
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(Step::Prepare, Reason::InvalidSpec, detail)
}

fn spec_of(unit: &Unit) -> Result<&ComposeSpec, Error> {
    match &unit.work {
        UnitWork::Compose(spec) => Ok(spec),
        other => Err(invalid(format!("a {} unit is not Compose's", other.kind()))),
    }
}

/// Variables for the file; those that would change Compose itself are refused.
fn variables<'a>(
    unit: &'a Unit,
    spec: &'a ComposeSpec,
) -> Result<BTreeMap<&'a str, &'a str>, Error> {
    let all: BTreeMap<_, _> = spec
        .env
        .iter()
        .chain(&unit.secrets.env)
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    match all.keys().find(|name| is_reserved(name)) {
        Some(name) => Err(invalid(format!(
            "compose.env.{name}: changes Compose itself; call it something else"
        ))),
        None => Ok(all),
    }
}

/// A digest of everything that the checked model depends on beside the files.
fn digest_of(env: &BTreeMap<&str, &str>, profiles: &[String]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let pairs = env.iter().flat_map(|(name, value)| [*name, *value]);
    for text in pairs.chain(profiles.iter().map(String::as_str)) {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
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

impl Compose {
    fn rights(&self) -> Rights {
        Rights {
            privileged: self.options.allow_privileged,
        }
    }

    /// Makes everything that a start needs. Does nothing that was done already.
    pub(crate) async fn make_ready<'a>(
        &self,
        unit: &'a Unit,
        progress: &Progress,
    ) -> Result<Ready<'a>, Error> {
        let spec = spec_of(unit)?;
        let env = variables(unit, spec)?;
        let storage = storage(Step::Prepare);
        let dir = self.state.make_unit_dir(unit.id).map_err(&storage)?;
        let private = self.scratch.directory().map_err(&storage)?;
        let mut ready = Ready {
            spec,
            record: self.record_for(unit).await?,
            override_file: dir.join("weft.override.yaml"),
            private,
            redactor: Redactor::new(&unit.secrets),
        };
        let links = self.fetch(unit, &mut ready, progress).await?;
        let digest = digest_of(&env, &spec.profiles);
        let known = self.vetted.lock().get(&unit.id) == Some(&(unit.revision, digest));
        if known && !ready.record.services.is_empty() {
            return Ok(ready);
        }
        progress.send_replace("checking the application".to_owned());
        let model = self.check(unit, &mut ready, &links).await?;
        self.fetch_images(unit, &ready, &model, progress).await?;
        self.state.save(unit.id, &ready.record).map_err(&storage)?;
        self.vetted.lock().insert(unit.id, (unit.revision, digest));
        Ok(ready)
    }

    /// What is known of a unit; begun anew for another revision.
    async fn record_for(&self, unit: &Unit) -> Result<Record, Error> {
        let storage = storage(Step::Prepare);
        let known = self.state.record(unit.id).map_err(&storage)?;
        if let Some(record) = known.filter(|record| record.revision == unit.revision) {
            return Ok(record);
        }
        let record = Record {
            v: 1,
            revision: unit.revision,
            slot: self.state.take_slot(unit.id).await.map_err(&storage)?,
            commit: None,
            root: PathBuf::new(),
            file: PathBuf::new(),
            services: Vec::new(),
            limits: Limits {
                memory: unit.resources.memory.0,
                cpu: unit.resources.cpu.0,
            },
        };
        self.state.save(unit.id, &record).map_err(&storage)?;
        Ok(record)
    }

    /// Puts the Compose file and what belongs to it in place, and tells which of it are links.
    async fn fetch(
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

    /// Has Compose read the file, checks what it made of it and writes the override.
    async fn check(
        &self,
        unit: &Unit,
        ready: &mut Ready<'_>,
        links: &[String],
    ) -> Result<Model, Error> {
        let (root, file) = (ready.record.root.clone(), ready.record.file.clone());
        let ground = Ground { root: &root, links };
        vet::check_files(&ground, &file, self.rights())?;
        let call = self.call(unit, ready, Step::Prepare, false)?;
        let cli = self.cli(Step::Prepare).await?;
        let text = cli.run(&call, &["config"], CONFIG_TIMEOUT).await?;
        let text = String::from_utf8_lossy(&text);
        let mut model = vet::check_model(&ground, &text, self.rights())
            .map_err(|error| clean(&ready.redactor, error))?;
        model.activate(&ready.spec.profiles)?;
        ready.record.services = services_of(&model);
        let bound = self.bound(unit).await?;
        let node = self.options.node.as_str();
        let extra =
            over::override_file(unit, node, ready.record.slot, &model, &bound).map_err(invalid)?;
        crate::state::write_whole(&ready.override_file, extra.as_bytes())
            .map_err(storage(Step::Prepare))?;
        Ok(model)
    }

    /// How the unit's limits are put on it.
    async fn bound(&self, unit: &Unit) -> Result<Bound, Error> {
        let has_parent = self
            .has_parent
            .get_or_try_init(|| async {
                let by_files = self.engine.has_plain_groups(Step::Prepare).await?;
                Ok::<_, Error>(by_files && self.groups.is_some())
            })
            .await?;
        match has_parent {
            true => Ok(Bound::Parent(Groups::parent(unit.id))),
            false => Ok(Bound::Shared),
        }
    }

    /// Pulls the images that are missing and builds those that the file says how to.
    async fn fetch_images(
        &self,
        unit: &Unit,
        ready: &Ready<'_>,
        model: &Model,
        progress: &Progress,
    ) -> Result<(), Error> {
        let (mut pull, mut build) = (vec!["pull", "--quiet"], vec!["build"]);
        for (name, service) in &model.services {
            let built = built_image(unit.id, name, unit.revision);
            let (image, missing) = match (&service.build, &service.image) {
                (Some(_), _) => (built.as_str(), &mut build),
                (None, Some(image)) => (image.as_str(), &mut pull),
                (None, None) => {
                    return Err(invalid(format!(
                        "services.{name}: neither `image` nor `build`"
                    )));
                }
            };
            if !self.engine.has_image(Step::Prepare, image).await? {
                missing.push(name);
            }
        }
        let images = model
            .services
            .values()
            .filter_map(|service| service.image.as_deref());
        write_docker_config(ready.private.path(), unit.secrets.registry.as_ref(), images)
            .map_err(storage(Step::Prepare))?;
        let cli = self.cli(Step::Prepare).await?;
        let call = self.call(unit, ready, Step::Prepare, true)?;
        if pull.len() > 2 {
            progress.send_replace(format!("pulling images of {}", pull[2..].join(", ")));
            cli.run(&call, &pull, PULL_TIMEOUT).await?;
        }
        if build.len() > 1 {
            progress.send_replace(format!("building images of {}", build[1..].join(", ")));
            cli.run(&call, &build, BUILD_TIMEOUT).await?;
        }
        Ok(())
    }

    /// What all calls of Compose for a unit have in common.
    fn call<'a>(
        &self,
        unit: &'a Unit,
        ready: &'a Ready<'a>,
        step: Step,
        with_override: bool,
    ) -> Result<Call<'a>, Error> {
        let mut files = vec![ready.record.file.as_path()];
        if with_override {
            files.push(&ready.override_file);
        }
        Ok(Call {
            step,
            docker_host: self.engine.host(),
            project: over::project(unit.id),
            directory: ready.record.file.parent().unwrap_or(&ready.record.root),
            files,
            env: variables(unit, ready.spec)?,
            profiles: &ready.spec.profiles,
            private: ready.private.path(),
            redactor: &ready.redactor,
        })
    }

    /// Starts what does not run.
    pub(crate) async fn bring_up(&self, unit: &Unit) -> Result<(), Error> {
        let progress = Progress::new(String::new());
        let ready = self.make_ready(unit, &progress).await?;
        if matches!(self.bound(unit).await?, Bound::Parent(_)) {
            self.apply_limits(unit.id, &ready.record, Step::Start)?;
        }
        let before = self.engine.parts(Step::Start, unit.id, false).await?;
        if self.is_up(unit, &ready.record, Step::Start).await? {
            return Ok(());
        }
        let call = self.call(unit, &ready, Step::Start, true)?;
        let cli = self.cli(Step::Start).await?;
        let args = ["up", "--detach", "--no-build", "--remove-orphans"];
        match cli.run(&call, &args, UP_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let before: Vec<_> = before.into_iter().map(|part| part.id).collect();
                // An image may be gone since: the next attempt looks at everything again.
                self.vetted.lock().remove(&unit.id);
                self.undo_start(unit, &before).await?;
                Err(error)
            }
        }
    }

    /// Removes the containers that a failed start has made.
    async fn undo_start(&self, unit: &Unit, before: &[String]) -> Result<(), Error> {
        for part in self.engine.parts(Step::Start, unit.id, false).await? {
            if !before.contains(&part.id) {
                self.engine.remove_container(Step::Start, &part.id).await?;
            }
        }
        Ok(())
    }
}

fn services_of(model: &Model) -> Vec<ServiceRecord> {
    let stages = model.stages();
    let record = |(name, service): (&String, &Service)| ServiceRecord {
        name: name.clone(),
        count: service.replicas,
        stage: stages.get(name.as_str()).copied().unwrap_or(0),
    };
    model.services.iter().map(record).collect()
}

/// The links of a checkout that is there as a whole; notes that it is in use.
fn found(place: &Path) -> Option<Vec<String>> {
    let facts = std::fs::File::open(place.join("facts.json")).ok()?;
    let facts: CheckoutFacts = serde_json::from_reader(facts).ok()?;
    // Only its age depends on it.
    let _ = std::fs::write(place.join("used"), b"");
    Some(facts.links)
}

/// An error in whose sentence no secrets are.
fn clean(redactor: &Redactor, mut error: Error) -> Error {
    error.detail = redactor.clean(&error.detail);
    error
}
