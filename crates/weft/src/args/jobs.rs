//! Work that there is: what it prints, how it ends, its dead letters.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use weft_types::parse_duration;

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
