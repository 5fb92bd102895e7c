//! `weft up` and `weft server`.

use std::net::SocketAddr;
use std::time::Duration;

use weft_server::{Config, NatsSettings, RedisSettings};
use weft_types::parse_duration;

use super::agent::of_node;
use crate::args::{Global, ServeArgs, ServerArgs, UpArgs};
use crate::cluster::{Cluster, could_not};
use crate::config::{self, ServerSettings};
use crate::exit::Failed;
use crate::output::Output;
use crate::service;

/// Where a server listens unless told otherwise.
const DEFAULT_LISTEN: &str = "0.0.0.0:7700";

/// Runs a server and agents on this machine until a signal ends them.
pub async fn up(global: &Global, args: UpArgs, output: &Output) -> Result<(), Failed> {
    let config = server_config(global, &args.serve)?;
    let stop = stop_signal()?;
    let settings = config::load(global.config.as_deref())?.agent;
    let agents = weft_agent::Config::new(config.data_dir.join("agents"));
    let agents = of_node(args.node, &settings, agents)?;
    if args.nodes > 1 && agents.peer_listen.port() != 0 {
        let message = format!("--peer-listen: {} agents cannot share a port", args.nodes);
        return Err(Failed::usage(message).with_next("give port 0, or --nodes 1"));
    }
    let cluster = Cluster::start(config, args.nodes, agents).await?;
    announce(&cluster, args.nodes, output).await?;
    service::ready();
    stop.await;
    service::stopping();
    output.note("stopping");
    cluster.shutdown().await;
    Ok(())
}

/// Runs a server alone until a signal ends it.
pub async fn server(global: &Global, args: ServerArgs, output: &Output) -> Result<(), Failed> {
    let config = server_config(global, &args.serve)?;
    let stop = stop_signal()?;
    let none = weft_agent::Config::new(config.data_dir.join("agents"));
    let cluster = Cluster::start(config, 0, none).await?;
    announce(&cluster, 0, output).await?;
    service::ready();
    stop.await;
    service::stopping();
    output.note("stopping");
    cluster.shutdown().await;
    Ok(())
}

/// Tells what a person does next: use it, and join machines.
async fn announce(cluster: &Cluster, nodes: u32, output: &Output) -> Result<(), Failed> {
    let server = cluster.server();
    let token = server
        .join_token(1)
        .await
        .map_err(|error| could_not("a join token", &error))?;
    let admin = cluster.admin_file();
    if output.is_structured() {
        return output.stream_value(&serde_json::json!({
            "server": server.url(), "admin": admin, "nodes": nodes, "join_token": token,
        }));
    }
    output.line(&format!(
        "weft is up at {} with {nodes} node(s) here",
        server.url()
    ))?;
    output.line(&format!(
        "use it:         export WEFT_CONTEXT={}",
        admin.display()
    ))?;
    output.line("                weft run --op crc32c --each '/usr/share/common-licenses/*'")?;
    output.line(&format!("join a machine: weft agent --token {token}"))?;
    output.line("                (good once, for an hour; `weft token create` makes more)")
}

fn server_config(global: &Global, args: &ServeArgs) -> Result<Config, Failed> {
    let file = config::load(global.config.as_deref())?;
    let (settings, queue) = (file.server, file.queue);
    let data_dir = args
        .data_dir
        .clone()
        .or(settings.data_dir.clone())
        .unwrap_or_else(config::default_data_dir);
    let listen = args
        .listen
        .clone()
        .or(settings.listen.clone())
        .unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let defaults = Config::new(data_dir);
    Ok(Config {
        listen: address(&listen)?,
        insecure_http: args
            .insecure_http
            .or(settings.insecure_http)
            .map(loopback)
            .transpose()?,
        cluster: args.cluster.clone().or(settings.cluster.clone()),
        names: if args.advertise.is_empty() {
            settings.advertise.clone()
        } else {
            args.advertise.clone()
        },
        lease_ttl: span(args.lease_ttl, &settings, "lease_ttl", defaults.lease_ttl)?,
        certificate_ttl: span(
            args.cert_ttl,
            &settings,
            "cert_ttl",
            defaults.certificate_ttl,
        )?,
        result_ttl: span(
            args.result_ttl,
            &settings,
            "result_ttl",
            defaults.result_ttl,
        )?,
        mdns: !args.no_mdns && settings.mdns.unwrap_or(true),
        allow_privileged: if args.allow_privileged.is_empty() {
            settings.allow_privileged.clone()
        } else {
            args.allow_privileged.clone()
        },
        redis: redis(queue.redis, args.redis_url.as_deref())?,
        nats: nats(queue.nats, args.nats_url.as_deref())?,
        ..defaults
    })
}

/// The flag's address, with what else the config file says.
fn redis(file: Option<RedisSettings>, url: Option<&str>) -> Result<Option<RedisSettings>, Failed> {
    let settings = match (file, url) {
        (Some(file), Some(url)) => Some(RedisSettings {
            url: url.to_owned(),
            ..file
        }),
        (file, url) => file.or(url.map(RedisSettings::new)),
    };
    if let Some(settings) = &settings {
        settings
            .check()
            .map_err(|error| Failed::usage(error.to_string()))?;
    }
    Ok(settings)
}

/// The flag's address, with what else the config file says.
fn nats(file: Option<NatsSettings>, url: Option<&str>) -> Result<Option<NatsSettings>, Failed> {
    let settings = match (file, url) {
        (Some(file), Some(url)) => Some(NatsSettings {
            url: url.to_owned(),
            ..file
        }),
        (file, url) => file.or(url.map(NatsSettings::new)),
    };
    if let Some(settings) = &settings {
        settings
            .check()
            .map_err(|error| Failed::usage(error.to_string()))?;
    }
    Ok(settings)
}

fn span(
    flag: Option<Duration>,
    settings: &ServerSettings,
    name: &str,
    default: Duration,
) -> Result<Duration, Failed> {
    let text = match name {
        "lease_ttl" => &settings.lease_ttl,
        "cert_ttl" => &settings.cert_ttl,
        _ => &settings.result_ttl,
    };
    match (flag, text) {
        (Some(span), _) => Ok(span),
        (None, Some(text)) => parse_duration(text)
            .map_err(|error| Failed::usage(format!("config file: server.{name}: {error}"))),
        (None, None) => Ok(default),
    }
}

fn address(text: &str) -> Result<SocketAddr, Failed> {
    use std::net::ToSocketAddrs;
    text.to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| {
            Failed::usage(format!("--listen {text}: not an address and port"))
                .with_next("write for example 0.0.0.0:7700")
        })
}

/// Plain HTTP never leaves the machine.
fn loopback(address: SocketAddr) -> Result<SocketAddr, Failed> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(Failed::usage(format!(
        "--insecure-http {address}: only a loopback address may be used without TLS"
    ))
    .with_next("write for example 127.0.0.1:7701"))
}

/// Resolves on SIGINT or SIGTERM.
pub fn stop_signal() -> Result<impl Future<Output = ()>, Failed> {
    use tokio::signal::unix::{SignalKind, signal};
    let no_signal = |error: std::io::Error| Failed::internal(format!("signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
