//! Nodes, tokens, events, and the clusters that this command knows.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use weft_types::parse_duration;

use super::IdArgs;

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// All nodes
    #[command(visible_alias = "list")]
    Ls,
    /// One node
    Show(IdArgs),
    /// Place nothing new there
    Cordon(IdArgs),
    /// Open it again
    Uncordon(IdArgs),
    /// Place nothing new there and move away what waits there
    Drain(IdArgs),
    /// Remove it for good; its certificate opens nothing any more
    Rm(IdArgs),
    /// Let a node come back whose certificate expired
    Approve {
        /// The node
        id: String,
        /// The code that the node shows
        code: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token with which a machine joins
    Create {
        /// How long it is good for
        #[arg(long, value_parser = parse_duration, default_value = "1h")]
        ttl: Duration,
        /// How many machines may join with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
    },
    /// Tokens that are good
    #[command(visible_alias = "list")]
    Ls,
    /// Make a token worthless
    Rm(IdArgs),
}

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on as events happen
    #[arg(short, long)]
    pub follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
}

#[derive(Subcommand, Debug)]
pub enum ContextCommand {
    /// All clusters
    #[command(visible_alias = "list")]
    Ls,
    /// Add a cluster by the admin.json of its data directory
    Add {
        /// A name for it
        name: String,
        /// Path of admin.json
        admin_file: PathBuf,
    },
    /// Choose the cluster to talk to
    Use {
        /// Its name
        name: String,
    },
    /// Forget a cluster
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Settings in force
    Show {
        /// Also where each comes from
        #[arg(long)]
        origin: bool,
    },
}
