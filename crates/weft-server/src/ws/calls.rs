//! The requests of one connection: run beside each other, within bounds.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Message;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_api::{Problem, WsAnswer, WsCall, WsRefused, WsRequest};
use weft_types::{FieldError, Reason, Workload};

use super::connection::text;
use super::subscription::{Outlet, results, watch};
use crate::rest::page::job_id;
use crate::rest::problem::ApiError;
use crate::rest::{jobs, submit};
use crate::state::Server;

/// The most subscriptions of one connection.
const MAX_SUBSCRIPTIONS: usize = 32;
/// The most other requests of one connection at once; further ones are not read until one is
/// answered.
const MAX_CONCURRENT_CALLS: usize = 32;

/// What runs for one connection; dropping it ends that.
pub struct Calls {
    server: Arc<Server>,
    outgoing: mpsc::Sender<Message>,
    running: JoinSet<()>,
    slots: Arc<Semaphore>,
    active: Active,
}

/// The requests that are not answered yet, by their ids; subscriptions with the way to stop them.
#[derive(Clone, Default)]
struct Active(Arc<Mutex<HashMap<String, Option<CancellationToken>>>>);

/// Frees the id of a request.
struct Registered {
    active: Active,
    id: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.active.0.lock().remove(&self.id);
    }
}

impl Active {
    fn register(&self, id: &str, stop: Option<CancellationToken>) -> Result<Registered, ApiError> {
        let mut active = self.0.lock();
        if active.contains_key(id) {
            return Err(FieldError::new("id", format!("{id:?} is in use; choose another")).into());
        }
        let subscriptions = active.values().flatten().count();
        if stop.is_some() && subscriptions >= MAX_SUBSCRIPTIONS {
            return Err(too_many_subscriptions());
        }
        active.insert(id.to_owned(), stop);
        Ok(Registered {
            active: self.clone(),
            id: id.to_owned(),
        })
    }

    fn stop(&self, subscription: &str) -> Result<(), ApiError> {
        match self.0.lock().get(subscription) {
            Some(Some(stop)) => {
                stop.cancel();
                Ok(())
            }
            _ => Err(FieldError::new(
                "subscription",
                format!("there is no subscription {subscription:?}"),
            )
            .into()),
        }
    }
}

fn too_many_subscriptions() -> ApiError {
    Problem::new(
        429,
        "too-many-subscriptions",
        Reason::QuotaExceeded,
        format!("this connection has {MAX_SUBSCRIPTIONS} subscriptions"),
    )
    .with_next("stop one, or open another connection")
    .into()
}

impl Calls {
    /// Nothing runs yet; answers go into `outgoing`.
    pub fn new(server: Arc<Server>, outgoing: mpsc::Sender<Message>) -> Self {
        Self {
            server,
            outgoing,
            running: JoinSet::new(),
            slots: Arc::new(Semaphore::new(MAX_CONCURRENT_CALLS)),
            active: Active::default(),
        }
    }

    /// Starts what a message asks for; `None` when the connection is gone.
    pub async fn handle(&mut self, message: &[u8]) -> Option<()> {
        while self.running.try_join_next().is_some() {}
        let WsRequest { id, call } = match WsRequest::parse(message) {
            Ok(request) => request,
            Err(WsRefused { id, error }) => return self.refuse(id, &error.into()).await,
        };
        let server = Arc::clone(&self.server);
        match call {
            WsCall::Ping => self.answer(Some(id), WsAnswer::Pong).await,
            WsCall::Stop { subscription } => match self.active.stop(&subscription) {
                Ok(()) => self.answer(Some(id), WsAnswer::Stopped).await,
                Err(error) => self.refuse(Some(id), &error).await,
            },
            WsCall::Submit {
                workload,
                idempotency_key,
            } => {
                self.call(id, submitted(server, *workload, idempotency_key))
                    .await
            }
            WsCall::Cancel { job } => self.call(id, cancelled(server, job)).await,
            WsCall::Watch { job } => {
                let outlet = self.outlet(&id);
                self.subscribe(id, watch(server, job, outlet)).await
            }
            WsCall::Results(wanted) => {
                let outlet = self.outlet(&id);
                self.subscribe(id, results(server, wanted, outlet)).await
            }
        }
    }

    /// Tells why something is refused; `None` when the connection is gone.
    pub async fn refuse(&self, id: Option<String>, error: &ApiError) -> Option<()> {
        let problem = error.problem().clone();
        self.answer(id, WsAnswer::Error { problem }).await
    }

