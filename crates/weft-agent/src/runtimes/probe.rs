//! Trying backends.

use std::time::Duration;

use futures::future::join_all;
use weft_types::RuntimeKind;
use weft_unit::{Probe, UnitRuntime};

use super::{Candidate, Kind, Shared, UnitRuntimes, pace};

/// How long a backend may take to find out whether it works.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// A backend, with what it can do here or what it lacks.
type Tried = (Candidate, Result<Probe, String>);

impl UnitRuntimes {
    /// Tries the backends of a kind for as long as the agent runs; `told` is called when one that
    /// was missing works.
    pub(crate) async fn watch(self, kind: RuntimeKind, told: impl Fn()) {
        let mut failures = 0;
        while let Some(outcome) = self.round(kind).await {
            if outcome.came_back {
                told();
            }
            failures = if outcome.is_well { 0 } else { failures + 1 };
            tokio::time::sleep(pace::wait(failures)).await;
        }
    }

    /// Tries them once; `None` for a kind that nothing runs.
    pub(super) async fn round(&self, kind: RuntimeKind) -> Option<Outcome> {
        let tried = self.shared.try_all(kind).await;
        self.shared.take(kind, tried)
    }
}

/// What a round of tries has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    /// Whether the backend that serves works and answered.
    pub(super) is_well: bool,
    pub(super) came_back: bool,
}

impl Shared {
    /// Tries those that may serve a kind: all at once at first, later those that are preferred to
    /// what serves it, and the others only when none of them works.
    async fn try_all(&self, kind: RuntimeKind) -> Vec<Tried> {
        let of_kind = self
            .candidates
            .iter()
            .filter(|it| it.runtime.kind() == kind);
        let (bound, is_tried, has_units) = {
            let kinds = self.kinds.lock();
            let state = kinds.get(&kind);
            let bound = state.and_then(|it| it.bound.as_ref().map(|it| it.name));
            let has_units = state.is_some_and(|it| it.users > 0);
            (bound, state.is_some_and(|it| it.is_tried), has_units)
        };
        let is_bound = |it: &&Candidate| Some(it.name) == bound;
        let may_serve = |it: &&Candidate| it.is_configured || is_bound(it);
        let all: Vec<Candidate> = of_kind.filter(may_serve).cloned().collect();
        let position = all.iter().position(|it| is_bound(&it));
        let (first, rest) = match position.filter(|_| is_tried) {
            Some(position) if has_units => (vec![all[position].clone()], Vec::new()),
            Some(position) => {
                let (first, rest) = all.split_at(position + 1);
                (first.to_vec(), rest.to_vec())
            }
            None => (all, Vec::new()),
        };
        let mut tried = try_each(first).await;
        if tried.iter().all(|(_, probe)| probe.is_err()) {
            tried.extend(try_each(rest).await);
        }
        tried
    }

    /// Takes in what a round of tries has found; `None` for a kind that is not known.
    fn take(&self, kind: RuntimeKind, tried: Vec<Tried>) -> Option<Outcome> {
        let mut kinds = self.kinds.lock();
        let state = kinds.get_mut(&kind)?;
        let before = state.shown();
        let answered = state.judge(tried);
        state.is_tried = true;
        let outcome = Outcome {
            is_well: state.works.is_some() && answered,
            came_back: before.0.is_none() && state.works.is_some(),
        };
        let has_changed = before != state.shown();
        if has_changed {
            state.say(kind);
        }
        drop(kinds);
        if has_changed {
            self.tell();
        }
        Some(outcome)
    }
}

impl Kind {
    /// What others see of it.
    fn shown(&self) -> (Option<Probe>, Option<&'static str>, Vec<String>, bool) {
        let bound = self.bound.as_ref().map(|it| it.name);
        (
            self.works.clone(),
            bound,
            self.missing.clone(),
            self.is_tried,
        )
    }

    /// Which backend serves from now on; whether the one that does has answered.
    fn judge(&mut self, tried: Vec<Tried>) -> bool {
        let bound = self.bound.as_ref().map(|it| it.name);
        let of_bound = tried.iter().find(|(it, _)| Some(it.name) == bound);
        let of_bound = of_bound.map(|(_, probe)| probe.clone());
        if let Some(Err(_)) = &of_bound
            && self.works.is_some()
            && self.misses + 1 < pace::MAX_MISSES
        {
            self.misses += 1;
            return false;
        }
        self.misses = 0;
        if let Some(probe) = of_bound.filter(|_| self.users > 0) {
            self.set(probe);
            return self.works.is_some();
        }
        let mut lacking = Vec::new();
        for (candidate, probe) in tried {
            match probe {
                Ok(probe) if candidate.is_configured => {
                    self.bound = Some(candidate);
                    self.set(Ok(probe));
                    return true;
                }
                Ok(_) => {}
                Err(missing) if lacking.contains(&missing) => {}
                Err(missing) => lacking.push(missing),
            }
        }
        // A unit may have come while they were tried: what has it stays.
        if self.users == 0 {
            self.bound = None;
        }
        self.works = None;
        self.missing = lacking;
        false
    }

    fn set(&mut self, probe: Result<Probe, String>) {
        match probe {
            Ok(probe) => {
                self.missing = probe.missing.iter().map(ToString::to_string).collect();
                self.works = Some(probe);
            }
            Err(missing) => {
                self.missing = vec![missing];
                self.works = None;
            }
        }
    }

    fn say(&self, kind: RuntimeKind) {
        match (&self.works, &self.bound) {
            (Some(probe), Some(bound)) => {
                tracing::info!(runtime = bound.name, version = probe.version, "{kind}");
            }
            _ => tracing::info!(missing = ?self.missing, "{kind} does not work here"),
        }
    }
}

async fn try_each(candidates: Vec<Candidate>) -> Vec<Tried> {
    let probes = candidates.iter().map(|it| tried(it.runtime.as_ref()));
    let probes = join_all(probes).await;
    candidates.into_iter().zip(probes).collect()
}

/// What a backend can do here, or what it lacks.
async fn tried(backend: &dyn UnitRuntime) -> Result<Probe, String> {
    let (kind, name) = (backend.kind(), backend.name());
    match tokio::time::timeout(PROBE_TIMEOUT, backend.probe()).await {
        Ok(probe) => probe.map_err(|missing| format!("{kind}: {missing}")),
        Err(_) => {
            let timeout = PROBE_TIMEOUT.as_secs();
            Err(format!("{kind}: {name} does not answer within {timeout} s"))
        }
    }
}
