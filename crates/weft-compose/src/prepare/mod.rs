//! Preparing: the file in place, checked, its images there.

mod fetch;
mod images;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ring::digest;
use tempfile::TempDir;
use weft_compose_rules::policy::{Model, Rights, Service};
use weft_types::{ComposeSpec, Reason};
use weft_unit::{Error, Progress, Step, Unit, UnitWork};

use crate::cgroup::{Groups, Limits};
use crate::cli::{Call, is_reserved};
use crate::compose::{Compose, storage};
use crate::over::{self, Bound};
use crate::redact::Redactor;
use crate::state::{Record, ServiceRecord};
use crate::vet::{self, Ground};

const CONFIG_TIMEOUT: Duration = Duration::from_secs(60);

/// A unit's file, read and checked.
pub(crate) struct Ready<'a> {
    spec: &'a ComposeSpec,
    pub(crate) record: Record,
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

/// What a unit's file may ask for.
fn rights(unit: &Unit) -> Rights {
    Rights {
        privileged: unit.may_be_privileged,
    }
}

/// A digest of everything that the checked model depends on beside the files.
fn digest_of(env: &BTreeMap<&str, &str>, profiles: &[String], rights: Rights) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[u8::from(rights.privileged)]);
    let pairs = env.iter().flat_map(|(name, value)| [*name, *value]);
    for text in pairs.chain(profiles.iter().map(String::as_str)) {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

impl Compose {
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
        let digest = digest_of(&env, &spec.profiles, rights(unit));
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

    /// Has Compose read the file, checks what it made of it and writes the override.
    async fn check(
        &self,
        unit: &Unit,
        ready: &mut Ready<'_>,
        links: &[String],
    ) -> Result<Model, Error> {
        let (root, file) = (ready.record.root.clone(), ready.record.file.clone());
        let ground = Ground { root: &root, links };
        vet::check_files(&ground, &file, rights(unit))?;
        let call = self.call(unit, ready, Step::Prepare, false)?;
        let cli = self.cli(Step::Prepare).await?;
        let text = cli.run(&call, &["config"], CONFIG_TIMEOUT).await?;
        let text = String::from_utf8_lossy(&text);
        let mut model = vet::check_model(&ground, &text, rights(unit))
            .map_err(|error| clean(&ready.redactor, error))?;
        model.activate(&ready.spec.profiles).map_err(vet::refused)?;
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
    pub(crate) async fn bound(&self, unit: &Unit) -> Result<Bound, Error> {
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

    /// What all calls of Compose for a unit have in common.
    pub(crate) fn call<'a>(
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

/// An error in whose sentence no secrets are.
fn clean(redactor: &Redactor, mut error: Error) -> Error {
    error.detail = redactor.clean(&error.detail);
    error
}
