//! Runs schedules of the dispatch path and of the declarative path, prints the seed of the first
//! that violates something, and then ends with 1.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_sim::{Options, Run, run, services};

const USAGE: &str = "\
usage: weft-sim [WORLD] --runs N [--from SEED] | --minutes N [--from SEED] | --seed N

WORLD is `dispatch` (jobs) or `services` (what is kept running). Without it --runs and --minutes
run each seed in both; --seed replays a seed of `dispatch`, with every event.";

/// What is simulated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum World {
    Dispatch,
    Services,
}

impl World {
    fn name(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Services => "services",
        }
    }

    fn run(self, seed: u64, options: &Options) -> Run {
        match self {
            Self::Dispatch => run(seed, options),
            Self::Services => services::run(seed, options),
        }
    }
}

/// What to run.
#[derive(Default)]
struct Arguments {
    world: Option<World>,
    seed: Option<u64>,
    runs: Option<u64>,
    minutes: Option<u64>,
    from: u64,
}

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(arguments) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match arguments.seed {
        Some(seed) => replay(arguments.world.unwrap_or(World::Dispatch), seed),
        None => explore(&arguments),
    }
}

fn parse() -> Option<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1).peekable();
    arguments.world = match words.peek().map(String::as_str) {
        Some("dispatch") => Some(World::Dispatch),
        Some("services") => Some(World::Services),
        _ => None,
    };
    if arguments.world.is_some() {
        words.next();
    }
    let mut any = false;
    while let Some(word) = words.next() {
        let number = words.next()?.parse().ok()?;
        any = true;
        match word.as_str() {
            "--seed" => arguments.seed = Some(number),
            "--runs" => arguments.runs = Some(number),
            "--minutes" => arguments.minutes = Some(number),
            "--from" => arguments.from = number,
            _ => return None,
        }
    }
    any.then_some(arguments)
}

/// One run with every event.
fn replay(world: World, seed: u64) -> ExitCode {
    let options = Options {
        keep_log: true,
        ..Options::default()
    };
    let run = world.run(seed, &options);
    for line in &run.log {
        println!("{line}");
    }
    println!(
        "{} seed {seed}: {} events, {} ms, {} tasks, trace {:016x}",
        world.name(),
        run.steps,
        run.virtual_ms,
        run.tasks,
        run.trace
    );
    verdict(world, seed, &run)
}

fn explore(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let worlds = match arguments.world {
        Some(world) => vec![world],
        None => vec![World::Dispatch, World::Services],
    };
    let mut totals = vec![(0u64, 0u64, 0u64); worlds.len()];
    let options = Options::default();
    for seed in arguments.from.. {
        let seeds = seed - arguments.from;
        let enough = arguments.runs.is_some_and(|most| seeds >= most)
            || limit.is_some_and(|limit| started.elapsed() >= limit);
        if enough || (arguments.runs.is_none() && limit.is_none()) {
            break;
        }
        for (world, (runs, steps, tasks)) in worlds.iter().zip(&mut totals) {
            let run = world.run(seed, &options);
            *runs += 1;
            *steps += run.steps;
            *tasks += run.tasks;
            if run.violation.is_some() {
                return verdict(*world, seed, &run);
            }
        }
    }
    for (world, (runs, steps, tasks)) in worlds.iter().zip(totals) {
        println!(
            "{}: {runs} schedules, {steps} events, {tasks} tasks, no violation",
            world.name()
        );
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn verdict(world: World, seed: u64, run: &Run) -> ExitCode {
    match &run.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!(
                "violation at {} ms, event {}: {}\nreplay with: weft-sim {} --seed {seed}",
                violation.at_ms,
                violation.step,
                violation.what,
                world.name()
            );
            ExitCode::FAILURE
        }
    }
}
