//! Which results of a stream its client has.

use weft_types::FieldError;

/// Which tasks were sent: a bit each.
pub(super) struct SentTasks(Vec<u64>);

impl SentTasks {
    /// None of this many tasks.
    pub(super) fn new(tasks: u32) -> Self {
        Self(vec![0; (tasks as usize).div_ceil(64)])
    }

    /// Whether a task was sent.
    pub(super) fn contains(&self, task: u32) -> bool {
        self.0
            .get(task as usize / 64)
            .is_some_and(|word| word & (1 << (task % 64)) != 0)
    }

    /// Adds ranges of task numbers, each with its last one.
    ///
    /// # Errors
    /// The range that does not fit the job or the one before it.
    pub(super) fn insert_ranges(
        &mut self,
        ranges: &[[u32; 2]],
        total: u32,
    ) -> Result<(), FieldError> {
        let mut least = 0;
        for (index, [first, last]) in ranges.iter().enumerate() {
            // Ascending, so that the work is bounded by the number of tasks.
            if first > last || *first < least || *last >= total {
                return Err(FieldError::new(
                    format!("seen[{index}]"),
                    format!("not first and last of task numbers below {total}, in ascending order"),
                ));
            }
            for task in *first..=*last {
                self.insert(task);
            }
            least = last.saturating_add(1);
        }
        Ok(())
    }

    /// Whether it was not there before.
    pub(super) fn insert(&mut self, task: u32) -> bool {
        let Some(word) = self.0.get_mut(task as usize / 64) else {
            return false;
        };
        let bit = 1 << (task % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_seen_tasks_are_ascending_and_within_the_job() {
        let mut sent = SentTasks::new(100);
        sent.insert_ranges(&[[0, 0], [2, 63], [64, 99]], 100)
            .unwrap();
        assert!(!sent.contains(1) && sent.contains(0) && sent.contains(99));
        for (bad, path) in [
            (vec![[3, 2]], "seen[0]"),
            (vec![[0, 100]], "seen[0]"),
            (vec![[0, 5], [5, 6]], "seen[1]"),
            (vec![[7, u32::MAX]], "seen[0]"),
        ] {
            let error = SentTasks::new(100).insert_ranges(&bad, 100).unwrap_err();
            assert_eq!(error.path, path, "{bad:?}");
        }
    }
}
