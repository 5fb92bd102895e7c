//! Stopped, started, restarted, scaled, deleted.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use weft_api::{WorkloadPatch, WorkloadView};
use weft_client::Client;
use weft_types::{Reason, Retain};

use super::await_state::{Goal, await_service};
use super::documents::read;
use super::need_service;
use crate::args::{DeleteArgs, Global, NamesArgs, PauseArgs, ScaleArgs};
use crate::exit::{FAILED, Failed};
use crate::output::Output;

/// Nothing of the services runs any more; they stay known.
pub async fn stop(
    client: &Client,
    args: &NamesArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let patch = WorkloadPatch {
        stopped: Some(true),
        ..WorkloadPatch::default()
    };
    change_all(client, args, &patch, Goal::Stopped, global, output).await
}

/// Services that were stopped run again.
pub async fn start(
    client: &Client,
    args: &NamesArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let patch = WorkloadPatch {
        stopped: Some(false),
        ..WorkloadPatch::default()
    };
    change_all(client, args, &patch, Goal::Ready, global, output).await
}

/// Every unit is replaced.
pub async fn restart(
    client: &Client,
    args: &NamesArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let patch = WorkloadPatch {
        restart: true,
        ..WorkloadPatch::default()
    };
    change_all(client, args, &patch, Goal::Settled, global, output).await
}

/// Units stand still, or go on.
pub async fn set_paused(
    client: &Client,
    args: &PauseArgs,
    is_paused: bool,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let set = async |id: &str| {
        client
            .set_workload_paused(id, args.instance, is_paused)
            .await
    };
    let changed = each(client, &args.names, global, set).await?;
    if output.is_structured() {
        return output.value(&changed);
    }
    let what = if is_paused { "paused" } else { "resumed" };
    for view in &changed {
        match args.instance {
            Some(unit) => output.line(&format!("{}  unit {unit} {what}", view.name))?,
            None => output.line(&format!("{}  {what}", view.name))?,
        }
    }
    Ok(())
}

/// Changes services by their names, one after the other.
async fn each(
    client: &Client,
    names: &[String],
    global: &Global,
    change: impl AsyncFn(&str) -> Result<WorkloadView, weft_client::Error>,
) -> Result<Vec<WorkloadView>, Failed> {
    let mut changed = Vec::with_capacity(names.len());
    for name in names {
        let found = need_service(client, name, global).await?;
        changed.push(change(&found.id).await?);
    }
    Ok(changed)
}

async fn change_all(
    client: &Client,
    args: &NamesArgs,
    patch: &WorkloadPatch,
    goal: Goal,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let patched = async |id: &str| client.patch_workload(id, patch).await;
    let changed = each(client, &args.names, global, patched).await?;
    finish(
        client,
        &changed,
        args.wait.then_some(args.timeout),
        goal,
        output,
    )
    .await
}

/// How many replicas services have, in place of a number.
const AUTO: &str = "auto";

/// Services have this many replicas from now on, or as many as without anybody's number.
pub async fn scale(
    client: &Client,
    args: &ScaleArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let wanted = pairs(&args.services)?;
    let mut changed = Vec::new();
    for (name, replicas) in wanted {
        let found = need_service(client, &name, global).await?;
        let patch = WorkloadPatch {
            scale: replicas,
            unscale: replicas.is_none(),
            ..WorkloadPatch::default()
        };
        changed.push(client.patch_workload(&found.id, &patch).await?);
    }
    let wait = args.wait.then_some(args.timeout);
    finish(client, &changed, wait, Goal::Ready, output).await
}

/// `web=3 api=auto`, or `web 3`.
fn pairs(words: &[String]) -> Result<Vec<(String, Option<u32>)>, Failed> {
    let malformed = |word: &str| {
        Failed::usage(format!("{word:?} does not say how many replicas"))
            .with_next("write NAME=N, as in web=3, or NAME=auto")
    };
    let number = |count: &str| match count {
        AUTO => Ok(None),
        count => count.parse().map(Some),
    };
    if let [name, count] = words
        && !name.contains('=')
    {
        let count = number(count).map_err(|_| malformed(count))?;
        return Ok(vec![(name.clone(), count)]);
    }
    let pair = |word: &String| {
        let (name, count) = word.split_once('=').ok_or_else(|| malformed(word))?;
        let count = number(count).map_err(|_| malformed(word))?;
        Ok((name.to_owned(), count))
    };
    words.iter().map(pair).collect()
}

