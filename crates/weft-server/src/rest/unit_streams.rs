//! Streams into units: output, commands, ports.

mod frames;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use weft_api::NDJSON_CONTENT_TYPE;
use weft_proto::v1;
use weft_proto::v1::open_tunnel::What;
use weft_types::{FieldError, Timestamp, parse_duration};

use super::App;
use super::page::Params;
use super::problem::ApiError;
use crate::services::tunnels::Tunnel;
use crate::services::{find, logs};
use crate::state::Server;
use crate::ws::upgraded;
use frames::{Kind, serve};

/// The largest message of a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The most arguments of a command, and their bytes together.
const MAX_ARGS: usize = 1_024;
const MAX_ARGS_BYTES: usize = 128 << 10;
/// The largest terminal.
const MAX_TERMINAL: u32 = 10_000;

/// Which lines.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogParams {
    namespace: Option<String>,
    unit: Option<String>,
    follow: Option<bool>,
    tail: Option<u32>,
    since: Option<String>,
    previous: Option<bool>,
}

/// `GET /v1/logs/workloads/{id}`: lines as NDJSON, merged over units by time.
pub async fn output(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<LogParams>,
) -> Result<Response, ApiError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    let service = find::service(&server, &id, &namespace)?;
    let wanted = logs::Wanted {
        unit: params.unit,
        follow: params.follow.unwrap_or(false),
        tail: params.tail,
        since_ms: since_ms(params.since.as_deref(), server.clock.wall())?,
        previous: params.previous.unwrap_or(false),
    };
    let lines = logs::open(Arc::clone(&server), &service, wanted).await?;
    let lines = ReceiverStream::new(lines).map(|line| {
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(text))
    });
    let body = Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE)], body).into_response())
}

/// A span before now, or a time.
pub(crate) fn since_ms(text: Option<&str>, now: Timestamp) -> Result<u64, FieldError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(0);
    };
    if let Ok(span) = parse_duration(text) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        return Ok(now.as_millis().saturating_sub(span_ms));
    }
    weft_api::parse_rfc3339(text)
        .map(Timestamp::as_millis)
        .ok_or_else(|| {
            FieldError::new("since", "neither a span such as 10m nor a time in RFC 3339")
        })
}

/// The query of an exec or a forwarded port: `command` comes once for each argument.
#[derive(Debug, Default)]
struct StreamParams {
    namespace: Option<String>,
    unit: Option<String>,
    part: String,
    command: Vec<String>,
    tty: bool,
    columns: u32,
    rows: u32,
    port: Option<u16>,
}

impl StreamParams {
    fn new(pairs: Vec<(String, String)>, allowed: &[&str]) -> Result<Self, FieldError> {
        let mut params = Self::default();
        for (key, value) in pairs {
            if !allowed.contains(&key.as_str()) {
                let message = format!("unknown; there are {}", allowed.join(", "));
                return Err(FieldError::new(key, message));
            }
            let malformed = |what: &str| FieldError::new(key.as_str(), format!("not {what}"));
            match key.as_str() {
                "namespace" => params.namespace = Some(value),
                "unit" => params.unit = Some(value),
                "part" => params.part = value,
                "command" => params.command.push(value),
                "tty" => params.tty = value.parse().map_err(|_| malformed("true or false"))?,
                "columns" => params.columns = value.parse().map_err(|_| malformed("a number"))?,
                "rows" => params.rows = value.parse().map_err(|_| malformed("a number"))?,
                _ => params.port = Some(value.parse().map_err(|_| malformed("a port"))?),
            }
        }
        Ok(params)
    }
}

