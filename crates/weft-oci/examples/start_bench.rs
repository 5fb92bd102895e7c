//! How long it takes from `start` to a running container, and to its end; the image is there.
//!
//! `start_bench IMAGE [N] [RUNTIME] [none]`: the median of N starts of `true` in an image that has
//! it, behind the bridge or without a network. One table and one line of JSON.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_oci::{MonitorCommand, Oci, Options};
use weft_types::{ContainerSpec, NetworkMode, Resources, UnitId, WorkloadId};
use weft_unit::{Phase, Progress, Secrets, Unit, UnitRuntime, UnitWork};
use weft_volumes::{HostPaths, Volumes};

const MONITOR: &str = "oci-monitor";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(MONITOR) {
        return weft_oci::monitor::main();
    }
    let Some(image) = args.get(1) else {
        eprintln!("usage: start_bench IMAGE [N] [RUNTIME] [none]");
        return ExitCode::from(2);
    };
    let count = args.get(2).and_then(|n| n.parse().ok()).unwrap_or(21);
    let class = args.get(3).cloned().unwrap_or_else(|| "crun".to_owned());
    let network = match args.get(4).map(String::as_str) {
        Some("none") => NetworkMode::None,
        _ => NetworkMode::Bridge,
    };
    match measure(image, count, &class, network) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn unit(image: &str, class: &str, network: NetworkMode, number: u32) -> Result<Unit, Failure> {
    let spec = ContainerSpec {
        image: image.to_owned(),
        command: vec!["true".to_owned()],
        runtime_class: Some(class.to_owned()),
        network,
        ..ContainerSpec::default()
    };
    Ok(Unit {
        id: UnitId {
            workload: WorkloadId(7),
            number,
        },
        namespace: "default".parse()?,
        name: "bench".parse()?,
        revision: 1,
        work: UnitWork::Container(Box::new(spec)),
        resources: Resources::default(),
        secrets: Secrets::default(),
        may_be_privileged: false,
    })
}

#[tokio::main]
async fn measure(
    image: &str,
    count: u32,
    class: &str,
    network: NetworkMode,
) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("weft-start-bench-{}", std::process::id()));
    let volumes = Volumes::open(weft_volumes::Options {
        dir: dir.join("volumes"),
        host_paths: HostPaths::refusing([]),
    })?;
    let monitor = MonitorCommand {
        program: std::env::current_exe()?,
        args: vec![MONITOR.into()],
    };
    let oci = Oci::open(Options::new(
        dir.join("oci"),
        "bench".parse()?,
        monitor,
        volumes,
    ))?;
    let probe = oci.probe().await.map_err(|missing| missing.to_string())?;
    // One that stays keeps the bridge.
    let anchor = unit(image, class, network, 1_000_000)?;
    oci.prepare(&anchor, &Progress::new(String::new())).await?;
    oci.start(&anchor).await?;
    let (mut running, mut ended) = (Vec::new(), Vec::new());
    for number in 1..=count {
        let unit = unit(image, class, network, number)?;
        let begun = Instant::now();
        oci.start(&unit).await?;
        running.push(begun.elapsed());
        while !matches!(oci.observe(unit.id).await?.phase, Phase::Exited { .. }) {
            oci.changed().await;
        }
        ended.push(begun.elapsed());
        oci.remove(unit.id, false).await?;
    }
    oci.remove(anchor.id, false).await?;
    std::fs::remove_dir_all(&dir)?;
    let (running, ended) = (median(running), median(ended));
    println!(
        "{} with {class}, {network:?}, median of {count}",
        probe.version
    );
    println!("  start to running  {:8.1} ms", ms(running));
    println!("  start to end      {:8.1} ms", ms(ended));
    println!(
        "{{\"bench\":\"oci-start\",\"runtime\":\"{class}\",\"n\":{count},\"running_ms\":{:.2},\"ended_ms\":{:.2}}}",
        ms(running),
        ms(ended)
    );
    Ok(())
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
