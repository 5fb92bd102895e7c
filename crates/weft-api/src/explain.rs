//! Why something is where it is, or nowhere.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::WhyView;

/// The last decision about a job or a task.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// The job.
    pub id: String,
    /// Its state.
    pub state: String,
    /// In one paragraph.
    pub summary: String,
    /// Why it waits or failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
    /// Every candidate that was considered.
    pub considered: Vec<ConsideredView>,
    /// The nearest change that would make it run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_change: Option<String>,
}

/// What was thought of one candidate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConsideredView {
    /// The node.
    pub node: String,
    /// Whether it was chosen.
    pub chosen: bool,
    /// The filter that refused it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The terms of its score; the lowest sum wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<ScoreTermView>,
    /// The sum of the terms, in micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<i64>,
}

/// One term of a score.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScoreTermView {
    /// Which.
    pub name: String,
    /// How much it adds, in micro-dollars.
    pub micro_dollars: i64,
}
