//! Starting and stopping a server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_api::AdminFile;
use weft_core::liveness::Input;
use weft_pki::{ApiToken, Authority, ClusterName, IdentityFiles, ServerTls, write_secret_file};
use weft_proto::MAX_MESSAGE_BYTES;
use weft_proto::v1::agent_server::AgentServer;
use weft_types::{FieldError, NodeId, Timestamp};

use crate::clock::Clock;
use crate::dispatch::{Dispatching, Log};
use crate::events::Events;
use crate::follow::Follows;
use crate::listener::{Security, serve};
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::records::Records;
use crate::services::{self, Services};
use crate::session::AgentService;
use crate::state::{ApiTokens, Server as State};
use crate::{Config, Error, garbage, grpc, intake, rest, ws};

/// How long the certificates of the server and of the administrator live.
const SERVER_CERTIFICATE_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
const ADMIN_CERTIFICATE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the join tokens live that are made at the start.
const START_TOKEN_TTL: Duration = Duration::from_secs(3600);
/// How long running requests may take when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the server looks whether its certificate is due.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(600);

/// A running server.
pub struct Server {
    state: Arc<State>,
    address: SocketAddr,
    admin_file: PathBuf,
    tasks: Vec<JoinHandle<()>>,
    _advertisement: Option<weft_discovery::Advertisement>,
}

impl Server {
    /// Starts a server; resolves when it listens.
    ///
    /// # Errors
    /// When the data directory cannot be used or the address is taken.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let clock = Clock::start();
        make_private_dir(&config.data_dir)?;
        let authority = Arc::new(authority(&config, clock)?);
        let records = Records::open(&config.data_dir.join("store")).await?;
        let id = server_id(&records).await?;
        let listener = bind(config.listen).await?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
        let names = reachable_names(&config, address);
        let tls = Arc::new(server_tls(&authority, &id, &names, clock)?);
        let (state, mut tasks) =
            open(&config, clock, Arc::clone(&authority), records, id, address).await?;
        let admin_file = write_admin_file(&config.data_dir, &state, address).await?;

