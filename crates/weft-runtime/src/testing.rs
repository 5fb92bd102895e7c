//! Builders for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_types::{JobId, Resources, SandboxMode};

use crate::{Input, TaskRun, Work};

/// A process task with this command, no input and a generous time limit.
pub(crate) fn process_task(command: &[&str]) -> TaskRun {
    let command = command.iter().map(|&arg| arg.to_owned()).collect();
    task(Work::Process {
        command,
        sandbox: SandboxMode::None,
    })
}

/// A task of this work, with no input and a generous time limit.
pub(crate) fn task(work: Work) -> TaskRun {
    TaskRun {
        job: JobId(1),
        index: 3,
        attempt: 1,
        work,
        env: BTreeMap::new(),
        input: Input::None,
        timeout: Some(Duration::from_secs(60)),
        resources: Resources::default(),
    }
}
