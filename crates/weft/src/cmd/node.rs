//! `weft node`.

use weft_api::{NodePatch, NodeView};
use weft_client::Client;
use weft_types::{Money, NodeValidity};

use crate::args::{Format, NodeCommand};
use crate::exit::Failed;
use crate::output::Output;

/// Runs a `node` command.
pub async fn node(client: &Client, command: NodeCommand, output: &Output) -> Result<(), Failed> {
    match command {
        NodeCommand::Ls => list(&client.nodes().await?, output),
        NodeCommand::Show(args) => show(&client.node(&args.id).await?, output),
        NodeCommand::Cordon(args) => {
            let patch = NodePatch {
                cordoned: Some(true),
                ..NodePatch::default()
            };
            changed(
                &client.patch_node(&args.id, &patch).await?,
                "nothing new is placed there",
                output,
            )
        }
        NodeCommand::Uncordon(args) => {
            let patch = NodePatch {
                cordoned: Some(false),
                draining: Some(false),
                ..NodePatch::default()
            };
            changed(
                &client.patch_node(&args.id, &patch).await?,
                "open for work",
                output,
            )
        }
        NodeCommand::Drain(args) => {
            let patch = NodePatch {
                draining: Some(true),
                ..NodePatch::default()
            };
            changed(
                &client.patch_node(&args.id, &patch).await?,
                "what waits there moves away",
                output,
            )
        }
        NodeCommand::Approve { id, code } => {
            let patch = NodePatch {
                approve: Some(code),
                ..NodePatch::default()
            };
            changed(
                &client.patch_node(&id, &patch).await?,
                "it may come back",
                output,
            )
        }
        NodeCommand::Rm(args) => {
            client.remove_node(&args.id).await?;
            output.note(&format!(
                "removed {}: its certificate opens nothing any more",
                args.id
            ));
            Ok(())
        }
    }
}

fn changed(node: &NodeView, what: &str, output: &Output) -> Result<(), Failed> {
    output.note(&format!("{}: {what}", node.id));
    if output.is_structured() {
        output.value(node)
    } else {
        Ok(())
    }
}

fn list(nodes: &[NodeView], output: &Output) -> Result<(), Failed> {
    let wide = output.format == Format::Wide;
    let mut columns = vec![
        "ID", "STATE", "CPU", "MEMORY", "RUNNING", "RUNTIMES", "VERSION",
    ];
    if wide {
        columns.extend(["HOST", "ARCH", "LABELS", "PRICE", "CERTIFICATE", "SEEN"]);
    }
    let row = |node: &NodeView| {
        let runtimes: Vec<&str> = node
            .capacity
            .runtimes
            .iter()
            .map(|kind| kind.as_str())
            .collect();
        let mut cells = vec![
            node.id.clone(),
            node.state.to_string(),
            node.capacity.cpu.to_string(),
            mebibytes(node.capacity.memory.0),
            node.usage.running.to_string(),
            runtimes.join(","),
            node.version.clone(),
        ];
        if wide {
            let labels: Vec<String> = node
                .capacity
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            cells.extend([
                node.hostname.clone(),
                node.capacity.arch.clone(),
                labels.join(","),
                price(node),
                node.certificate
                    .as_ref()
                    .map(|c| format!("{} until {}", c.validity, c.expires_at))
                    .unwrap_or_default(),
                node.last_seen_at.clone().unwrap_or_default(),
            ]);
        }
        cells
    };
    output.list(nodes, &columns, row, |node| node.id.clone())?;
    for node in nodes {
        warn_of_certificate(node, output);
    }
    Ok(())
}

/// Warns long before a certificate ends; renewal is automatic, so a late one is a sign of trouble.
pub fn warn_of_certificate(node: &NodeView, output: &Output) {
    let Some(certificate) = &node.certificate else {
        return;
    };
    match certificate.validity {
        NodeValidity::Fresh | NodeValidity::RenewDue => {}
        NodeValidity::ExpiringSoon => {
            output.warn(&format!(
                "{}: its certificate ends at {} and was not renewed",
                node.id, certificate.expires_at
            ));
        }
        NodeValidity::Expired => {
            let next = match &node.approval_code {
                Some(code) => format!(
                    "it waits for `weft node approve {} {code}`: compare the code first",
                    node.id
                ),
                None => "it can ask to come back when its agent runs".to_owned(),
            };
            output.warn(&format!(
                "{}: its certificate ended at {}; {next}",
                node.id, certificate.expires_at
            ));
        }
    }
}

fn show(node: &NodeView, output: &Output) -> Result<(), Failed> {
    let runtimes: Vec<&str> = node
        .capacity
        .runtimes
        .iter()
        .map(|kind| kind.as_str())
        .collect();
    let labels: Vec<String> = node
        .capacity
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let certificate = node.certificate.as_ref();
    let fields = [
        ("id", node.id.clone()),
        ("state", node.state.to_string()),
        ("detail", node.detail.clone().unwrap_or_default()),
        ("host", node.hostname.clone()),
        ("version", node.version.clone()),
        (
            "platform",
            format!("{}/{}", node.capacity.os, node.capacity.arch),
        ),
        (
            "cpu",
            format!(
                "{} offered, {}m in use",
                node.capacity.cpu, node.usage.cpu_millicores
            ),
        ),
        (
            "memory",
            format!(
                "{} offered, {} in use",
                mebibytes(node.capacity.memory.0),
                mebibytes(node.usage.memory_bytes)
            ),
        ),
        (
            "disk",
            format!(
                "{} offered, {} free",
                mebibytes(node.capacity.disk.0),
                mebibytes(node.usage.free_disk_bytes)
            ),
        ),
        ("gpus", node.capacity.gpus.join(", ")),
        ("runtimes", runtimes.join(", ")),
        ("labels", labels.join(", ")),
        ("price", price(node)),
        (
            "tasks",
            format!("{} running, {} held", node.usage.running, node.usage.held),
        ),
        (
            "certificate",
            certificate
                .map(|c| format!("{}, until {}", c.validity, c.expires_at))
                .unwrap_or_default(),
        ),
        ("joined", node.joined_at.clone()),
        ("seen", node.last_seen_at.clone().unwrap_or_default()),
        ("missing", node.missing.join("\n")),
        ("approval", node.approval_code.clone().unwrap_or_default()),
    ];
    output.one(node, &fields, &node.id)?;
    warn_of_certificate(node, output);
    Ok(())
}

/// What an hour of it costs; empty where nobody has said.
fn price(node: &NodeView) -> String {
    match node.capacity.price_per_hour {
        Money(0) => String::new(),
        price => format!("{price}/h"),
    }
}

fn mebibytes(bytes: u64) -> String {
    if bytes >= 10 << 30 {
        format!("{}Gi", bytes >> 30)
    } else {
        format!("{}Mi", bytes >> 20)
    }
}
