//! The command line as types.

mod cluster;
mod jobs;
mod run;
mod serve;
mod services;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use cluster::{ConfigCommand, ContextCommand, EventsArgs, NodeCommand, TokenCommand};
pub use jobs::{
    DlqChangeArgs, DlqCommand, IdArgs, JobCommand, LogsArgs, PsArgs, TopArgs, WaitArgs, WaitFor,
};
pub use run::RunArgs;
pub use serve::{AgentArgs, Engine, NodeArgs, OnShutdown, ServeArgs, ServerArgs, UpArgs};
pub use services::{
    ApplyArgs, DeleteArgs, ExecArgs, ForwardArgs, GetArgs, NamesArgs, PauseArgs, PlanArgs,
    ScaleArgs, SecretCommand,
};

/// One computer out of many: describe work once, it runs in the cheapest place that satisfies it.
#[derive(Parser, Debug)]
#[command(
    name = "weft",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = "Try it: weft run --op crc32c --each '/usr/share/common-licenses/*'")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Which cluster of the config file to talk to
    #[arg(long, global = true, env = "WEFT_CONTEXT")]
    pub context: Option<String>,
    /// The config file [default: $XDG_CONFIG_HOME/weft/config.toml]
    #[arg(long, global = true, env = "WEFT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The namespace to work in
    #[arg(short, long, global = true, env = "WEFT_NAMESPACE")]
    pub namespace: Option<weft_types::Namespace>,
    /// How results are written
    #[arg(
        short,
        long,
        global = true,
        env = "WEFT_OUTPUT",
        value_enum,
        default_value = "table"
    )]
    pub output: Format,
    /// Only results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// No colours (also NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Address of the control plane, as in https://10.0.0.1:7700
    #[arg(long, global = true, env = "WEFT_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Bearer token of the API; for `agent`: the join token
    #[arg(
        long,
        global = true,
        env = "WEFT_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// The cluster's CA certificate (PEM), with --server
    #[arg(long, global = true, env = "WEFT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// How results are written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// JSON; NDJSON for streams
    Json,
    /// YAML
    Yaml,
    /// Only names or ids
    Name,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run work now and exit as it did
    Run(Box<RunArgs>),
    /// Make services what their files say; submit the jobs among them
    Apply(ApplyArgs),
    /// What an apply would change, where units would go and what it costs; changes nothing
    #[command(visible_alias = "diff")]
    Plan(PlanArgs),
    /// Delete services with everything of theirs
    Delete(DeleteArgs),
    /// What runs and waits
    #[command(visible_alias = "list")]
    Ps(PsArgs),
    /// One service with its units, or one job
    Get(GetArgs),
    /// What units and tasks print, merged and prefixed
    Logs(LogsArgs),
    /// Run a command inside a unit of a service
    Exec(ExecArgs),
    /// Stop services; they stay known
    Stop(NamesArgs),
    /// Start services that were stopped
    Start(NamesArgs),
    /// Replace every unit of services, one after the other
    Restart(NamesArgs),
    /// Let units of services stand still; their memory stays
    Pause(PauseArgs),
    /// Let units that stand still go on
    Resume(PauseArgs),
    /// Change how many replicas services have
    Scale(ScaleArgs),
    /// Reach a port inside a unit from this machine
    PortForward(ForwardArgs),
    /// Secrets that services use
    #[command(subcommand, visible_alias = "secrets")]
    Secret(SecretCommand),
    /// Why work is where it is, or nowhere
    Explain(IdArgs),
    /// Wait until work is in a state
    Wait(WaitArgs),
    /// Jobs
    #[command(subcommand, visible_alias = "jobs")]
    Job(JobCommand),
    /// Dead letters: tasks that used up their attempts and wait for a person
    #[command(subcommand, visible_alias = "dead-letters")]
    Dlq(DlqCommand),
    /// Nodes and jobs as they are now, refreshed in place on a terminal
    Top(TopArgs),
    /// Nodes
    #[command(subcommand, visible_alias = "nodes")]
    Node(NodeCommand),
    /// Join tokens
    #[command(subcommand, visible_alias = "tokens")]
    Token(TokenCommand),
    /// What happened
    #[command(visible_alias = "event")]
    Events(EventsArgs),
    /// A control plane and agents on this machine
    Up(UpArgs),
    /// A control plane alone
    Server(ServerArgs),
    /// A node of a cluster
    Agent(AgentArgs),
    /// What this machine can do and what is wrong with the cluster
    Doctor,
    /// Clusters this command knows
    #[command(subcommand, visible_alias = "contexts")]
    Context(ContextCommand),
    /// Settings in force and where they come from
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Versions of this command, the server and its nodes
    Version,
    /// Completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The OpenAPI description of the REST interface
    #[command(hide = true)]
    Openapi,
}

/// Splits NAME=VALUE.
pub fn name_value(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_after_two_dashes_keeps_its_own_flags() {
        let cli = Cli::try_parse_from(["weft", "run", "--each", "a", "b", "--", "wc", "-w", "{}"])
            .unwrap();
        let Command::Run(run) = cli.command else {
            panic!("run")
        };
        assert_eq!(
            (run.each.len(), run.command),
            (2, vec!["wc".into(), "-w".into(), "{}".into()])
        );
    }
}
