//! Events: a page of them, or a stream of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use weft_api::{EventView, Page};

use super::App;
use super::page::Params;
use super::problem::ApiError;
use crate::metrics::Door;
use crate::state::Server;

/// How many events are taken at once.
const BATCH: usize = 256;
/// How often a quiet stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventParams {
    pub since: Option<u64>,
    /// Whether to go on with what happens later; so unless it is `false`.
    pub follow: Option<bool>,
    /// Only events whose type begins with this, with or without `weft.`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub subject: Option<String>,
}

impl EventParams {
    fn wants(&self, event: &EventView) -> bool {
        let kind = event.kind.strip_prefix("weft.").unwrap_or(&event.kind);
        let wanted = self
            .kind
            .as_deref()
            .map(|wanted| wanted.strip_prefix("weft.").unwrap_or(wanted));
        wanted.is_none_or(|wanted| kind.starts_with(wanted))
            && self
                .subject
                .as_deref()
                .is_none_or(|subject| event.subject == subject)
    }
}

/// `GET /v1/events`: server-sent events when the client accepts them, else a page of JSON.
pub async fn events(
    State(server): App,
    headers: HeaderMap,
    Params(mut params): Params<EventParams>,
) -> Result<Response, ApiError> {
    // A browser that reconnects says where it was.
    let last_id = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .and_then(|id| id.parse().ok());
    params.since = params.since.max(last_id);
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or_default();
    if accept.contains("text/event-stream") {
        let stream = follow(server, params, Door::Rest).filter_map(|event| async move {
            let sse = Event::default()
                .id(event.id.clone())
                .event(event.kind.clone());
            sse.json_data(&event).ok().map(Ok::<_, Infallible>)
        });
        return Ok(Sse::new(stream)
            .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
            .into_response());
    }
    let mut items = server.events.after(params.since.unwrap_or(0), BATCH);
    let next = items
        .last()
        .filter(|_| items.len() == BATCH)
        .map(|event| event.seq.to_string());
    items.retain(|event| params.wants(event));
    Ok(Json(Page { items, next }).into_response())
}

/// Events as they happen, until the server stops.
pub(crate) fn follow(
    server: Arc<Server>,
    params: EventParams,
    door: Door,
) -> impl Stream<Item = EventView> + Send {
    let subscription = server.metrics.subscription(door);
    let newest = server.events.subscribe();
    let goes_on = params.follow.unwrap_or(true);
    let state = (
        server,
        params,
        newest,
        VecDeque::<EventView>::new(),
        subscription,
    );
    futures::stream::unfold(
        state,
        move |(server, mut params, mut newest, mut ready, subscription)| async move {
            loop {
                while let Some(event) = ready.pop_front() {
                    params.since = Some(event.seq);
                    if params.wants(&event) {
                        return Some((event, (server, params, newest, ready, subscription)));
                    }
                }
                newest.mark_unchanged();
                ready = server.events.after(params.since.unwrap_or(0), BATCH).into();
                if ready.is_empty() {
                    if !goes_on {
                        return None;
                    }
                    let stopping = server.stopping.clone();
                    tokio::select! {
                        changed = newest.changed() => changed.ok()?,
                        () = stopping.cancelled() => return None,
                    }
                }
            }
        },
    )
}
