//! `weft agent`.

use weft_agent::{Agent, Config};

use super::serve::stop_signal;
use crate::args::{AgentArgs, Global, name_value};
use crate::cluster::could_not;
use crate::config;
use crate::exit::Failed;
use crate::output::Output;
use crate::service;

/// Runs a node until a signal ends it.
pub async fn agent(global: &Global, args: AgentArgs, output: &Output) -> Result<(), Failed> {
    // Huge pages would double the memory of an agent that waits; without them it only needs more.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let settings = config::load(global.config.as_deref())?.agent;
    let mut labels = settings.labels;
    let given = args
        .label
        .iter()
        .map(|label| {
            name_value(label)
                .ok_or_else(|| Failed::usage(format!("--label {label}: write NAME=VALUE")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    labels.extend(given);
    let mut storage_pools = settings.storage_pools;
    for pool in &args.storage_pool {
        let (name, dir) = name_value(pool)
            .ok_or_else(|| Failed::usage(format!("--storage-pool {pool}: write NAME=DIR")))?;
        storage_pools.insert(name, dir.into());
    }
    let threshold_percent = args.threshold.or(settings.threshold);
    if threshold_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(Failed::usage("config file: agent.threshold: not 1 to 100"));
    }
    let defaults = Config::new(
        args.data_dir
            .or(settings.data_dir)
            .unwrap_or_else(config::default_agent_dir),
    );
    let config = Config {
        join: args.join.or(settings.join),
        token: global.token.clone(),
        node_id: args.id.or(settings.id),
        labels,
        threshold_percent: threshold_percent.unwrap_or(defaults.threshold_percent),
        engine: args
            .engine
            .or(settings.engine)
            .map_or(defaults.engine, Into::into),
        storage_pools,
        cpu: args.cpu.or(settings.cpu),
        memory: args.memory.or(settings.memory),
        ..defaults
    };
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let agent = tokio::select! {
        started = Agent::start(config) => started.map_err(|error| could_not("the agent", &error))?,
        () = &mut stop => return Ok(()),
    };
    output.note(&format!(
        "{} is part of the cluster; Ctrl-C stops it",
        agent.id()
    ));
    service::ready();
    let ended = tokio::select! {
        ended = agent.ended() => Some(ended),
        () = &mut stop => None,
    };
    service::stopping();
    agent.shutdown().await;
    match ended {
        Some(error) => Err(could_not("the agent", &error)),
        None => Ok(()),
    }
}
