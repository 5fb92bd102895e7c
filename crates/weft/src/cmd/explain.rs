//! `weft explain`.

use std::process::ExitCode;

use weft_api::{ConsideredView, ExplainView};
use weft_client::Client;

use super::resolve_job;
use super::service::find_service;
use crate::args::Global;
use crate::exit::{self, Failed};
use crate::output::Output;

/// Says why work is where it is, or nowhere; exits 75 when it is nowhere.
pub async fn explain(
    client: &Client,
    wanted: &str,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failed> {
    let explained = match find_service(client, wanted, global).await? {
        Some(service) => client.explain_workload(&service.id).await?,
        None => client.explain(&resolve_job(client, wanted).await?).await?,
    };
    if output.is_structured() {
        output.value(&explained)?;
    } else {
        write(&explained, output)?;
    }
    Ok(
        if matches!(explained.state.as_str(), "queued" | "pending" | "placing") {
            ExitCode::from(exit::TRY_AGAIN)
        } else {
            ExitCode::SUCCESS
        },
    )
}

fn write(explained: &ExplainView, output: &Output) -> Result<(), Failed> {
    output.line(&format!(
        "{} is {}: {}",
        explained.id, explained.state, explained.summary
    ))?;
    if let Some(change) = &explained.nearest_change {
        output.line(&format!("nearest change: {change}"))?;
    }
    if explained.considered.is_empty() {
        return Ok(());
    }
    let row = |candidate: &ConsideredView| {
        let terms: Vec<String> = candidate
            .terms
            .iter()
            .map(|term| format!("{} {}", term.name, term.micro_dollars))
            .collect();
        vec![
            candidate.node.clone(),
            if candidate.chosen {
                "chosen"
            } else if candidate.refused.is_some() {
                "refused"
            } else {
                "possible"
            }
            .to_owned(),
            candidate
                .score
                .map(|score| score.to_string())
                .unwrap_or_default(),
            candidate
                .refused
                .clone()
                .unwrap_or_else(|| terms.join(", ")),
        ]
    };
    output.list(
        &explained.considered,
        &["NODE", "VERDICT", "SCORE µ$", "WHY"],
        row,
        |candidate| candidate.node.clone(),
    )
}
