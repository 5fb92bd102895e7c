//! Runs every behaviour on every subject.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use crate::subject::{self, Subject};
use crate::{behaviour, limits, process};

/// Longest time for one test.
const MAX_TEST: Duration = Duration::from_secs(60);

type Body = Box<dyn Fn(Arc<Subject>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A named behaviour.
pub(crate) struct Case {
    name: &'static str,
    body: Body,
}

/// Names a behaviour.
pub(crate) fn case<F: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    body: fn(Arc<Subject>) -> F,
) -> Case {
    Case {
        name,
        body: Box::new(move |subject| Box::pin(body(subject))),
    }
}

/// Runs those that the command line asks for, one after the other: they share what they run on.
pub(crate) fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let subjects = runtime.block_on(subject::all());
    let runtime = Arc::new(runtime);
    let trials = subjects.into_iter().flat_map(|subject| {
        let runtime = Arc::clone(&runtime);
        let all = cases(subject.name).into_iter();
        all.map(move |case| trial(&runtime, &subject, case))
    });
    let mut wanted = Arguments::from_args();
    wanted.test_threads = Some(1);
    libtest_mimic::run(&wanted, trials.collect()).exit_code()
}

fn cases(subject: &str) -> Vec<Case> {
    let own = match subject {
        #[cfg(feature = "wasm")]
        "wasm" => crate::wasm::cases(),
        _ => process::cases(),
    };
    let shared = behaviour::cases().into_iter().chain(limits::cases());
    shared.chain(own).collect()
}

fn trial(runtime: &Arc<Runtime>, subject: &Arc<Subject>, case: Case) -> Trial {
    let name = format!("{}::{}", subject.name, case.name);
    let (runtime, subject) = (Arc::clone(runtime), Arc::clone(subject));
    Trial::test(name, move || {
        let test =
            async { tokio::time::timeout(MAX_TEST, (case.body)(Arc::clone(&subject))).await };
        runtime.block_on(test)?;
        runtime.block_on(subject.is_clean());
        Ok(())
    })
}
