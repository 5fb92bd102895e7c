//! The progress of many tasks, for a person who watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use weft_types::TaskCounts;

use crate::output::Output;

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

    /// Writes lines while the bar makes room for them.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
