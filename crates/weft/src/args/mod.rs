//! The command line as types.

mod services;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use weft_types::{Bytes, Deadline, Millicores, NodeId, WorkloadName, parse_duration};

pub use services::{
    ApplyArgs, DeleteArgs, ExecArgs, ForwardArgs, GetArgs, NamesArgs, PlanArgs, ScaleArgs,
    SecretCommand,
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

#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// A byte operation: counteq, crc32c, fnv64, xor, add; with =N for its immediate, as in counteq=10
    #[arg(long, value_name = "OP", conflicts_with_all = ["wasm", "command"])]
    pub op: Option<String>,
    /// A WebAssembly program (.wasm, or .wat text)
    #[arg(long, value_name = "FILE")]
    pub wasm: Option<PathBuf>,
    /// One task a file; globs; {} in the command stands for it
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = None)]
    pub each: Vec<String>,
    /// This many tasks; {index} in the command stands for the number
    #[arg(long, value_name = "N", conflicts_with = "each")]
    pub array: Option<u64>,
    /// A workload file instead of a command
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["op", "wasm", "each", "array"])]
    pub file: Option<PathBuf>,
    /// CPU for each task, as in 500m or 2
    #[arg(long)]
    pub cpu: Option<Millicores>,
    /// Memory for each task, as in 256Mi
    #[arg(long)]
    pub memory: Option<Bytes>,
    /// Disk for each task, as in 1Gi
    #[arg(long)]
    pub disk: Option<Bytes>,
    /// GPUs for each task, as in 1 or 2:H100
    #[arg(long, value_name = "N[:MODEL]")]
    pub gpu: Option<String>,
    /// Time limit of each attempt, as in 30s or 5m
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How many more times a failed task is tried
    #[arg(long)]
    pub retries: Option<u32>,
    /// What to optimise for: cheapest, balanced, fastest, binpack, spread
    #[arg(long)]
    pub strategy: Option<String>,
    /// Name of the job
    #[arg(long)]
    pub name: Option<WorkloadName>,
    /// Environment variable, NAME=VALUE; NAME alone passes this shell's
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// A label the node must have
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// How a process is contained: full or none
    #[arg(long, value_name = "MODE")]
    pub sandbox: Option<String>,
    /// Begin once this job has succeeded: its id, a unique prefix, or its name; may be repeated
    #[arg(long, value_name = "JOB")]
    pub after: Vec<String>,
    /// When the whole job must have ended, as in 30m or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub deadline: Option<Deadline>,
    /// Start a task that runs far longer than the others a second time on another node
    #[arg(long)]
    pub speculate: bool,
    /// Larger runs first, -100 to 100
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Print the id and return; the work goes on
    #[arg(short, long)]
    pub detach: bool,
    /// Where to put files that tasks write to $WEFT_OUT
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The command, or the arguments of the WebAssembly program
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct PsArgs {
    /// Also what has ended
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Args, Debug)]
pub struct IdArgs {
    /// Id, a unique prefix of it, a name, or `last`
    pub id: String,
}

#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Id, a unique prefix of it, a name, or `last`
    pub id: String,
    /// Go on until the work ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only this task or unit
    #[arg(long, visible_alias = "instance")]
    pub task: Option<u32>,
    /// Begin each line with its task or unit even when there is only one
    #[arg(long)]
    pub prefix: bool,
    /// Only the last lines of each task or unit
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Only lines of the last so long, as in 10m; of services
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub since: Option<Duration>,
    /// Begin each line with its time; of services
    #[arg(long)]
    pub timestamps: bool,
    /// Of the instance before the last restart; of services
    #[arg(long)]
    pub previous: bool,
}

#[derive(Args, Debug)]
pub struct WaitArgs {
    /// Id, a unique prefix of it, a name, or `last`
    pub id: String,
    /// The state to wait for [default: finished for jobs, healthy for services]
    #[arg(long = "for", value_enum)]
    pub state: Option<WaitFor>,
    /// How long to wait
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// At least one task has been handed out, or one unit runs
    Running,
    /// Every replica of a service is ready and of its newest revision
    Healthy,
    /// Every task completed
    Succeeded,
    /// Every task is final
    Finished,
    /// It is not known any more
    Gone,
}

#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// The newest jobs
    #[command(visible_alias = "list")]
    Ls {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One job, or with JOB/TASK one task with the history of its attempts
    Show(IdArgs),
    /// What its tasks left behind
    Results(IdArgs),
    /// Its tasks
    Tasks {
        /// Id, a unique prefix of it, a name, or `last`
        id: String,
        /// How many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Cancel what is not final
    Cancel(IdArgs),
    /// Queue its failed, dead and cancelled tasks again
    Retry(IdArgs),
    /// Forget a job that has ended, with its results
    Rm(IdArgs),
    /// Follow the progress of jobs until they end; exits as the first that failed did
    Watch(WatchArgs),
}

#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Ids, unique prefixes of them, names, or `last`
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
}

#[derive(Args, Debug)]
pub struct TopArgs {
    /// Print once and end, also on a terminal
    #[arg(long)]
    pub once: bool,
    /// How often it is refreshed, and over how long rates are measured
    #[arg(long, value_parser = parse_duration, default_value = "1s", value_name = "TIME")]
    pub interval: Duration,
    /// How many jobs
    #[arg(long, default_value_t = 20)]
    pub jobs: usize,
}

