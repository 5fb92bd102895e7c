//! Which cluster a command talks to.
//!
//! In this order: `--server` and `WEFT_SERVER`; `--context` and `WEFT_CONTEXT`, a name of the
//! config file or the path of an `admin.json` or its directory; the config file's current
//! context; the `admin.json` of the default data directory, as long as a server runs on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_api::AdminFile;
use weft_client::{Client, Endpoint};

use crate::args::Global;
use crate::config::{self, ConfigFile};
use crate::exit::{Failed, UNREACHABLE};

/// How long the server of the default data directory may take to show that it runs.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);

/// Where a choice comes from, for `weft config show --origin`.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// How to reach it.
    pub source: Source,
    /// Which flag, variable or file said so.
    pub origin: String,
}

/// A cluster before its files are read.
#[derive(Debug, Clone)]
pub enum Source {
    /// An address with a token.
    Address,
    /// An `admin.json`.
    File(PathBuf),
    /// A context of the config file.
    Context(Box<AdminFile>),
}

/// The cluster that flags, environment and files choose; `None` when nothing does.
pub fn choose(global: &Global, config: &ConfigFile) -> Result<Option<Chosen>, Failed> {
    if global.server.is_some() {
        return Ok(Some(Chosen {
            source: Source::Address,
            origin: "--server or WEFT_SERVER".to_owned(),
        }));
    }
    if let Some(name) = &global.context {
        let source = named(name, config)?;
        return Ok(Some(Chosen {
            source,
            origin: "--context or WEFT_CONTEXT".to_owned(),
        }));
    }
    if let Some(name) = &config.current {
        let source = named(name, config)?;
        return Ok(Some(Chosen {
            source,
            origin: config::path(global.config.as_deref()).display().to_string(),
        }));
    }
    let file = config::default_data_dir().join("admin.json");
    Ok(runs(&file).then(|| Chosen {
        origin: file.display().to_string(),
        source: Source::File(file),
    }))
}

fn named(name: &str, config: &ConfigFile) -> Result<Source, Failed> {
    if let Some(admin) = config.contexts.get(name) {
        return Ok(Source::Context(Box::new(admin.clone())));
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(Source::File(path.join("admin.json")));
    }
    if path.is_file() {
        return Ok(Source::File(path.to_path_buf()));
    }
    Err(Failed::usage(format!("there is no context {name:?}"))
        .with_next("`weft context ls` lists them; a path of an admin.json works as well"))
}

/// Whether the server that wrote an `admin.json` listens.
fn runs(file: &Path) -> bool {
    let admin: Option<AdminFile> = std::fs::read(file)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let address = admin.and_then(|admin| {
        let authority = admin
            .server
            .split("://")
            .nth(1)?
            .trim_end_matches('/')
            .to_owned();
        authority.parse().ok()
    });
    address.is_some_and(|address| {
        std::net::TcpStream::connect_timeout(&address, PROBE_TIMEOUT).is_ok()
    })
}

/// The endpoint of a chosen cluster.
pub fn endpoint(global: &Global, source: &Source) -> Result<Endpoint, Failed> {
    let mut endpoint = match source {
        Source::Address => {
            let server = global.server.clone().unwrap_or_default();
            let server = if server.contains("://") {
                server
            } else {
                format!("https://{server}")
            };
            Endpoint::with_token(server, global.ca.as_deref(), None)
        }
        Source::File(path) => Endpoint::from_admin_file(path),
        Source::Context(admin) => Endpoint::from_admin(admin),
    }
    .map_err(|error| Failed::usage(error.to_string()))?;
    if global.token.is_some() {
        endpoint.token.clone_from(&global.token);
    }
    if endpoint.server.starts_with("https://") && endpoint.tls.is_none() {
        return Err(
            Failed::usage("an https server needs its CA certificate").with_next(
                "pass --ca FILE, or add the cluster with `weft context add NAME ADMIN_JSON`",
            ),
        );
    }
    Ok(endpoint)
}

/// A client of the chosen cluster.
pub fn client(global: &Global) -> Result<Client, Failed> {
    let config = config::load(global.config.as_deref())?;
    let Some(chosen) = choose(global, &config)? else {
        return Err(Failed::new(
            UNREACHABLE,
            "no-cluster",
            weft_types::Reason::NetworkError,
            "no cluster is configured and none runs on this machine",
        )
        .with_next(
            "start one with `weft up`, or add one with `weft context add NAME ADMIN_JSON`",
        ));
    };
    Ok(Client::new(&endpoint(global, &chosen.source)?)?)
}