        let router = router(&state)?;
        let security = Security::Tls(Arc::clone(&tls), authority.cluster().clone());
        tasks.push(tokio::spawn(serve(
            listener,
            security,
            router.clone(),
            state.stopping.clone(),
        )));
        if let Some(plain) = config.insecure_http {
            let listener = bind(plain).await?;
            tasks.push(tokio::spawn(serve(
                listener,
                Security::InsecureLoopback,
                router,
                state.stopping.clone(),
            )));
        }
        tasks.push(tokio::spawn(renew(Arc::clone(&state), tls, names)));
        tasks.push(tokio::spawn(garbage::collect(
            Arc::clone(&state),
            config.result_ttl,
        )));
        tasks.extend(intake::open(&config, &state)?);
        let advertisement = advertise(&config, &state, address);
        state.events.emit(
            clock.wall(),
            "server.started",
            state.id.as_str(),
            json!({ "address": address.to_string() }),
        );
        Ok(Self {
            state,
            address,
            admin_file,
            tasks,
            _advertisement: advertisement,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for clients on this machine.
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// Path of the `admin.json` that opens it.
    pub fn admin_file(&self) -> PathBuf {
        self.admin_file.clone()
    }

    /// A new join token.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn join_token(&self, uses: u32) -> Result<String, Error> {
        let (token, _) = self.state.mint_join_token(START_TOKEN_TTL, uses).await?;
        Ok(token.to_string())
    }

    /// What its parts share.
    #[cfg(test)]
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Drops it without letting anything finish.
    #[cfg(test)]
    pub(crate) async fn kill(self) {
        for task in &self.tasks {
            task.abort();
        }
        self.state.stopping.cancel();
        self.state.liveness.stop();
        self.state.dispatcher.stop().await;
    }

    /// Ends sessions, lets running requests finish, writes what is left.
    pub async fn shutdown(self) {
        self.state.dispatcher.stop().await;
        self.state.stopping.cancel();
        self.state.liveness.stop();
        let finished = futures::future::join_all(self.tasks);
        if tokio::time::timeout(DRAIN_TIMEOUT, finished).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        self.state.events.flush(&self.state.records).await;
    }
}

/// Opens everything that has state and connects the parts.
async fn open(
    config: &Config,
    clock: Clock,
    authority: Arc<Authority>,
    records: Records,
    id: NodeId,
    address: SocketAddr,
) -> Result<(Arc<State>, Vec<JoinHandle<()>>), Error> {
    let events = Events::load(authority.cluster().as_str(), &records).await?;
    let metrics = Arc::new(Metrics::new());
    let (log, recovered) =
        Log::open(&config.data_dir.join("journal"), Arc::clone(&metrics)).await?;
    let blob_dir = config.data_dir.join("blobs");
    let blobs = Arc::new(weft_blobs::BlobStore::open(&blob_dir, config.max_blob_bytes).await?);
    let dispatching = Dispatching::new(
        log.clone(),
        clock,
        events.clone(),
        Arc::clone(&metrics),
        config.result_ttl,
    );
    let dispatcher = dispatching.handle();
    let nodes = Nodes::load(
        records.clone(),
        events.clone(),
        Arc::clone(&authority),
        config.certificate_ttl,
        clock,
        dispatcher.clone(),
    )
    .await?;
    let epoch_base = records.next_start().await? << 32;
    let liveness = Liveness::start(config.lease_ttl, epoch_base, clock, Arc::new(nodes.clone()))
        .map_err(|source| Error::File {
            path: PathBuf::from("thread weft-liveness"),
            source,
        })?;
    let members = nodes.all();
    for record in &members {
        liveness.step(Input::Known {
            node: record.id.clone(),
            epoch: 0,
            cordoned: record.cordoned,
            draining: record.draining,
            offline: false,
        });
    }
    let expected = members.into_iter().map(|record| record.id).collect();
    dispatching.start(recovered, expected, config.lease_ttl)?;
    let stopping = CancellationToken::new();
    let services = open_services(config, &records, stopping.clone()).await?;
    let state = Arc::new(State {
        id,
        authority,
        clock,
        api_tokens: api_tokens(&records, clock, &config.data_dir).await?,
        records: records.clone(),
        events: events.clone(),
        metrics,
        log,
        blobs,
        dispatcher,
        liveness,
        nodes,
        services,
        follows: Follows::default(),
        websockets: Arc::new(Semaphore::new(ws::MAX_CONNECTIONS)),
        addresses: join_addresses(config, address),
        stopping: stopping.clone(),
    });
    let written = tokio::spawn(async move {
        tokio::select! {
            () = events.write_behind(records) => {}
            () = stopping.cancelled() => {}
        }
    });
    let endpoints = tokio::spawn(services::endpoints::keep(Arc::clone(&state)));
    let scheduler = tokio::spawn(services::scheduler::run(Arc::clone(&state)));
    let reserved = tokio::spawn(services::nodes::keep_reserved(Arc::clone(&state)));
    Ok((state, vec![written, endpoints, scheduler, reserved]))
}

/// Reads what the store has of services, and the key of its secrets.
async fn open_services(
    config: &Config,
    records: &Records,
    stopping: CancellationToken,
) -> Result<Services, Error> {
    let namespace = |text: &String| {
        text.parse()
            .map_err(|error| FieldError::new("allow_privileged", error))
    };
    let allowed: Result<_, FieldError> = config.allow_privileged.iter().map(namespace).collect();
    Ok(Services {
        workloads: services::cache::Workloads::start(records.clone(), stopping).await?,
        sealer: services::secrets::Sealer::load_or_create(&config.data_dir.join("secrets.key"))?,
        sessions: Default::default(),
        endpoints: Default::default(),
        port_errors: Default::default(),
        loads: Default::default(),
        tunnels: Default::default(),
        board: Default::default(),
        hooks: Default::default(),
        summaries: Default::default(),
        allow_privileged: allowed?,
    })
}

fn router(state: &Arc<State>) -> Result<axum::Router, Error> {
    let agents = AgentServer::new(AgentService::new(Arc::clone(state)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(rest::router(Arc::clone(state))
        .merge(grpc::router(state)?)
        .route_service("/weft.v1.Agent/{*method}", agents))
}

fn make_private_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|source| Error::File {
        path: dir.to_path_buf(),
        source,
    })
}

fn authority(config: &Config, clock: Clock) -> Result<Authority, Error> {
    let name = config.cluster.clone().unwrap_or_else(|| "weft".to_owned());
    let cluster: ClusterName = name.parse()?;
    Ok(Authority::load_or_create(
        &config.data_dir.join("pki/ca"),
        &cluster,
        clock.wall(),
    )?)
}

/// The server's id, made at its first start.
async fn server_id(records: &Records) -> Result<NodeId, Error> {
    if let Some((id, _)) = records.get::<NodeId>("meta/server-id").await? {
        return Ok(id);
    }
    let mut random = [0u8; 6];
    getrandom::fill(&mut random).map_err(|error| Error::Corrupt {
        what: "random numbers".to_owned(),
        detail: error.to_string(),
    })?;
    let id: NodeId = format!("server-{}", hex::encode(random))
        .parse()
        .map_err(|detail| Error::Corrupt {
            what: "server id".to_owned(),
            detail,
        })?;
    records.put("meta/server-id", &id).await?;
    Ok(id)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

fn server_tls(
    authority: &Authority,
    id: &NodeId,
    names: &[String],
    clock: Clock,
) -> Result<ServerTls, Error> {
    let credentials = authority.issue_server(id, names, SERVER_CERTIFICATE_TTL, clock.wall())?;
    Ok(ServerTls::new(&credentials)?)
}

/// Renews the server's own certificate at half its life; open connections go on.
async fn renew(state: Arc<State>, tls: Arc<ServerTls>, names: Vec<String>) {
    let mut issued = state.clock.wall();
    let expiry = |issued: Timestamp| issued.plus(SERVER_CERTIFICATE_TTL);
    state.metrics.certificate("server", expiry(issued));
    let ca = state.authority.certificate().not_after();
    state.metrics.certificate("ca", ca);
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEWAL_INTERVAL) => {}
            () = state.stopping.cancelled() => return,
        }
        let now = state.clock.wall();
        if now.since(issued) < SERVER_CERTIFICATE_TTL / 2 {
            continue;
        }
        let renewed = state
            .authority
            .issue_server(&state.id, &names, SERVER_CERTIFICATE_TTL, now)
            .and_then(|credentials| tls.replace(&credentials));
        match renewed {
            Ok(()) => {
                issued = now;
                state.metrics.certificate("server", expiry(issued));
            }
            Err(error) => tracing::error!(%error, "the server's certificate could not be renewed"),
        }
    }
}

