//! Joining and coming back.

use std::sync::Arc;

use tonic::Status;
use weft_pki::JoinSecret;
use weft_proto::v1;
use weft_types::NodeId;

use super::service::status_of;
use crate::nodes::Rejoin;
use crate::state::Server;

fn node_id(text: &str) -> Result<NodeId, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("node_id: {error}")))
}

/// Exchanges a token for a certificate.
pub(super) async fn join(
    server: &Arc<Server>,
    request: v1::JoinRequest,
) -> Result<v1::JoinResponse, Status> {
    let id = node_id(&request.node_id)?;
    let secret = hex::decode(&request.token_secret)
        .ok()
        .and_then(|bytes| JoinSecret::from_bytes(&bytes))
        .ok_or_else(|| Status::invalid_argument("token_secret: not a token's secret"))?;
    let joined = server
        .nodes
        .join(&request.token_id, &secret, &id, &request.csr)
        .await
        .map_err(|error| status_of(&error))?;
    Ok(v1::JoinResponse {
        node_id: joined.node.to_string(),
        certificate: joined.certificate.der().to_vec().into(),
        ca: server.authority.certificate().der().to_vec().into(),
        cluster: server.authority.cluster().to_string(),
    })
}

/// Answers a node whose certificate expired.
pub(super) async fn rejoin(
    server: &Arc<Server>,
    request: v1::RejoinRequest,
) -> Result<v1::RejoinResponse, Status> {
    let id = node_id(&request.node_id)?;
    let answer = server
        .nodes
        .rejoin(&id, &request.csr)
        .await
        .map_err(|error| status_of(&error))?;
    let ca = server.authority.certificate().der().to_vec().into();
    Ok(match answer {
        Rejoin::Approved(certificate) => v1::RejoinResponse {
            certificate: certificate.der().to_vec().into(),
            ca,
            short_code: String::new(),
        },
        Rejoin::Waiting(short_code) => v1::RejoinResponse {
            certificate: Default::default(),
            ca,
            short_code,
        },
    })
}
