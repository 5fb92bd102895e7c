//! One request to one replica.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::http::request;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::answer::Failure;
use super::body::{Held, RequestBody, Source};
use super::head::upgrade_of;
use super::pool::Connection;
use crate::backend::Flight;
use crate::core::Core;
use crate::metrics::bump;
use crate::peer::Kind;

/// How long a connection may have been idle for a request that must not be executed twice: when
/// the replica closes it just then, nobody can tell whether the request was executed. Servers
/// close idle connections after 2 s and more.
const FRESH: Duration = Duration::from_secs(1);

/// An answer whose body has not been read.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) held: Held,
}

/// Sends a request to the replica of `flight`, over an idle connection when there is one.
pub(super) async fn send(
    core: &Arc<Core>,
    flight: Flight,
    head: &request::Parts,
    source: &Source,
) -> Result<Answer, Failure> {
    let result = attempt(core, &flight, head, source).await;
    if !matches!(result, Err(Failure::Unsent(_)))
        && let Some(local) = &flight.local
    {
        bump(&local.unit.totals.requests);
    }
    let (response, connection) = result?;
    let held = Held { connection, flight };
    if held.flight.local.is_none()
        && let Some(failure) = Failure::of_node(&response)
    {
        return Err(failure);
    }
    Ok(Answer { response, held })
}

async fn attempt(
    core: &Arc<Core>,
    flight: &Flight,
    head: &request::Parts,
    source: &Source,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let idempotent = head.method.is_idempotent();
    let age = match idempotent {
        true => core.limits.idle_age,
        false => core.limits.idle_age.min(FRESH),
    };
    loop {
        let idle = flight.backend.pool.take(flight.address, age).await;
        let reused = idle.is_some();
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect(core, flight)
                .await
                .map_err(|error| Failure::Unsent(error.to_string()))?,
        };
        match exchange(core, &mut connection, head, source).await {
            Ok(response) => return Ok((response, connection)),
            // The replica closed a connection that it had kept open: a new one is needed.
            Err(Failure::Unsent(_)) if reused && source.can_repeat() => {}
            Err(Failure::Lost(_)) if reused && idempotent && source.can_repeat() => {}
            Err(failure) => return Err(failure),
        }
    }
}

async fn exchange(
    core: &Core,
    connection: &mut Connection,
    head: &request::Parts,
    source: &Source,
) -> Result<Response<Incoming>, Failure> {
    let request = Request::from_parts(head.clone(), source.attempt());
    let sent = connection.sender.try_send_request(request);
    match tokio::time::timeout(core.limits.answer, sent).await {
        Err(_) => Err(Failure::TooLate),
        Ok(Ok(response)) => {
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if switched && upgrade_of(&head.headers).is_none() {
                return Err(Failure::Lost("it switched protocols unasked".to_owned()));
            }
            Ok(response)
        }
        Ok(Err(_)) if source.is_broken() => Err(Failure::Client),
        Ok(Err(mut error)) => {
            let unsent = error.take_message().is_some();
            let why = describe(&error.into_error());
            Err(match unsent {
                true => Failure::Unsent(why),
                false => Failure::Lost(why),
            })
        }
    }
}

/// The cause says more than hyper's own words, when there is one.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

async fn connect(core: &Arc<Core>, flight: &Flight) -> io::Result<Connection> {
    let opened = core.open(flight, Kind::Http).await?;
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(core.limits.head_bytes)
        .max_buf_size(core.limits.head_bytes);
    let handshake = builder.handshake::<_, RequestBody>(TokioIo::new(opened.wire));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    let cut = opened.cut.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            _ = connection.with_upgrades() => {}
            () = cut.cancelled() => {}
        }
    });
    Ok(Connection {
        sender,
        address: flight.address,
        cut: opened.cut,
    })
}
