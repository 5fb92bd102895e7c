//! Which tasks of a job wait for which others of it.

use crate::FieldError;

/// The most dependencies between the tasks of one job.
pub const MAX_TASK_DEPENDENCIES: usize = 10_000_000;
/// How many tasks of a cycle a message names.
const MAX_NAMED_TASKS: usize = 8;

/// What each task waits for, in compressed sparse rows: four bytes a task and four a dependency.
///
/// Every task in it exists, none waits for itself, and there is no cycle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskGraph {
    /// Where the row of a task begins; one more than there are tasks.
    starts: Vec<u32>,
    /// The rows, one after the other, each in ascending order.
    after: Vec<u32>,
}

impl TaskGraph {
    /// How many tasks there are.
    pub fn tasks(&self) -> u32 {
        (self.starts.len() - 1) as u32
    }

    /// How many dependencies there are.
    pub fn dependencies(&self) -> u32 {
        self.after.len() as u32
    }

    /// The tasks that one waits for, in ascending order; none for a task that is not there.
    pub fn after(&self, task: u32) -> &[u32] {
        row(&self.starts, &self.after, task)
    }
}

/// A row of a matrix in compressed form.
fn row<'a>(starts: &[u32], entries: &'a [u32], task: u32) -> &'a [u32] {
    let task = task as usize;
    match (starts.get(task), starts.get(task + 1)) {
        (Some(&from), Some(&to)) => &entries[from as usize..to as usize],
        _ => &[],
    }
}

/// Takes tasks in one by one. As long as none waits for another it allocates nothing.
#[derive(Default, Debug)]
pub struct TaskGraphBuilder {
    tasks: u32,
    starts: Vec<u32>,
    after: Vec<u32>,
}

impl TaskGraphBuilder {
    /// The next task, and what it waits for; naming a task twice counts once.
    ///
    /// # Errors
    /// When the job has more dependencies than it may have.
    pub fn push(&mut self, after: &[u32]) -> Result<(), FieldError> {
        let task = self.tasks;
        self.tasks += 1;
        if after.is_empty() && self.starts.is_empty() {
            return Ok(());
        }
        if self.after.len() + after.len() > MAX_TASK_DEPENDENCIES {
            return Err(at(
                task,
                format!("more than {MAX_TASK_DEPENDENCIES} dependencies in one job"),
            ));
        }
        // Every task before the first that waits has an empty row.
        self.starts.resize(task as usize + 1, 0);
        let from = self.after.len();
        self.after.extend_from_slice(after);
        self.after[from..].sort_unstable();
        let mut kept = from;
        for position in from..self.after.len() {
            if position == from || self.after[position] != self.after[kept - 1] {
                self.after[kept] = self.after[position];
                kept += 1;
            }
        }
        self.after.truncate(kept);
        self.starts.push(kept as u32);
        Ok(())
    }

    /// The graph; `None` when no task waits for another.
    ///
    /// # Errors
    /// The first task that waits for one that is not there, or a cycle, named.
    pub fn finish(self) -> Result<Option<TaskGraph>, FieldError> {
        if self.after.is_empty() {
            return Ok(None);
        }
        let graph = TaskGraph {
            starts: self.starts,
            after: self.after,
        };
        for task in 0..graph.tasks() {
            // Rows are sorted: the last entry is the greatest.
            if let Some(&last) = graph.after(task).last()
                && last >= graph.tasks()
            {
                return Err(at(
                    task,
                    format!(
                        "there is no task {last}; the last one is {}",
                        graph.tasks() - 1
                    ),
                ));
            }
        }
        match graph.cycle() {
            None => Ok(Some(graph)),
            Some(cycle) => Err(at(cycle[0], format!("a cycle: {}", named(&cycle)))),
        }
    }
}

fn at(task: u32, message: String) -> FieldError {
    FieldError::new(format!("tasks[{task}].after"), message)
}

/// `0 waits for 3, which waits for 0`, in short form.
fn named(cycle: &[u32]) -> String {
    let mut words: Vec<String> = cycle
        .iter()
        .take(MAX_NAMED_TASKS)
        .map(u32::to_string)
        .collect();
    if cycle.len() > MAX_NAMED_TASKS {
        words.push(format!("({} more)", cycle.len() - MAX_NAMED_TASKS));
    }
    words.push(cycle[0].to_string());
    format!("task {}", words.join(" waits for "))
}

