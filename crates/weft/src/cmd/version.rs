//! `weft version`.

use weft_api::VersionView;

use crate::args::Global;
use crate::context;
use crate::exit::Failed;
use crate::output::Output;

/// Writes the versions of this command, the server and its nodes, as far as they can be reached.
pub async fn version(global: &Global, output: &Output) -> Result<(), Failed> {
    let mut versions = match context::client(global) {
        Ok(client) => client.version().await.unwrap_or_else(|_| unknown()),
        Err(_) => unknown(),
    };
    versions.client = env!("CARGO_PKG_VERSION").to_owned();
    let nodes: Vec<String> = versions
        .nodes
        .iter()
        .map(|(version, count)| format!("{version} ({count})"))
        .collect();
    let fields = [
        ("client", versions.client.clone()),
        (
            "server",
            versions
                .server
                .clone()
                .unwrap_or_else(|| "not reached".to_owned()),
        ),
        ("nodes", nodes.join(", ")),
    ];
    output.one(&versions, &fields, &versions.client)
}

fn unknown() -> VersionView {
    VersionView {
        client: String::new(),
        server: None,
        nodes: Default::default(),
    }
}