#[derive(Subcommand, Debug)]
pub enum DlqCommand {
    /// Dead letters, newest job first
    #[command(visible_alias = "list")]
    Ls {
        /// Only of this job
        #[arg(long, value_name = "ID")]
        job: Option<String>,
        /// Only those that died for this reason, as in nonzero-exit
        #[arg(long)]
        reason: Option<weft_types::Reason>,
        /// How many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// One dead letter with every attempt and the end of what it printed
    Show {
        /// JOB/TASK
        #[arg(value_name = "JOB/TASK")]
        letter: String,
    },
    /// Give dead letters all their attempts again
    Requeue(DlqChangeArgs),
    /// Take dead letters off the list; their results stay
    Drop(DlqChangeArgs),
}

#[derive(Args, Debug)]
pub struct DlqChangeArgs {
    /// JOB for all of a job, JOB/TASK, JOB/1-3, JOB/1,4-6; JOB as everywhere: id, prefix, name, `last`
    #[arg(value_name = "JOB[/TASKS]", required_unless_present = "all")]
    pub letters: Vec<String>,
    /// Those of every job
    #[arg(long, conflicts_with = "letters")]
    pub all: bool,
    /// Only those that died for this reason
    #[arg(long)]
    pub reason: Option<weft_types::Reason>,
}

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

/// What runs containers on a node.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Docker or Podman when there is one, else Weft itself
    Auto,
    /// Docker Engine
    Docker,
    /// Podman
    Podman,
    /// Weft itself, by crun, runc or runsc
    Oci,
    /// Nothing: no services here
    None,
}

impl From<Engine> for weft_agent::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Docker => Self::Docker,
            Engine::Podman => Self::Podman,
            Engine::Oci => Self::Oci,
            Engine::None => Self::None,
        }
    }
}

/// What becomes of services on a node when its agent is stopped.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShutdown {
    /// They run on, but for exclusive ones; the next start finds them again
    Keep,
    /// They are stopped and removed
    Remove,
}

impl From<OnShutdown> for weft_agent::OnShutdown {
    fn from(on_shutdown: OnShutdown) -> Self {
        match on_shutdown {
            OnShutdown::Keep => Self::Keep,
            OnShutdown::Remove => Self::Remove,
        }
    }
}

/// Settings that a server and `up` share.
#[derive(Args, Debug, Clone)]
pub struct ServeArgs {
    /// Where keys, jobs and results are kept [default: $XDG_DATA_HOME/weft]
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [default: 0.0.0.0:7700]
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Also plain HTTP on this loopback address, without any protection
    #[arg(long, value_name = "ADDR")]
    pub insecure_http: Option<std::net::SocketAddr>,
    /// Name of a new cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// A further name or address under which agents reach this server
    #[arg(long, value_name = "NAME")]
    pub advertise: Vec<String>,
    /// How long a node may be silent before its tasks go elsewhere [default: 3s]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub lease_ttl: Option<Duration>,
    /// How long the certificates of nodes live [default: 1d]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub cert_ttl: Option<Duration>,
    /// How long results are kept [default: 1d]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub result_ttl: Option<Duration>,
    /// Do not announce the server on the local network
    #[arg(long)]
    pub no_mdns: bool,
    /// A namespace whose containers may be privileged, use the node's network and mount its
    /// directories; may be repeated
    #[arg(long, value_name = "NAMESPACE")]
    pub allow_privileged: Vec<String>,
    /// Take jobs from Redis, as in redis://127.0.0.1:6379/0; more in [queue.redis] of the config file
    #[arg(
        long,
        env = "WEFT_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis_url: Option<String>,
    /// Take jobs from NATS JetStream, as in nats://127.0.0.1:4222; more in [queue.nats] of the config file
    #[arg(
        long,
        env = "WEFT_NATS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub nats_url: Option<String>,
}

#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// How many agents to run here
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub nodes: u32,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// What agents do, alone and within `weft up`.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// What runs containers here [default: auto]
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// What becomes of services here when this process is stopped [default: keep]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_shutdown: Option<OnShutdown>,
    /// Where other nodes reach replicas here [default: 0.0.0.0:0, a free port]
    #[arg(long, value_name = "ADDR")]
    pub peer_listen: Option<std::net::SocketAddr>,
    /// A private network that inputs may be fetched from by URL, as in 192.168.0.0/16; may be
    /// repeated
    #[arg(long, value_name = "NET")]
    pub fetch_from: Vec<IpNet>,
}

#[derive(Args, Debug, Clone)]
pub struct ServerArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Args, Debug, Clone)]
pub struct AgentArgs {
    /// Address of a server [default: the token's, or found on the local network]
    #[arg(long, value_name = "ADDR")]
    pub join: Option<String>,
    /// Where its key and its work are kept [default: $XDG_DATA_HOME/weft-agent]
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Its id [default: made from the host name]
    #[arg(long, value_name = "ID")]
    pub id: Option<NodeId>,
    /// A label, for placement
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// How much of the machine work may use, in percent [default: 80]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub threshold: Option<u8>,
    #[command(flatten)]
    pub node: NodeArgs,
    /// A directory for disks of virtual machines, under a name; may be repeated
    #[arg(long, value_name = "NAME=DIR")]
    pub storage_pool: Vec<String>,
    /// CPU to offer, instead of what the machine has
    #[arg(long)]
    pub cpu: Option<Millicores>,
    /// Memory to offer, instead of what the machine has
    #[arg(long)]
    pub memory: Option<Bytes>,
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
