//! `weft agent`.

use weft_agent::{Agent, Config};
use weft_types::Money;

use super::serve::stop_signal;
use crate::args::{AgentArgs, Global, NodeArgs, name_value};
use crate::cluster::could_not;
use crate::config::{self, AgentSettings};
use crate::exit::Failed;
use crate::output::Output;
use crate::service;

/// What agents do, alone and within `weft up`: flags beat the config file.
///
/// # Errors
/// When the config file has a price that no machine has.
pub fn of_node(
    args: NodeArgs,
    settings: &AgentSettings,
    defaults: Config,
) -> Result<Config, Failed> {
    let price_per_hour = args.price_per_hour.or(settings.price_per_hour);
    if price_per_hour.is_some_and(|price| price > Money::MAX_PRICE_PER_HOUR) {
        let most = Money::MAX_PRICE_PER_HOUR;
        let detail = format!("config file: agent.price_per_hour: more than {most}");
        return Err(Failed::usage(detail));
    }
    let engine = args.engine.or(settings.engine);
    let fetch_from = [args.fetch_from, settings.fetch_from.clone()];
    Ok(Config {
        engine: engine.map_or(defaults.engine, Into::into),
        fetch_from: fetch_from
            .into_iter()
            .find(|nets| !nets.is_empty())
            .unwrap_or_default(),
        on_shutdown: args
            .on_shutdown
            .or(settings.on_shutdown)
            .map_or(defaults.on_shutdown, Into::into),
        peer_listen: args
            .peer_listen
            .or(settings.peer_listen)
            .unwrap_or(defaults.peer_listen),
        price_per_hour: price_per_hour.unwrap_or(defaults.price_per_hour),
        ..defaults
    })
}

/// Runs a node until a signal ends it.
pub async fn agent(global: &Global, args: AgentArgs, output: &Output) -> Result<(), Failed> {
    // Huge pages would double the memory of an agent that waits; without them it only needs more.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let settings = config::load(global.config.as_deref())?.agent;
    let mut labels = settings.labels.clone();
    let given = args
        .label
        .iter()
        .map(|label| {
            name_value(label)
                .ok_or_else(|| Failed::usage(format!("--label {label}: write NAME=VALUE")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    labels.extend(given);
    let mut storage_pools = settings.storage_pools.clone();
    for pool in &args.storage_pool {
        let (name, dir) = name_value(pool)
            .ok_or_else(|| Failed::usage(format!("--storage-pool {pool}: write NAME=DIR")))?;
        storage_pools.insert(name, dir.into());
    }
    let threshold_percent = args.threshold.or(settings.threshold);
    if threshold_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(Failed::usage("config file: agent.threshold: not 1 to 100"));
    }
    let data_dir = args.data_dir.or_else(|| settings.data_dir.clone());
    let data_dir = data_dir.unwrap_or_else(config::default_agent_dir);
    let defaults = of_node(args.node, &settings, Config::new(data_dir))?;
    let config = Config {
        join: args.join.or(settings.join),
        token: global.token.clone(),
        node_id: args.id.or(settings.id),
        labels,
        threshold_percent: threshold_percent.unwrap_or(defaults.threshold_percent),
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
