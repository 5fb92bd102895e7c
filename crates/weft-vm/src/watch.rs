//! Watching a machine: its console is read, its address found out, and judged whether it has
//! booted; how it ended is written down and what it held is let go of.
//!
//! Of several agents over the same directory one watches; the lock that says which is gone with it,
//! and the next one goes on.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_types::{Reason, UnitId};
use weft_unit::{Error, Step};

use crate::boot::{self, Facts, Verdict};
use crate::console::{self, Console};
use crate::guest;
use crate::machine::{Control, Door, Link, State};
use crate::prepare::LOCK_PATIENCE;
use crate::record::{self, Ended, Lock, Record, Run};
use crate::shared::Shared;
use crate::{cgroup, fail, life, net};

/// How often the console is read while the guest boots, and later.
const BOOTING_INTERVAL: Duration = Duration::from_millis(50);
const RUNNING_INTERVAL: Duration = Duration::from_millis(200);
/// How often the address is asked for, while it is not known and later.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(1);
const ADDRESS_CHECK_INTERVAL: Duration = Duration::from_secs(20);
const AGENT_PATIENCE: Duration = Duration::from_secs(3);
/// How often is tried to become the one who watches, or to connect again.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// How long the end of the process may take to be written down by whoever started it.
const EXIT_PATIENCE: Duration = Duration::from_millis(300);
/// How much of the console is told with a failure.
const EVIDENCE_LINES: usize = 25;

/// Sees that a unit is watched by this process, or that somebody else does.
pub(crate) fn ensure(shared: &Arc<Shared>, id: UnitId) {
    let mut watchers = shared.watchers.lock();
    watchers.retain(|_, watcher| !watcher.is_finished());
    watchers.entry(id).or_insert_with(|| {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let dir = shared.dir(id);
            if let Err(error) = watch(&shared, &dir).await {
                tracing::warn!(unit = %id, %error, "the machine is not watched");
            }
            shared.changed.notify_one();
        })
    });
}

/// Why a machine is not watched any more.
enum End {
    /// The guest or its process ended.
    Over(State),
    /// It did not boot.
    NotBooted(String),
}

fn active(dir: &Path) -> Option<(Record, Run)> {
    let record = record::read(dir)?;
    let run = record.run.clone().filter(|run| run.ended.is_none())?;
    Some((record, run))
}

