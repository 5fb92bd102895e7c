//! `weft-sim --seed N | --runs N | --minutes N [--from SEED]`: runs schedules, prints the seed of
//! the first that violates something, and then ends with 1.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_sim::{Options, Run, run};

const USAGE: &str = "usage: weft-sim --seed N | --runs N [--from SEED] | --minutes N [--from SEED]";

/// What to run.
#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    runs: Option<u64>,
    minutes: Option<u64>,
    from: u64,
}

fn main() -> ExitCode {
    let Some(arguments) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match arguments.seed {
        Some(seed) => replay(seed),
        None => explore(&arguments),
    }
}

fn parse() -> Option<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
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
fn replay(seed: u64) -> ExitCode {
    let options = Options {
        keep_log: true,
        ..Options::default()
    };
    let run = run(seed, &options);
    for line in &run.log {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} events, {} ms, {} tasks, trace {:016x}",
        run.steps, run.virtual_ms, run.tasks, run.trace
    );
    verdict(seed, &run)
}

fn explore(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let (mut runs, mut steps, mut tasks) = (0u64, 0u64, 0u64);
    let options = Options::default();
    for seed in arguments.from.. {
        let enough = arguments.runs.is_some_and(|most| runs >= most)
            || limit.is_some_and(|limit| started.elapsed() >= limit);
        if enough || (arguments.runs.is_none() && limit.is_none()) {
            break;
        }
        let run = run(seed, &options);
        runs += 1;
        steps += run.steps;
        tasks += run.tasks;
        if run.violation.is_some() {
            return verdict(seed, &run);
        }
    }
    println!(
        "{runs} schedules, {steps} events, {tasks} tasks, no violation, {:.1} s",
        started.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}

fn verdict(seed: u64, run: &Run) -> ExitCode {
    match &run.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!(
                "violation at {} ms, event {}: {}\nreplay with: weft-sim --seed {seed}",
                violation.at_ms, violation.step, violation.what
            );
            ExitCode::FAILURE
        }
    }
}
