//! Events, in the shape of CloudEvents 1.0.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened, as a CloudEvent (structured JSON form) with its sequence number.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// `1.0`.
    pub specversion: String,
    /// The sequence number as text.
    pub id: String,
    /// `weft://<cluster>`.
    pub source: String,
    /// `weft.<noun>.<past participle>`, as in `weft.node.offline`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about: an id.
    pub subject: String,
    /// When it happened.
    pub time: String,
    /// Grows with each event, with gaps where a server was started; pass it as `since` to go on
    /// after it.
    pub seq: u64,
    /// The rest: `reason`, `detail` and what belongs to the type.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}