/// A checked command to run in a unit.
///
/// # Errors
/// The field that is refused.
pub(crate) fn checked_exec(exec: v1::ExecStart) -> Result<v1::ExecStart, FieldError> {
    if exec.command.is_empty() {
        let message = "missing; give `command` once for the program and once for each argument";
        return Err(FieldError::new("command", message));
    }
    let size: usize = exec.command.iter().map(String::len).sum();
    if exec.command.len() > MAX_ARGS || size > MAX_ARGS_BYTES {
        let message = format!("more than {MAX_ARGS} arguments or {MAX_ARGS_BYTES} bytes");
        return Err(FieldError::new("command", message));
    }
    if exec.columns > MAX_TERMINAL || exec.rows > MAX_TERMINAL {
        let message = format!("a terminal has {MAX_TERMINAL} columns and rows at most");
        return Err(FieldError::new("columns", message));
    }
    Ok(exec)
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;
type Pairs = Params<Vec<(String, String)>>;

/// `GET /v1/workloads/{id}/exec`: runs a command inside a unit, over a WebSocket.
pub async fn exec(
    State(server): App,
    Path(id): Path<String>,
    Params(pairs): Pairs,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let allowed = [
        "namespace",
        "unit",
        "part",
        "command",
        "tty",
        "columns",
        "rows",
    ];
    let params = StreamParams::new(pairs, &allowed)?;
    let start = checked_exec(v1::ExecStart {
        command: params.command,
        part: params.part,
        tty: params.tty,
        columns: params.columns,
        rows: params.rows,
    })?;
    let target = (id, params.namespace, params.unit);
    open(server, upgrade, target, What::Exec(start), Kind::Exec).await
}

/// `GET /v1/workloads/{id}/port-forward`: a connection to a port inside a unit, over a WebSocket.
pub async fn port_forward(
    State(server): App,
    Path(id): Path<String>,
    Params(pairs): Pairs,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let params = StreamParams::new(pairs, &["namespace", "unit", "port"])?;
    let port = checked_port(params.port.unwrap_or_default().into())?;
    let target = (id, params.namespace, params.unit);
    open(server, upgrade, target, What::Port(port), Kind::Port).await
}

/// A checked port inside a unit.
///
/// # Errors
/// When it is not a port.
pub(crate) fn checked_port(port: u32) -> Result<u32, FieldError> {
    match u16::try_from(port) {
        Ok(1..) => Ok(port),
        _ => Err(FieldError::new(
            "port",
            "missing; give a port inside the unit, 1 to 65535",
        )),
    }
}

/// Opens a tunnel into a unit of a service.
///
/// # Errors
/// When there is no such unit, or its node does not answer.
pub(crate) async fn tunnel(
    server: &Server,
    (id, namespace, unit): (String, Option<String>, Option<String>),
    what: What,
) -> Result<Tunnel, ApiError> {
    let namespace = find::namespace(namespace.as_deref())?;
    let service = find::service(server, &id, &namespace)?;
    let unit = find::unit(&service, unit.as_deref())?;
    server
        .services
        .tunnels
        .open(server, &unit.value, what)
        .await
}

async fn open(
    server: Arc<Server>,
    upgrade: Upgrade,
    target: (String, Option<String>, Option<String>),
    what: What,
    kind: Kind,
) -> Result<Response, ApiError> {
    let (upgrade, room) = upgraded(&server, upgrade)?;
    // Before the answer, so that a refusal is a problem document and not a closed connection.
    let tunnel = tunnel(&server, target, what).await?;
    Ok(upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| async move {
            let _counted = server.metrics.websocket();
            tokio::select! {
                () = serve(socket, tunnel, kind) => {}
                () = server.stopping.cancelled() => {}
            }
            drop(room);
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_refuse_what_they_do_not_know() {
        let pairs = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        let error = StreamParams::new(pairs("colour", "red"), &["port"]).expect_err("refused");
        assert_eq!(error.path, "colour");
        let error = StreamParams::new(pairs("port", "http"), &["port"]).expect_err("refused");
        assert_eq!(error.path, "port");
        assert_eq!(checked_port(0).expect_err("refused").path, "port");
        let none = checked_exec(v1::ExecStart::default());
        assert_eq!(none.expect_err("refused").path, "command");
    }

    #[test]
    fn since_is_a_span_or_a_time() {
        let now = Timestamp(1_700_000_000_000);
        assert_eq!(since_ms(Some("10s"), now), Ok(1_699_999_990_000));
        assert_eq!(
            since_ms(Some("2023-11-14T22:13:20Z"), now),
            Ok(1_700_000_000_000)
        );
        assert_eq!(since_ms(None, now), Ok(0));
        assert_eq!(
            since_ms(Some("yesterday"), now).expect_err("refused").path,
            "since"
        );
    }
}
