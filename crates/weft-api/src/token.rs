//! Join tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A wish for a join token.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRequest {
    /// How long it is good for, as in `1h`; an hour by default.
    pub ttl: Option<String>,
    /// How many nodes may join with it; 1 by default.
    pub uses: Option<u32>,
}

/// A new join token; its secret is shown this once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// Its id.
    pub id: String,
    /// What to pass to `weft agent --token`.
    pub token: String,
    /// The command that joins a machine.
    pub command: String,
    /// When it ends.
    pub expires_at: String,
    /// How many nodes may join with it.
    pub uses: u32,
}

/// A join token as it is listed: without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    pub expires_at: String,
    /// How many more nodes may join with it.
    pub uses_left: u32,
}
