//! Starting and ending machines.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Step, Unit};

use crate::cgroup::{self, Bounds, Hierarchies};
use crate::machine::{Card, Door, Exit, Link, Machine, Place};
use crate::prepare::{self, LOCK_PATIENCE};
use crate::record::{self, Lock, Record, Run};
use crate::shared::Shared;
use crate::user::User;
use crate::{fail, net, watch};

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(20);
/// How long QEMU may take to end by itself, which writes down what its disks' caches hold.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// How often the power button is pressed: guests that boot do not hear the first time.
const BUTTON_INTERVAL: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// How long the guest's agent may take to hear that it should power off.
const AGENT_PATIENCE: Duration = Duration::from_secs(2);

/// Starts a unit unless it runs.
pub(crate) async fn start(shared: &Arc<Shared>, unit: &Unit) -> Result<(), Error> {
    let progress = tokio::sync::watch::Sender::new(String::new());
    prepare::prepare(shared, unit, &progress).await?;
    let dir = shared.dir(unit.id);
    let Some(_lock) = Lock::take(&dir, Step::Start, LOCK_PATIENCE).await? else {
        return Err(removed_meanwhile());
    };
    let Some(mut record) = record::read(&dir) else {
        return Err(removed_meanwhile());
    };
    let Some(machine) = record.machine.clone() else {
        return Err(removed_meanwhile());
    };
    let process = shared.hypervisor.process(&dir);
    let is_up = |run: &Run| run.ended.is_none() && run.is_up;
    match process {
        Some(_) if record.run.as_ref().is_some_and(is_up) => {
            watch::ensure(shared, unit.id);
            return Ok(());
        }
        // Left by a start that was cut off, or by an end that was.
        Some(process) if !process.kill(KILL_PATIENCE).await => {
            let detail = "an earlier process of this machine cannot be killed";
            return Err(Error::new(Step::Start, Reason::RuntimeError, detail));
        }
        _ => release(&record).map_err(|e| fail::file(Step::Start, "clearing", &dir, &e))?,
    }
    let outcome = launch(shared, &dir, &mut record, &machine).await;
    if outcome.is_err() {
        if let Some(process) = shared.hypervisor.process(&dir) {
            process.kill(KILL_PATIENCE).await;
        }
        record.run = None;
        record::write(&dir, &record)?;
        release(&record).map_err(|e| fail::file(Step::Start, "clearing", &dir, &e))?;
    } else {
        watch::ensure(shared, unit.id);
    }
    outcome
}

fn removed_meanwhile() -> Error {
    let detail = "the unit was removed while it was started";
    Error::new(Step::Start, Reason::Cancelled, detail)
}

async fn launch(
    shared: &Arc<Shared>,
    dir: &Path,
    record: &mut Record,
    machine: &Machine,
) -> Result<(), Error> {
    let overhead = shared.hypervisor.overhead_bytes(machine).await;
    let bounds = Bounds {
        memory_bytes: machine.memory_bytes.saturating_add(overhead),
        cpu_millicores: record.cpu_millicores,
    };
    let unit = record.unit;
    let node = shared.options.node.as_str();
    record.groups = Hierarchies::find().groups(node, &unit.to_string());
    let started_ms = record::now_ms();
    record.run = Some(Run {
        started_ms,
        ..Run::default()
    });
    // What is made from here on is known to whoever comes after this process.
    record::write(dir, record)?;
    let entrances = cgroup::make(&record.groups, bounds).map_err(|e| {
        let detail = format!("making control groups: {e}");
        Error::new(Step::Start, Reason::RuntimeError, detail)
    })?;
    make_taps(unit, machine)?;
    let is_behind_user = |card: &Card| matches!(card.link, Link::User { .. });
    if machine.cards.iter().any(is_behind_user) {
        shared.filter.ensure().await;
    }
    let place = Place {
        dir,
        entrances: &entrances,
        user: User::of(unit),
    };
    let noted = Arc::clone(shared);
    let at = dir.to_owned();
    let ended = Box::new(move |exit: Exit| {
        let noting = record::change_run(&at, |run| {
            if run.started_ms == started_ms {
                run.exit = Some(exit);
            }
        });
        if let Err(error) = noting {
            tracing::warn!(%unit, %error, "how the machine's process ended is not written down");
        }
        noted.changed.notify_one();
    });
    shared.hypervisor.launch(machine, &place, ended).await?;
    let mut control = shared.hypervisor.connect(dir, Door::Calls).await?;
    let published = control.published().await?;
    record::change_run(dir, |run| {
        run.is_up = true;
        run.published = published;
    })?;
    Ok(())
}

fn make_taps(unit: UnitId, machine: &Machine) -> Result<(), Error> {
    for card in &machine.cards {
        if let Link::Bridge { tap, bridge } = &card.link {
            net::make_tap(tap, bridge, unit).map_err(|e| {
                let detail = format!("a tap device on bridge {bridge}: {e}");
                Error::new(Step::Start, Reason::NetworkError, detail)
            })?;
        }
    }
    Ok(())
}

