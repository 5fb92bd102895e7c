//! A client's request: from one replica to the next until one answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::request;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::{Failure, unfit, unserved};
use super::body::{AnswerBody, Source};
use super::head;
use super::send::{Answer, send};
use crate::core::Core;
use crate::metrics::bump;
use crate::routes::Route;
use crate::search::Search;
use crate::tunnel::{carry, either};

/// How long both sides may take to switch protocols once the replica has agreed.
const SWITCH: Duration = Duration::from_secs(10);

/// Where a client's requests come from.
pub(super) struct Client {
    pub(super) core: Arc<Core>,
    pub(super) port: u16,
    pub(super) address: IpAddr,
    /// Cancelled when its connection is to be cut.
    pub(super) cut: CancellationToken,
}

impl Client {
    /// Answers a request.
    pub(super) async fn serve(&self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        bump(&self.core.metrics.requests);
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        if let Err(why) = head::prepare(&mut parts, self.address, self.core.trust_forwarded) {
            return unfit(why);
        }
        let limits = &self.core.limits;
        let source = Source::new(body, limits.replay_bytes, limits.body_pause);
        match self.try_all(&parts, &source).await {
            Ok(answer) => finish(&self.core, answer, upgrade, self.cut.clone()),
            Err(failure) => self.explain(failure),
        }
    }

    fn explain(&self, failure: Option<Failure>) -> Response<AnswerBody> {
        let routes = self.core.routes.load();
        let service = routes.ports.get(&self.port).map(|route| &*route.name);
        let service = service.unwrap_or("this port");
        match failure {
            None => {
                bump(&self.core.metrics.requests_unserved);
                unserved(service)
            }
            Some(failure) => {
                bump(&self.core.metrics.requests_failed);
                tracing::debug!(port = self.port, service, ?failure, "a request failed");
                failure.to_client(service)
            }
        }
    }

    /// The first answer; otherwise the last failure, `None` when there was no replica to try.
    async fn try_all(
        &self,
        parts: &request::Parts,
        source: &Source,
    ) -> Result<Answer, Option<Failure>> {
        let mut search = Search::new(&self.core, self.port, Route::for_request);
        let mut last = None;
        for _ in 0..self.core.limits.attempts {
            let Some(flight) = search.next().await else {
                return Err(last);
            };
            let backend = Arc::clone(&flight.backend);
            let failure = match send(&self.core, flight, parts, source).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = match &failure {
                Failure::Unsent(_) => true,
                Failure::Lost(_) => parts.method.is_idempotent(),
                Failure::TooLate | Failure::Client => false,
            };
            if !again || !source.can_repeat() {
                return Err(Some(failure));
            }
            tracing::debug!(unit = %backend.key.unit, ?failure, "a request is tried elsewhere");
            bump(&self.core.metrics.retries);
            backend.avoid();
            search.failed(backend);
            last = Some(failure);
        }
        Err(last)
    }
}

/// Passes an answer on; an upgraded connection becomes a tunnel.
pub(super) fn finish(
    core: &Arc<Core>,
    answer: Answer,
    upgrade: OnUpgrade,
    cut: CancellationToken,
) -> Response<AnswerBody> {
    let Answer { mut response, held } = answer;
    let protocol = head::upgrade_of(response.headers());
    head::strip(response.headers_mut());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response.map(|body| AnswerBody::of_replica(body, held));
    }
    if let Some(protocol) = protocol {
        head::set_upgrade(response.headers_mut(), protocol);
    }
    let replica = hyper::upgrade::on(&mut response);
    core.tasks.spawn(async move {
        if let Some(local) = &held.flight.local {
            bump(&local.unit.totals.connections);
        }
        let switched = timeout(SWITCH, async { tokio::try_join!(upgrade, replica) }).await;
        if let Ok(Ok((client, replica))) = switched {
            let (mut client, mut replica) = (TokioIo::new(client), TokioIo::new(replica));
            carry(
                &mut client,
                &mut replica,
                either(&cut, &held.connection.cut),
            )
            .await;
        }
        drop(held);
    });
    response.map(|_| AnswerBody::Own(None))
}
