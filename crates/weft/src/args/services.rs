//! The commands for services, from day to day.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use weft_types::parse_duration;

#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// Workload file (YAML with one or more documents, TOML or JSON), a directory, or - for stdin
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Also the files of directories below
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Return when every service is as it was asked, or has failed
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "10m", requires = "wait")]
    pub timeout: Duration,
    /// Show what would change and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Workload file (YAML with one or more documents, TOML or JSON), a directory, or - for stdin
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Also the files of directories below
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Services: names, ids or unique prefixes of ids
    #[arg(value_name = "NAME", required_unless_present = "files")]
    pub names: Vec<String>,
    /// The services of these workload files
    #[arg(short, long = "file", value_name = "FILE", conflicts_with = "names")]
    pub files: Vec<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Show what would go and what would stay, and change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Return when nothing of them is left
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "5m", requires = "wait")]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub struct GetArgs {
    /// A service, or a job: id, unique prefix of it, or name
    pub id: String,
}

#[derive(Args, Debug)]
pub struct ExecArgs {
    /// The service
    pub name: String,
    /// Which of its units; any that runs when absent
    #[arg(long, value_name = "NUMBER", visible_alias = "unit")]
    pub instance: Option<u32>,
    /// Which service of a Compose application
    #[arg(long, value_name = "SERVICE")]
    pub part: Option<String>,
    /// Pass on standard input
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// With a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct NamesArgs {
    /// Services: names, ids or unique prefixes of ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Return when it is done
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "10m", requires = "wait")]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub struct PauseArgs {
    /// Services: names, ids or unique prefixes of ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Which of its units; all of them when absent
    #[arg(long, value_name = "NUMBER", visible_alias = "unit")]
    pub instance: Option<u32>,
}

#[derive(Args, Debug)]
pub struct ScaleArgs {
    /// NAME=REPLICAS, as in web=3; NAME=auto gives back to the load or the file what somebody set
    #[arg(required = true, value_name = "NAME=N")]
    pub services: Vec<String>,
    /// Return when so many are ready
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "10m", requires = "wait")]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub struct ForwardArgs {
    /// The service
    pub name: String,
    /// Ports: LOCAL:REMOTE, or one number for both; LOCAL 0 takes a free one
    #[arg(required = true, value_name = "PORT")]
    pub ports: Vec<String>,
    /// Which of its units; any that runs when absent
    #[arg(long, value_name = "NUMBER", visible_alias = "unit")]
    pub instance: Option<u32>,
}

#[derive(Subcommand, Debug)]
pub enum SecretCommand {
    /// Set a secret: all of its keys at once
    Set {
        /// Its name
        name: String,
        /// KEY=- reads the value of that key from standard input
        #[arg(value_name = "KEY=-")]
        values: Vec<String>,
        /// The value of a key is the content of a file
        #[arg(long, value_name = "KEY=FILE")]
        from_file: Vec<String>,
        /// Keys and values as lines KEY=VALUE of a file
        #[arg(long, value_name = "FILE")]
        from_env_file: Vec<PathBuf>,
    },
    /// All secrets, with their keys
    #[command(visible_alias = "list")]
    Ls,
    /// One secret's keys; values are never shown
    Show {
        /// Its name
        name: String,
    },
    /// Forget a secret
    Rm {
        /// Its name
        name: String,
    },
}
