//! The standard health service, `grpc.health.v1.Health`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::state::Server;

/// What can be asked for: the server as a whole, and its service.
const SERVICES: [&str; 2] = ["", "weft.v1.Weft"];
/// How often a watched state is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Answers as `/readyz` does: whether the dispatcher answers.
pub struct HealthService {
    server: Arc<Server>,
}

impl HealthService {
    /// The service over a server's state.
    pub fn new(server: Arc<Server>) -> Self {
        Self { server }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found("service: there is no such service"));
        }
        Ok(Response::new(response(status(&self.server).await)))
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&request.get_ref().service.as_str());
        let state = (Arc::clone(&self.server), None);
        let states = futures::stream::unfold(state, move |(server, last)| async move {
            loop {
                if server.stopping.is_cancelled() && last.is_some() {
                    return None;
                }
                let now = if is_known {
                    status(&server).await
                } else {
                    ServingStatus::ServiceUnknown
                };
                if last != Some(now) {
                    return Some((Ok(response(now)), (server, Some(now))));
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    () = server.stopping.cancelled() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(states)))
    }
}

async fn status(server: &Server) -> ServingStatus {
    if server.stopping.is_cancelled() {
        return ServingStatus::NotServing;
    }
    match server.dispatcher.ask(|shell| shell.connected()).await {
        Ok(_) => ServingStatus::Serving,
        Err(_) => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