    async fn answer(&self, id: Option<String>, answer: WsAnswer) -> Option<()> {
        self.outgoing.send(text(id, answer)).await.ok()
    }

    fn outlet(&self, id: &str) -> Outlet {
        Outlet {
            id: id.to_owned(),
            outgoing: self.outgoing.clone(),
        }
    }

    async fn call(&mut self, id: String, work: impl Work) -> Option<()> {
        let registered = match self.active.register(&id, None) {
            Ok(registered) => registered,
            Err(error) => return self.refuse(Some(id), &error).await,
        };
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        let outgoing = self.outgoing.clone();
        self.running.spawn(async move {
            let _slot = slot;
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            finish(registered, outcome, &outgoing).await;
        });
        Some(())
    }

    async fn subscribe(&mut self, id: String, work: impl Work) -> Option<()> {
        let stop = CancellationToken::new();
        let registered = match self.active.register(&id, Some(stop.clone())) {
            Ok(registered) => registered,
            Err(error) => return self.refuse(Some(id), &error).await,
        };
        let outgoing = self.outgoing.clone();
        self.running.spawn(async move {
            let outcome = tokio::select! {
                outcome = AssertUnwindSafe(work).catch_unwind() => outcome,
                () = stop.cancelled() => Ok(Ok(WsAnswer::End { complete: false })),
            };
            finish(registered, outcome, &outgoing).await;
        });
        Some(())
    }
}

/// What a request does; resolves to its last answer.
trait Work: Future<Output = Result<WsAnswer, ApiError>> + Send + 'static {}

impl<F: Future<Output = Result<WsAnswer, ApiError>> + Send + 'static> Work for F {}

async fn submitted(
    server: Arc<Server>,
    workload: Workload,
    key: Option<String>,
) -> Result<WsAnswer, ApiError> {
    let key = key
        .map(|key| submit::checked_key("idempotency_key", &key))
        .transpose()?;
    let accepted = submit::accept(&server, workload, key).await;
    let id = accepted.map_err(|error| error.within("workload"))?;
    let job = submit::answer(&server, id, Duration::ZERO).await?;
    Ok(WsAnswer::Submitted { job })
}

async fn cancelled(server: Arc<Server>, job: String) -> Result<WsAnswer, ApiError> {
    let job = jobs::cancelled(&server, job_id(&job)?).await?;
    Ok(WsAnswer::Cancelled { job })
}

/// Sends the last answer of a request. Its id is free before that: the client may use it again as
/// soon as it has read the answer.
async fn finish(
    registered: Registered,
    outcome: std::thread::Result<Result<WsAnswer, ApiError>>,
    outgoing: &mpsc::Sender<Message>,
) {
    let answer = match outcome {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => WsAnswer::Error {
            problem: error.problem().clone(),
        },
        Err(_panic) => WsAnswer::Error {
            problem: Problem::new(
                500,
                "internal",
                Reason::Internal,
                "the server made a mistake; its log has more",
            ),
        },
    };
    let id = registered.id.clone();
    drop(registered);
    let _ = outgoing.send(text(Some(id), answer)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_type(outcome: Result<Registered, ApiError>) -> String {
        match outcome {
            Ok(_) => String::new(),
            Err(error) => error.problem().kind.clone(),
        }
    }

    #[test]
    fn an_id_is_taken_until_its_request_is_answered() {
        let active = Active::default();
        let first = active.register("a", None);
        let again = active.register("a", None);
        assert_eq!(problem_type(again), "urn:weft:problem:invalid-request");
        drop(first);
        assert!(active.register("a", None).is_ok());
        assert!(active.stop("a").is_err(), "it is no subscription");
    }

    #[test]
    fn subscriptions_are_bounded_and_other_requests_are_not_among_them() {
        let active = Active::default();
        let stop = || Some(CancellationToken::new());
        let open: Vec<_> = (0..MAX_SUBSCRIPTIONS)
            .map(|number| active.register(&number.to_string(), stop()).ok())
            .collect();
        assert_eq!(
            problem_type(active.register("more", stop())),
            "urn:weft:problem:too-many-subscriptions"
        );
        assert!(active.register("submit", None).is_ok());
        drop(open);
        assert!(active.register("more", stop()).is_ok());
    }
}