/// What the search for a cycle knows of a task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    OnPath,
    Clear,
}

impl TaskGraph {
    /// The tasks of a cycle, each waiting for the next and the last for the first.
    ///
    /// A depth-first search with its own stack: a chain of a million tasks is as deep as long.
    fn cycle(&self) -> Option<Vec<u32>> {
        let mut marks = vec![Mark::Unseen; self.tasks() as usize];
        // The path from where the search began: task, and how much of its row was looked at.
        let mut path: Vec<(u32, u32)> = Vec::new();
        for root in 0..self.tasks() {
            if marks[root as usize] != Mark::Unseen {
                continue;
            }
            marks[root as usize] = Mark::OnPath;
            path.push((root, 0));
            while let Some((task, looked)) = path.last_mut() {
                let Some(&next) = self.after(*task).get(*looked as usize) else {
                    marks[*task as usize] = Mark::Clear;
                    path.pop();
                    continue;
                };
                *looked += 1;
                match marks[next as usize] {
                    Mark::Clear => {}
                    Mark::Unseen => {
                        marks[next as usize] = Mark::OnPath;
                        path.push((next, 0));
                    }
                    Mark::OnPath => {
                        let from = path.iter().position(|(on, _)| *on == next).unwrap_or(0);
                        return Some(path[from..].iter().map(|(on, _)| *on).collect());
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(rows: &[&[u32]]) -> Result<Option<TaskGraph>, FieldError> {
        let mut builder = TaskGraphBuilder::default();
        for row in rows {
            builder.push(row)?;
        }
        builder.finish()
    }

    #[test]
    fn independent_tasks_need_no_graph() {
        let mut builder = TaskGraphBuilder::default();
        for _ in 0..1_000 {
            builder.push(&[]).unwrap();
        }
        assert_eq!(builder.starts.capacity(), 0);
        assert_eq!(builder.finish(), Ok(None));
    }

    #[test]
    fn a_diamond_is_read_back() {
        let graph = build(&[&[], &[0], &[0, 0], &[2, 1], &[]]).unwrap().unwrap();
        assert_eq!((graph.tasks(), graph.dependencies()), (5, 4));
        assert_eq!(graph.after(3), [1, 2]);
        assert_eq!(graph.after(2), [0]);
        assert!(graph.after(4).is_empty() && graph.after(99).is_empty());
    }

    #[test]
    fn a_cycle_is_named_with_the_field() {
        let error = build(&[&[], &[3], &[1], &[2]]).unwrap_err();
        assert_eq!(error.path, "tasks[1].after");
        assert_eq!(
            error.message,
            "a cycle: task 1 waits for 3 waits for 2 waits for 1"
        );
        assert_eq!(build(&[&[0]]).unwrap_err().path, "tasks[0].after");
    }

    #[test]
    fn a_task_that_is_not_there_is_refused() {
        let error = build(&[&[], &[7]]).unwrap_err();
        assert_eq!(error.path, "tasks[1].after");
        assert!(error.message.contains("no task 7"), "{error}");
    }

    #[test]
    fn a_chain_of_a_million_does_not_overflow_the_stack() {
        let mut builder = TaskGraphBuilder::default();
        for task in 0..1_000_000u32 {
            let next = (task < 999_999).then_some(task + 1);
            builder.push(next.as_slice()).unwrap();
        }
        assert_eq!(builder.finish().unwrap().unwrap().dependencies(), 999_999);
    }

    proptest! {
        #[test]
        fn a_graph_is_accepted_exactly_when_it_can_be_sorted(
            rows in proptest::collection::vec(proptest::collection::vec(0u32..8, 0..4), 1..8),
        ) {
            let refs: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let mut done = vec![false; rows.len()];
            for _ in 0..rows.len() {
                for (task, row) in rows.iter().enumerate() {
                    done[task] |= row.iter().all(|&on| done.get(on as usize).copied().unwrap_or(false));
                }
            }
            prop_assert_eq!(build(&refs).is_ok(), done.iter().all(|done| *done));
        }
    }
}
