//! A control plane and agents inside this process: for `weft up`, and for a run without a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use weft_agent::{Agent, Engine};
use weft_server::Server;
use weft_types::NodeId;

use crate::exit::Failed;

/// How many agents a private cluster has.
pub const PRIVATE_NODES: u32 = 3;

/// A server with its agents.
pub struct Cluster {
    server: Server,
    agents: Vec<Agent>,
}

impl Cluster {
    /// Starts a server and `nodes` agents, each with a directory of its own beneath the one of
    /// `agents`, and its other settings.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(
        config: weft_server::Config,
        nodes: u32,
        agents: weft_agent::Config,
    ) -> Result<Self, Failed> {
        let server = Server::start(config)
            .await
            .map_err(|error| could_not("the server", &error))?;
        let mut cluster = Self {
            server,
            agents: Vec::new(),
        };
        if let Err(failed) = cluster.add_agents(nodes, &agents).await {
            cluster.shutdown().await;
            return Err(failed);
        }
        Ok(cluster)
    }

    /// Starts a server and three agents in a directory that goes when they do.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_private() -> Result<(Self, tempfile::TempDir), Failed> {
        let dir = tempfile::Builder::new()
            .prefix("weft-run-")
            .tempdir()
            .map_err(|error| Failed::internal(format!("no temporary directory: {error}")))?;
        let config = weft_server::Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            mdns: false,
            cluster: Some("private".to_owned()),
            ..weft_server::Config::new(dir.path().to_path_buf())
        };
        let server = Server::start(config)
            .await
            .map_err(|error| could_not("the private server", &error))?;
        let mut cluster = Self {
            server,
            agents: Vec::new(),
        };
        let agents = weft_agent::Config {
            engine: Engine::None,
            cleanup_dir: Some(dir.path().to_path_buf()),
            ..weft_agent::Config::new(dir.path().join("agents"))
        };
        match cluster.add_agents(PRIVATE_NODES, &agents).await {
            Ok(()) => Ok((cluster, dir)),
            Err(failed) => {
                cluster.shutdown().await;
                Err(failed)
            }
        }
    }

    async fn add_agents(
        &mut self,
        nodes: u32,
        settings: &weft_agent::Config,
    ) -> Result<(), Failed> {
        let token = self
            .server
            .join_token(nodes.max(1))
            .await
            .map_err(|error| could_not("a join token", &error))?;
        let starts = (1..=nodes).map(|number| {
            let id: Result<NodeId, String> = format!("node-{number}").parse();
            let token = token.clone();
            let data_dir = settings.data_dir.join(format!("node-{number}"));
            async move {
                let config = weft_agent::Config {
                    node_id: Some(id.map_err(Failed::internal)?),
                    token: Some(token),
                    // The agents of one process share its machine.
                    share: nodes.max(1),
                    data_dir,
                    ..settings.clone()
                };
                Agent::start(config)
                    .await
                    .map_err(|error| could_not("an agent", &error))
            }
        });
        for started in futures::future::join_all(starts).await {
            self.agents.push(started?);
        }
        Ok(())
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Path of the `admin.json` that opens the cluster.
    pub fn admin_file(&self) -> PathBuf {
        self.server.admin_file()
    }

    /// Stops the agents, then the server.
    pub async fn shutdown(self) {
        futures::future::join_all(self.agents.into_iter().map(Agent::shutdown)).await;
        self.server.shutdown().await;
    }
}

/// A failure to start, with every cause.
pub fn could_not(what: &str, error: &dyn std::error::Error) -> Failed {
    let mut detail = format!("{what} did not start: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !detail.contains(&text) {
            detail.push_str(&format!(": {text}"));
        }
        cause = error.source();
    }
    Failed::internal(detail)
}