async fn finish(
    client: &Client,
    changed: &[WorkloadView],
    wait: Option<Duration>,
    goal: Goal,
    output: &Output,
) -> Result<(), Failed> {
    if output.is_structured() {
        output.value(&changed)?;
    } else {
        for view in changed {
            let replicas = view.replicas;
            output.line(&format!(
                "{}  {}  {}/{} ready",
                view.name, view.state, replicas.ready, replicas.wanted
            ))?;
        }
    }
    match wait {
        Some(timeout) => {
            for view in changed {
                await_service(client, &view.id, goal, Some(timeout), output).await?;
            }
        }
        None => {
            if let Some(view) = changed.first() {
                output.note(&format!("next: weft get {}", view.name));
            }
        }
    }
    Ok(())
}

/// Deletes services with everything of theirs.
pub async fn delete(
    client: &Client,
    args: &DeleteArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let mut found = Vec::new();
    for name in names(args, global)? {
        found.push(need_service(client, &name, global).await?);
    }
    if args.dry_run {
        return show_deletion(&found, output);
    }
    for view in &found {
        confirm(view, args.yes)?;
    }
    for view in &found {
        client.delete_workload(&view.id).await?;
        output.note(&format!("{} is being deleted", view.name));
        for volume in retained(view) {
            output.note(&format!(
                "{}: the data of {volume} stays on its node",
                view.name
            ));
        }
    }
    if args.wait {
        for view in &found {
            await_service(client, &view.id, Goal::Gone, Some(args.timeout), output).await?;
        }
    }
    if output.is_structured() {
        output.value(&found)?;
    }
    Ok(())
}

/// What would go, and what would stay.
fn show_deletion(found: &[WorkloadView], output: &Output) -> Result<(), Failed> {
    if output.is_structured() {
        return output.value(&found);
    }
    for view in found {
        output.line(&format!("{}  would be deleted", view.name))?;
        for unit in &view.units {
            output.line(&format!("  - unit {}: {}", unit.number, unit.node))?;
        }
        for volume in retained(view) {
            output.line(&format!("  the data of {volume} stays on its node"))?;
        }
    }
    Ok(())
}

fn names(args: &DeleteArgs, global: &Global) -> Result<Vec<String>, Failed> {
    if args.files.is_empty() {
        return Ok(args.names.clone());
    }
    let documents = read(&args.files, false, global)?;
    let named = documents
        .into_iter()
        .filter(|document| document.workload.run == weft_types::Run::Service);
    Ok(named
        .filter_map(|document| document.workload.name.map(|name| name.to_string()))
        .collect())
}

/// What stays of a service that is deleted.
fn retained(view: &WorkloadView) -> Vec<String> {
    let Some(spec) = &view.spec else {
        return Vec::new();
    };
    let volumes = spec
        .container
        .iter()
        .flat_map(|container| &container.volumes);
    let volumes = volumes
        .filter(|volume| volume.class.is_some() && volume.retain == Retain::Retain)
        .map(|volume| volume.name.clone().unwrap_or_else(|| volume.target.clone()));
    let disks = spec.vm.iter().flat_map(|vm| &vm.disks);
    let disks = disks
        .filter(|disk| disk.retain == Retain::Retain)
        .map(|disk| disk.name.clone());
    volumes.chain(disks).collect()
}

/// Asks a person; without one to ask, `--yes` must have been said.
fn confirm(view: &WorkloadView, is_sure: bool) -> Result<(), Failed> {
    if is_sure {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failed::usage(format!(
            "{} would be deleted, and nobody can be asked",
            view.name
        ))
        .with_next(format!("weft delete --yes {}", view.name)));
    }
    eprint!(
        "delete {} with its {} units? [y/N] ",
        view.name, view.replicas.existing
    );
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failed::new(
        FAILED,
        "not-confirmed",
        Reason::Cancelled,
        format!("{} stays", view.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_written_as_pairs_or_as_one_name_and_a_number() {
        let pairs = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            pairs(&words).map_err(|failed| failed.code)
        };
        assert_eq!(pairs(&["web=3"]), Ok(vec![("web".into(), Some(3))]));
        assert_eq!(
            pairs(&["web=auto", "api=0"]),
            Ok(vec![("web".into(), None), ("api".into(), Some(0))])
        );
        assert_eq!(pairs(&["web", "3"]), Ok(vec![("web".into(), Some(3))]));
        for bad in [&["web"][..], &["web=x"], &["web", "-1"], &["web=1", "api"]] {
            assert_eq!(pairs(bad), Err(crate::exit::USAGE), "{bad:?}");
        }
    }
}