/// The administrator's token stays the same over restarts.
async fn api_tokens(records: &Records, clock: Clock, data_dir: &Path) -> Result<ApiTokens, Error> {
    let tokens = ApiTokens::load(records).await?;
    let kept = admin_token(data_dir).parse::<ApiToken>();
    if kept.is_ok_and(|token| tokens.accepts(&token, clock.wall())) {
        return Ok(tokens);
    }
    let (token, record) = ApiToken::mint("admin", None, clock.wall())?;
    records
        .put(&format!("api-tokens/{}", record.id), &record)
        .await?;
    write_secret_file(&admin_token_file(data_dir), token.to_string().as_bytes())?;
    ApiTokens::load(records).await
}

fn admin_token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("pki/admin-token")
}

/// Empty when there is none yet.
fn admin_token(data_dir: &Path) -> String {
    std::fs::read_to_string(admin_token_file(data_dir)).unwrap_or_default()
}

/// Writes how the first administrator reaches the API.
async fn write_admin_file(
    data_dir: &Path,
    state: &State,
    address: SocketAddr,
) -> Result<PathBuf, Error> {
    let files = IdentityFiles::in_dir(data_dir.join("pki/admin"));
    let now = state.clock.wall();
    let usable = files
        .read()?
        .is_some_and(|credentials| credentials.certificate.renew_at() > now);
    if !usable {
        files.write(
            &state
                .authority
                .issue_user("admin", ADMIN_CERTIFICATE_TTL, now)?,
        )?;
    }
    if let Some(credentials) = files.read()? {
        let ends = credentials.certificate.not_after();
        state.metrics.certificate("admin", ends);
    }
    let text = |path: PathBuf| {
        std::path::absolute(&path)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let admin = AdminFile {
        server: url(address),
        ca: text(files.ca()),
        cert: text(files.cert()),
        key: text(files.key()),
        token: admin_token(data_dir),
    };
    let path = data_dir.join("admin.json");
    let json = serde_json::to_vec_pretty(&admin).map_err(|error| Error::Corrupt {
        what: "admin.json".to_owned(),
        detail: error.to_string(),
    })?;
    write_secret_file(&path, &json)?;
    Ok(path)
}

/// A server that listens everywhere is reached on this machine by loopback.
fn url(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    format!("https://{address}")
}

fn reachable_names(config: &Config, address: SocketAddr) -> Vec<String> {
    let mut names: Vec<String> = config.names.iter().map(|name| host(name)).collect();
    if address.ip().is_unspecified() {
        names.extend(
            weft_discovery::local_addresses()
                .iter()
                .map(ToString::to_string),
        );
    } else {
        names.push(address.ip().to_string());
    }
    names.truncate(weft_pki::MAX_SERVER_NAMES / 2);
    names
}

/// Addresses with ports under which machines reach this server, the most useful first.
fn join_addresses(config: &Config, address: SocketAddr) -> Vec<String> {
    let with_port = |name: &str| {
        if has_port(name) {
            name.to_owned()
        } else {
            format!("{name}:{}", address.port())
        }
    };
    let mut addresses: Vec<String> = config.names.iter().map(|name| with_port(name)).collect();
    if address.ip().is_unspecified() {
        let local = weft_discovery::local_addresses();
        addresses.extend(
            local
                .iter()
                .map(|ip| SocketAddr::new(*ip, address.port()).to_string()),
        );
        addresses.push(format!("127.0.0.1:{}", address.port()));
    } else {
        addresses.push(address.to_string());
    }
    addresses.truncate(weft_pki::MAX_ADDRESSES);
    addresses
}

fn has_port(name: &str) -> bool {
    name.parse::<SocketAddr>().is_ok()
        || name
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok())
}

fn host(name: &str) -> String {
    if let Ok(address) = name.parse::<SocketAddr>() {
        return address.ip().to_string();
    }
    if has_port(name) {
        name.rsplit_once(':')
            .map_or(name, |(host, _)| host)
            .to_owned()
    } else {
        name.to_owned()
    }
}

/// Nobody on the network is told of a server that only this machine reaches.
fn advertise(
    config: &Config,
    state: &State,
    address: SocketAddr,
) -> Option<weft_discovery::Advertisement> {
    if !config.mdns || address.ip().is_loopback() {
        return None;
    }
    let fingerprint = state.authority.fingerprint().to_string();
    let cluster = state.authority.cluster().as_str();
    match weft_discovery::advertise(cluster, address.port(), &fingerprint, state.id.as_str()) {
        Ok(advertisement) => Some(advertisement),
        Err(error) => {
            tracing::warn!(%error, "the server is not announced on the local network");
            None
        }
    }
}