async fn watch(shared: &Arc<Shared>, dir: &Path) -> Result<(), Error> {
    let failed = |e: std::io::Error| fail::file(Step::Run, "watching", dir, &e);
    let _alone = loop {
        let Some(_) = active(dir) else {
            return Ok(());
        };
        match Lock::try_take(dir, "watch.lock") {
            Ok(Some(lock)) => break lock,
            Ok(None) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    };
    let console = Console::open(dir, shared.options.console_bytes).map_err(failed)?;
    let Some((record, run)) = active(dir) else {
        return Ok(());
    };
    let mut watcher = Watcher {
        shared: Arc::clone(shared),
        dir: dir.to_owned(),
        console,
        told_paused: run.is_paused,
        record,
        run,
        failure: None,
        asked: None,
        looked: Instant::now(),
    };
    let end = loop {
        if shared.hypervisor.process(dir).is_none() {
            break End::Over(State::Broken("its process is gone".to_owned()));
        }
        if let Ok(mut control) = shared.hypervisor.connect(dir, Door::Watch).await {
            // An error is a connection that broke; the machine may go on.
            if let Ok(end) = watcher.follow(control.as_mut()).await {
                break end;
            }
        }
        if active(dir).is_none() {
            return Ok(());
        }
        tokio::time::sleep(RETRY_INTERVAL / 10).await;
    };
    watcher.finish(end).await
}

struct Watcher {
    shared: Arc<Shared>,
    dir: PathBuf,
    console: Console,
    record: Record,
    run: Run,
    /// Whether it stands still, as the record said when it was last looked at: before the machine
    /// was.
    told_paused: bool,
    /// Why it gets no further, as it said.
    failure: Option<&'static str>,
    /// When the address was last asked for.
    asked: Option<Instant>,
    /// When the machine was last looked at.
    looked: Instant,
}

impl Watcher {
    async fn follow(&mut self, control: &mut dyn Control) -> Result<End, Error> {
        loop {
            let vitals = control.vitals().await?;
            self.read(control).await?;
            self.note_pause(vitals.state == State::Paused);
            if !matches!(vitals.state, State::Running | State::Paused) {
                // What it printed between the two calls.
                self.read(control).await?;
                return Ok(End::Over(vitals.state));
            }
            if vitals.state == State::Running {
                self.find_address(vitals.has_agent).await;
            }
            if let Some(why) = self.judge(false) {
                self.read(control).await?;
                return Ok(End::NotBooted(why));
            }
            self.write_down()?;
            let interval = if self.run.has_booted {
                RUNNING_INTERVAL
            } else {
                BOOTING_INTERVAL
            };
            control.happened(interval).await?;
        }
    }

    async fn read(&mut self, control: &mut dyn Control) -> Result<(), Error> {
        let bytes = control.console().await?;
        let heard = self.console.take(&bytes, record::now_ms());
        let heard = heard.map_err(|e| fail::file(Step::Run, "writing", &self.dir, &e))?;
        self.failure = self.failure.or(heard.failure);
        if let Some(address) = heard.address {
            self.record.prints_address = true;
            self.run.address = Some(address);
        }
        Ok(())
    }

    fn note_pause(&mut self, is_paused: bool) {
        let since = self.looked.elapsed();
        self.looked = Instant::now();
        self.run.is_paused = is_paused;
        if is_paused {
            self.run.paused_ms += since.as_millis() as u64;
        }
    }

    async fn find_address(&mut self, has_agent: bool) {
        let interval = match self.run.address {
            Some(_) => ADDRESS_CHECK_INTERVAL,
            None => ADDRESS_INTERVAL,
        };
        if self.asked.is_some_and(|asked| asked.elapsed() < interval) {
            return;
        }
        self.asked = Some(Instant::now());
        let found = match self.by_agent(has_agent).await {
            Some(address) => Some(address),
            None if self.run.address.is_none() => self.by_neighbours(),
            None => None,
        };
        if found.is_some() {
            self.run.address = found;
        }
    }

    async fn by_agent(&mut self, has_agent: bool) -> Option<IpAddr> {
        if !has_agent {
            return None;
        }
        let agent = self.shared.hypervisor.agent(&self.dir);
        let interfaces = agent.interfaces(AGENT_PATIENCE).await.ok()?;
        self.record.has_agent = true;
        let machine = self.record.machine.as_ref()?;
        let macs: Vec<_> = machine.cards.iter().map(|card| card.mac.as_str()).collect();
        guest::address_of(&interfaces, &macs)
    }

    fn by_neighbours(&self) -> Option<IpAddr> {
        let cards = self
            .record
            .machine
            .iter()
            .flat_map(|machine| &machine.cards);
        cards.into_iter().find_map(|card| {
            let Link::Bridge { bridge, .. } = &card.link else {
                return None;
            };
            if let Some((address, _)) = card.address {
                net::ask_for(address);
            }
            net::seen_address(&card.mac, bridge)
        })
    }

    /// Judges a guest that boots; tells why when it has failed to.
    fn judge(&mut self, has_ended: bool) -> Option<String> {
        if self.run.has_booted || self.run.is_stopping {
            return None;
        }
        let age_ms = record::now_ms().saturating_sub(self.run.started_ms);
        let verdict = boot::judge(&Facts {
            age: Duration::from_millis(age_ms.saturating_sub(self.run.paused_ms)),
            timeout: Duration::from_millis(self.record.boot_timeout_ms),
            has_address: self.run.address.is_some(),
            has_agent: self.record.has_agent,
            prints_address: self.record.prints_address,
            failure: self.failure,
            has_ended,
        });
        match verdict {
            Verdict::Booting => None,
            Verdict::Booted => {
                self.run.has_booted = true;
                None
            }
            Verdict::Failed(why) => Some(why),
        }
    }

    /// Writes down what was found out, when it is new; what others wrote meanwhile stays.
    fn write_down(&mut self) -> Result<(), Error> {
        let (ours, known, told_paused) = (&self.run, &self.record, self.told_paused);
        let mut now = None;
        let is_new = record::change_record(&self.dir, |record| {
            let told = (known.has_agent, known.prints_address);
            let mut is_new = (record.has_agent, record.prints_address) != told;
            (record.has_agent, record.prints_address) = told;
            if let Some(run) = record
                .run
                .as_mut()
                .filter(|r| r.started_ms == ours.started_ms)
            {
                let before = run.clone();
                run.address = ours.address;
                run.has_booted = ours.has_booted;
                // Otherwise somebody has paused or resumed it, perhaps after it was looked at.
                if run.is_paused == told_paused {
                    run.is_paused = ours.is_paused;
                }
                // Alone it is not worth a write: it grows all the time.
                is_new |= *run != before;
                run.paused_ms = ours.paused_ms;
                now = Some(run.clone());
            }
            is_new
        })?;
        if let Some(now) = now {
            self.run.is_stopping = now.is_stopping;
            self.told_paused = now.is_paused;
        }
        if is_new {
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    /// Writes down how a run ended, unless it is not the last one any more, and lets go of what it
    /// held.
    async fn finish(mut self, end: End) -> Result<(), Error> {
        let _ = self.console.finish(record::now_ms());
        let Some(_lock) = Lock::take(&self.dir, Step::Run, LOCK_PATIENCE).await? else {
            return Ok(());
        };
        let is_ours = |run: &Run| run.started_ms == self.run.started_ms;
        if !active(&self.dir).is_some_and(|(_, run)| is_ours(&run)) {
            return Ok(());
        }
        life::kill(&self.shared, &self.dir).await?;
        let deadline = Instant::now() + EXIT_PATIENCE;
        let (record, run) = loop {
            let Some((record, run)) = active(&self.dir) else {
                return Ok(());
            };
            if run.exit.is_some() || Instant::now() > deadline {
                break (record, run);
            }
            tokio::time::sleep(BOOTING_INTERVAL / 5).await;
        };
        self.run.is_stopping = run.is_stopping;
        let ended = self.ended(&end, &record, &run);
        life::release(&record).map_err(|e| fail::file(Step::Run, "clearing", &self.dir, &e))?;
        record::change_run(&self.dir, |run| run.ended = Some(ended))?;
        self.shared.changed.notify_one();
        Ok(())
    }

    fn ended(&mut self, end: &End, record: &Record, run: &Run) -> Ended {
        let exit = run.exit.clone().unwrap_or_default();
        if matches!(end, End::Over(State::Panicked)) {
            self.failure = self.failure.or(Some(console::PANICKED));
        }
        let was_killed_for_memory = cgroup::was_oom_killed(&record.groups);
        let (reason, detail) = if run.is_stopping {
            (None, "stopped".to_owned())
        } else if was_killed_for_memory {
            let detail = "the machine's process needed more memory than it may have; \
                          raise `resources.memory` or lower `vm.memory`";
            (Some(Reason::OomKilled), detail.to_owned())
        } else if let End::NotBooted(why) = end {
            (Some(Reason::VmBootFailed), why.clone())
        } else if let Some(why) = self.judge(true) {
            (Some(Reason::VmBootFailed), why)
        } else {
            match end {
                End::Over(State::Off) => (None, "the guest shut itself down".to_owned()),
                End::Over(State::Panicked) => (
                    Some(Reason::RuntimeError),
                    "the guest's kernel panicked".to_owned(),
                ),
                End::Over(State::Broken(how)) => (Some(Reason::RuntimeError), how.clone()),
                _ => (Some(Reason::RuntimeError), "it ended".to_owned()),
            }
        };
        let detail = match reason {
            Some(_) => self.with_evidence(detail, &exit.said),
            None => detail,
        };
        Ended {
            signal: exit.signal,
            reason,
            detail,
            at_ms: record::now_ms(),
        }
    }

    fn with_evidence(&self, mut detail: String, said: &str) -> String {
        if let Some(last) = said.lines().last() {
            detail.push_str(&format!("; QEMU says {last:?}"));
        }
        let lines = console::tail(&self.dir, EVIDENCE_LINES);
        if lines.is_empty() {
            detail.push_str("; nothing was printed to the console");
            return detail;
        }
        detail.push_str("; the console ends with:\n");
        detail.push_str(&lines.join("\n"));
        detail
    }
}
