//! The clients' interface over gRPC, beside REST: the same operations by the same functions.
//!
//! - [`service`]: the methods; each parses, asks what the REST handler asks, and converts.
//! - [`services`], [`unit_streams`]: what those of services do.
//! - [`convert`]: between messages and the shapes of `weft-api`.
//! - [`status`]: problem documents as gRPC statuses.
//! - [`health`]: the standard health service.

mod convert;
mod health;
mod service;
mod services;
mod status;
mod stream;
mod unit_streams;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Router, body::Body};
use tonic::Status;
use tonic_health::pb::health_server::HealthServer;
use tower_http::catch_panic::CatchPanicLayer;
use weft_api::MAX_BODY_BYTES;
use weft_proto::api;
use weft_proto::api::weft_server::WeftServer;

use crate::Error;
use crate::rest::access::admit;
use crate::state::Server;
use health::HealthService;
use service::WeftService;

/// The one path of the health service that needs no credentials, as `/health` of REST.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The paths of the interface.
///
/// # Errors
/// When its own description cannot be read, which is a defect.
pub fn router(server: &Arc<Server>) -> Result<Router, Error> {
    let weft = WeftServer::new(WeftService::new(Arc::clone(server)))
        .max_decoding_message_size(MAX_BODY_BYTES)
        .max_encoding_message_size(weft_proto::MAX_MESSAGE_BYTES);
    let health = HealthServer::new(HealthService::new(Arc::clone(server)));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(api::DESCRIPTION)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::Corrupt {
            what: "the description of the gRPC interface".to_owned(),
            detail: error.to_string(),
        })?;
    Ok(Router::new()
        .route_service("/weft.v1.Weft/{*method}", weft)
        .route_service("/grpc.health.v1.Health/{*method}", health)
        .route_service("/grpc.reflection.v1.ServerReflection/{*method}", reflection)
        .layer(from_fn_with_state(Arc::clone(server), guard))
        .layer(CatchPanicLayer::custom(panicked)))
}

/// Lets administrators pass, and gives every refusal its problem document.
async fn guard(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    if request.uri().path() != HEALTH_CHECK
        && let Err(error) = admit(&server, &request)
    {
        return status::of(&error).into_http();
    }
    status::with_problem(next.run(request).await)
}

/// A defect must not take the connection with it.
fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::http::Response<Body> {
    Status::internal("the server made a mistake; its log has more").into_http()
}
