//! One module a command.

mod agent;
mod completion;
mod context;
mod dlq;
mod doctor;
mod events;
mod explain;
mod job;
mod logs;
mod node;
mod run;
mod select;
mod serve;
mod service;
mod token;
mod top;
mod version;
mod wait;
mod watch;

use std::process::ExitCode;

use weft_client::Client;

use crate::args::{Cli, Command};
use crate::context::client;
use crate::exit::{Failed, USAGE};
use crate::output::Output;

/// Runs the chosen command.
pub async fn dispatch(cli: Cli, output: &Output) -> Result<ExitCode, Failed> {
    let global = &cli.global;
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Run(args) => run::run(global, *args, output)
            .await
            .map_err(Failed::for_run),
        Command::Ps(args) => job::ps(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Apply(args) => service::apply(&client(global)?, &args, global, output).await,
        Command::Plan(args) => service::plan(&client(global)?, &args, global, output).await,
        Command::Delete(args) => service::delete(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Get(args) => job::get(&client(global)?, &args.id, global, output)
            .await
            .map(done),
        Command::Exec(args) => service::exec(&client(global)?, &args, global, output)
            .await
            .map_err(Failed::for_run),
        Command::Stop(args) => service::stop(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Start(args) => service::start(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Restart(args) => service::restart(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Pause(args) => service::set_paused(&client(global)?, &args, true, global, output)
            .await
            .map(done),
        Command::Resume(args) => {
            service::set_paused(&client(global)?, &args, false, global, output)
                .await
                .map(done)
        }
        Command::Scale(args) => service::scale(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::PortForward(args) => {
            service::port_forward(&client(global)?, &args, global, output)
                .await
                .map(done)
        }
        Command::Secret(command) => service::secret(&client(global)?, command, global, output)
            .await
            .map(done),
        Command::Logs(args) => logs::logs(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Explain(args) => {
            explain::explain(&client(global)?, &args.id, global, output).await
        }
        Command::Wait(args) => wait::wait(&client(global)?, &args, global, output).await,
        Command::Job(command) => job::job(&client(global)?, command, global, output).await,
        Command::Dlq(command) => dlq::dlq(&client(global)?, command, global, output).await,
        Command::Top(args) => top::top(&client(global)?, &args, global, output)
            .await
            .map(done),
        Command::Node(command) => node::node(&client(global)?, command, output)
            .await
            .map(done),
        Command::Token(command) => token::token(&client(global)?, command, output)
            .await
            .map(done),
        Command::Events(args) => events::events(&client(global)?, &args, output)
            .await
            .map(done),
        Command::Up(args) => serve::up(global, args, output).await.map(done),
        Command::Server(args) => serve::server(global, args, output).await.map(done),
        Command::Agent(args) => agent::agent(global, args, output).await.map(done),
        Command::Doctor => doctor::doctor(global, output).await,
        Command::Context(command) => context::context(global, command, output).map(done),
        Command::Config(command) => context::config(global, command, output).map(done),
        Command::Version => version::version(global, output).await.map(done),
        Command::Completion { shell } => completion::completion(shell).map(done),
        Command::Openapi => output.line(&weft_server::openapi_json()).map(done),
    }
}

/// How many of the newest jobs a name or a prefix is looked for in.
const SEARCHED_JOBS: usize = 1_000;

/// The id of the job that an id, a unique prefix, a name or `last` means.
pub async fn resolve_job(client: &Client, wanted: &str) -> Result<String, Failed> {
    if wanted.parse::<weft_types::JobId>().is_ok() {
        return Ok(wanted.to_owned());
    }
    let jobs = client.jobs(SEARCHED_JOBS).await?;
    if wanted == "last" {
        let newest = jobs.first().map(|job| job.id.to_string());
        return newest.ok_or_else(|| no_job(wanted));
    }
    let by_name = jobs.iter().find(|job| job.name == wanted);
    if let Some(job) = by_name {
        return Ok(job.id.to_string());
    }
    let matches: Vec<String> = jobs
        .iter()
        .map(|job| job.id.to_string())
        .filter(|id| {
            id.starts_with(wanted)
                || id
                    .strip_prefix("job-")
                    .is_some_and(|id| id.starts_with(wanted))
        })
        .collect();
    match matches.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(no_job(wanted)),
        several => Err(Failed::new(
            USAGE,
            "ambiguous",
            weft_types::Reason::InvalidSpec,
            format!("{wanted:?} could be {}", several.join(", ")),
        )
        .with_next("write more of the id")),
    }
}

fn no_job(wanted: &str) -> Failed {
    Failed::new(
        crate::exit::FAILED,
        "not-found",
        weft_types::Reason::InvalidSpec,
        format!("there is no job {wanted:?}"),
    )
    .with_next("`weft job ls` lists them")
}