/// Removes what a run has besides its process, which has ended.
pub(crate) fn release(record: &Record) -> io::Result<()> {
    let cards = record.machine.iter().flat_map(|machine| &machine.cards);
    for card in cards {
        if let Link::Bridge { tap, .. } = &card.link {
            net::remove_tap(tap)?;
        }
    }
    cgroup::remove(&record.groups)
}

/// Whether a run goes on, as written down.
fn is_active(dir: &Path) -> bool {
    let run = record::read(dir).and_then(|record| record.run);
    run.is_some_and(|run| run.ended.is_none())
}

/// Asks a machine to end, and kills it after `grace`.
pub(crate) async fn stop(shared: &Arc<Shared>, id: UnitId, grace: Duration) -> Result<(), Error> {
    let dir = shared.dir(id);
    // A start that is under way is waited for; it would be half a machine that is ended.
    match Lock::take(&dir, Step::Stop, LOCK_PATIENCE).await? {
        Some(_lock) if is_active(&dir) => {
            record::change_run(&dir, |run| run.is_stopping = true)?;
        }
        _ => return Ok(()),
    }
    watch::ensure(shared, id);
    let end = Instant::now() + grace;
    if !grace.is_zero() {
        ask(shared, &dir).await;
    }
    let mut pressed = Instant::now();
    while is_active(&dir) && Instant::now() < end {
        if pressed.elapsed() >= BUTTON_INTERVAL {
            press(shared, &dir).await;
            pressed = Instant::now();
        }
        tokio::time::sleep(LOOK_INTERVAL.min(end - Instant::now())).await;
    }
    kill(shared, &dir).await?;
    let gone = Instant::now() + KILL_PATIENCE;
    while is_active(&dir) {
        // The one who watched may be an agent that is gone by now.
        watch::ensure(shared, id);
        if Instant::now() >= gone {
            let detail = "the machine's process is gone, but its end is not written down";
            return Err(Error::new(Step::Stop, Reason::RuntimeError, detail));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Asks the guest to power off, in every way there is. None of them need work.
async fn ask(shared: &Shared, dir: &Path) {
    let Ok(mut control) = shared.hypervisor.connect(dir, Door::Calls).await else {
        return;
    };
    // A guest that stands still hears nothing.
    let _ = control.resume().await;
    let vitals = control.vitals().await;
    let _ = control.power_button().await;
    drop(control);
    if vitals.is_ok_and(|vitals| vitals.has_agent) {
        let _ = shared.hypervisor.agent(dir).power_off(AGENT_PATIENCE).await;
    }
}

async fn press(shared: &Shared, dir: &Path) {
    if let Ok(mut control) = shared.hypervisor.connect(dir, Door::Calls).await {
        let _ = control.power_button().await;
    }
}

/// Ends a machine's process, by its own means or by force.
pub(crate) async fn kill(shared: &Shared, dir: &Path) -> Result<(), Error> {
    let Some(process) = shared.hypervisor.process(dir) else {
        return Ok(());
    };
    let quit = async {
        let mut control = shared.hypervisor.connect(dir, Door::Calls).await?;
        control.quit().await
    };
    let asked = tokio::time::timeout(QUIT_PATIENCE, quit).await;
    if matches!(asked, Ok(Ok(()))) && process.gone_within(QUIT_PATIENCE).await {
        return Ok(());
    }
    if process.kill(KILL_PATIENCE).await {
        return Ok(());
    }
    let detail = format!("process {} of the machine cannot be killed", process.pid());
    Err(Error::new(Step::Stop, Reason::RuntimeError, detail))
}

/// Removes a unit and all that was made for it.
pub(crate) async fn remove(shared: &Arc<Shared>, id: UnitId, keep: bool) -> Result<(), Error> {
    let dir = shared.dir(id);
    let failed = |e: &io::Error| fail::file(Step::Remove, "removing", &dir, e);
    let Some(_lock) = Lock::take(&dir, Step::Remove, LOCK_PATIENCE).await? else {
        record::clear_removed(&dir).map_err(|e| failed(&e))?;
        clear_node(shared, &dir).await;
        return Ok(());
    };
    if let Some(process) = shared.hypervisor.process(&dir)
        && !process.kill(KILL_PATIENCE).await
    {
        let detail = format!("process {} of the machine cannot be killed", process.pid());
        return Err(Error::new(Step::Remove, Reason::RuntimeError, detail));
    }
    let record = record::read(&dir);
    if let Some(record) = &record {
        release(record).map_err(|e| failed(&e))?;
    }
    let retained = record.map(|record| record.retained).unwrap_or_default();
    shared
        .disks
        .remove(id, &retained, keep)
        .map_err(|e| failed(&e))?;
    record::remove_dir(&dir).map_err(|e| failed(&e))?;
    clear_node(shared, &dir).await;
    shared.changed.notify_one();
    Ok(())
}

/// The node's directory goes with its last unit, and with it what all machines have together.
async fn clear_node(shared: &Shared, unit: &Path) {
    let remove = |node: &Path| std::fs::remove_dir(node).is_ok();
    let is_last = || unit.parent().is_some_and(remove);
    shared.filter.remove_if(is_last).await;
}
