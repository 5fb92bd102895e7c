//! Support for the benchmarks: medians, what the kernel tells of processes, a client for single
//! submissions, peers from package registries, and a table with one JSON line at its end.

pub mod batch;
pub mod peers;
pub mod process;
pub mod submit;

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

    /// Says that a contestant did not take part, and what it lacks.
    pub fn skipped(&self, what: &str, needs: &str) {
        println!("{what}: skipped: needs {needs}");
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
