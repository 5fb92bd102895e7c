//! Support for the benchmarks: medians, the CPU time of the machine, peers from PyPI, and a table with
//! one JSON line at its end.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The middle value; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The value below which this share of the values lies; 0 of none.
pub fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let position = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(position).copied().unwrap_or(0.0)
}

/// CPU time that all processes together have used since boot (proc_stat(5), the line `cpu`), to
/// 10 ms a core.
pub fn machine_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace();
    let ticks: Vec<u64> = fields
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // Without the fourth and the fifth, which are idle time.
    let busy: u64 = ticks
        .iter()
        .take(3)
        .chain(ticks.iter().skip(5).take(2))
        .sum();
    Duration::from_millis(busy * 10)
}

/// The interpreter of a virtual environment that has the package, made beneath `target` at the first
/// use; `None` where that does not go.
pub fn python_with(requirement: &str) -> Option<PathBuf> {
    let name = requirement.replace("==", "-");
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");
    let python = PathBuf::from(peers).join(name).join("bin/python");
    let run = |command: &mut Command| {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    let directory = python.parent()?.parent()?;
    let is_there =
        python.exists() || run(Command::new("python3").args(["-m", "venv"]).arg(directory));
    let install = ["-m", "pip", "install", "-q", requirement];
    (is_there && run(Command::new(&python).args(install))).then_some(python)
}

/// Rows of a table that end in one line of JSON.
pub struct Table {
    name: &'static str,
    rows: Vec<(String, f64, &'static str)>,
}

impl Table {
    /// A table of this benchmark.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            rows: Vec::new(),
        }
    }

    /// Adds a figure and shows it.
    pub fn row(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        let what = what.into();
        println!("{what:<58} {value:>12.2} {unit}");
        self.rows.push((what, value, unit));
    }

    /// Shows the JSON line.
    pub fn finish(self) {
        let rows = self.rows.iter().map(
            |(what, value, unit)| serde_json::json!({"what": what, "value": value, "unit": unit}),
        );
        println!(
            "{}",
            serde_json::json!({"bench": self.name, "figures": rows.collect::<Vec<_>>()})
        );
    }
}
