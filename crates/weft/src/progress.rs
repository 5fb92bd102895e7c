//! The progress of many tasks, for a person who watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use weft_types::{TaskCounts, TaskState};

use crate::output::Output;

/// How many tasks are in which state; states without tasks are left out.
pub fn counts_by_state(tasks: &TaskCounts) -> String {
    let states = TaskState::ALL.iter().filter(|state| tasks.get(**state) > 0);
    let counts = states.map(|state| format!("{} {state}", tasks.get(*state)));
    counts.collect::<Vec<_>>().join(", ")
}

/// How often the bar is drawn anew, at most.
const REFRESH_HZ: u8 = 8;

/// A bar with count, rate and remaining time; invisible when nobody watches.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for this many tasks; one task needs none.
    pub fn new(total: u64, output: &Output) -> Self {
        if total < 2 || !output.is_interactive() {
            return Self {
                bar: ProgressBar::hidden(),
            };
        }
        Self::drawn(total)
    }

    /// A bar for what a person asked to watch, even if it is one task.
    pub fn watched(total: u64, output: &Output) -> Self {
        match output.is_interactive() {
            true => Self::drawn(total),
            false => Self {
                bar: ProgressBar::hidden(),
            },
        }
    }

    fn drawn(total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(total),
            ProgressDrawTarget::stderr_with_hz(REFRESH_HZ),
        );
        let template = "{bar:30} {human_pos}/{human_len} tasks  {per_sec}  {elapsed} elapsed, {eta} left  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar }
    }

    /// Whether anybody sees it.
    pub fn is_visible(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// How far the job is.
    pub fn set(&self, tasks: &TaskCounts) {
        self.bar.set_length(tasks.total);
        self.bar.set_position(tasks.finished());
        let bad = tasks.failed + tasks.dead;
        self.bar.set_message(if bad > 0 {
            format!("{bad} failed")
        } else {
            String::new()
        });
    }

    /// How far a job is that was submitted elsewhere, with the counts of its tasks by state.
    pub fn set_by_state(&self, name: &str, tasks: &TaskCounts) {
        self.bar.set_length(tasks.total);
        self.bar.set_position(tasks.finished());
        self.bar
            .set_message(format!("{name}: {}", counts_by_state(tasks)));
    }

    /// Writes lines while the bar makes room for them.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
