//! `weft doctor`: what this machine can do, and what is wrong with the cluster.

use std::process::ExitCode;

use serde::Serialize;
use weft_types::{NodeState, NodeValidity};

use crate::args::Global;
use crate::exit::{self, Failed};
use crate::output::Output;
use crate::{config, context};

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    what: String,
    /// `ok`, `warning` or `problem`.
    verdict: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Check {
    fn new(what: &str, verdict: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            verdict,
            detail: detail.into(),
            next: None,
        }
    }

    fn with_next(self, next: impl Into<String>) -> Self {
        Self {
            next: Some(next.into()),
            ..self
        }
    }
}

/// Looks at this machine and at the cluster; exits 1 when something is wrong.
pub async fn doctor(global: &Global, output: &Output) -> Result<ExitCode, Failed> {
    let mut checks = machine().await;
    checks.extend(cluster(global).await);
    let row = |check: &Check| {
        vec![
            check.verdict.to_owned(),
            check.what.clone(),
            check.detail.clone(),
            check.next.clone().unwrap_or_default(),
        ]
    };
    output.list(&checks, &["", "WHAT", "FOUND", "NEXT"], row, |check| {
        check.what.clone()
    })?;
    let bad = checks.iter().any(|check| check.verdict == "problem");
    Ok(if bad {
        ExitCode::from(exit::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

async fn machine() -> Vec<Check> {
    let probed = match std::env::current_exe() {
        Ok(exe) => weft_sandbox::probe(exe)
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let capabilities = match probed {
        Ok(capabilities) => capabilities,
        Err(error) => return vec![Check::new("sandbox", "problem", error)],
    };
    if capabilities.missing.is_empty() {
        return vec![Check::new(
            "sandbox",
            "ok",
            "namespaces, cgroups, seccomp and Landlock work here",
        )];
    }
    let missing = capabilities.missing.iter();
    missing
        .map(|missing| {
            Check::new(
                "sandbox",
                "warning",
                format!("{}: {}", missing.what, missing.why),
            )
            .with_next(&missing.fix)
        })
        .collect()
}

async fn cluster(global: &Global) -> Vec<Check> {
    let chosen =
        config::load(global.config.as_deref()).and_then(|config| context::choose(global, &config));
    match chosen {
        Ok(Some(_)) => {}
        Ok(None) => {
            return vec![
                Check::new("cluster", "warning", "none is configured")
                    .with_next("start one with `weft up`"),
            ];
        }
        Err(failed) => return vec![Check::new("cluster", "problem", failed.problem.detail)],
    }
    let client = match context::client(global) {
        Ok(client) => client,
        Err(failed) => return vec![Check::new("cluster", "problem", failed.problem.detail)],
    };
    let nodes = match client.nodes().await {
        Ok(nodes) => nodes,
        Err(error) => {
            let failed = Failed::from(error);
            let check = Check::new("cluster", "problem", failed.problem.detail);
            return vec![Check {
                next: failed.problem.next,
                ..check
            }];
        }
    };
    let healthy = nodes
        .iter()
        .filter(|node| node.state == NodeState::Healthy)
        .count();
    let mut checks = vec![Check::new("server", "ok", client.server())];
    let verdict = if healthy == 0 { "problem" } else { "ok" };
    checks.push(Check::new(
        "nodes",
        verdict,
        format!("{healthy} of {} healthy", nodes.len()),
    ));
    for node in &nodes {
        if matches!(node.state, NodeState::Suspect | NodeState::Offline) {
            let detail = node
                .detail
                .clone()
                .unwrap_or_else(|| node.state.to_string());
            checks.push(
                Check::new(&node.id, "problem", detail).with_next("look whether its agent runs"),
            );
        }
        let late = node
            .certificate
            .as_ref()
            .filter(|c| c.validity >= NodeValidity::ExpiringSoon);
        if let Some(certificate) = late {
            let detail = format!(
                "certificate {}, until {}",
                certificate.validity, certificate.expires_at
            );
            checks.push(
                Check::new(&node.id, "warning", detail)
                    .with_next("look whether its agent reaches the server"),
            );
        }
        for missing in &node.missing {
            checks.push(Check::new(&node.id, "warning", missing.clone()));
        }
    }
    checks
}
