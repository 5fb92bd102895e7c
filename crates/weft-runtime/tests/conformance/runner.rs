//! Runs every behaviour on every subject.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::subject::{self, Subject};
use crate::{behaviour, limits, process};

/// Longest time for one test.
const MAX_TEST: Duration = Duration::from_secs(60);

type Body = Box<dyn Fn(Arc<Subject>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A named behaviour.
pub(crate) struct Case {
    name: &'static str,
    body: Body,
}

/// Names a behaviour.
pub(crate) fn case<F: Future<Output = ()> + 'static>(
    name: &'static str,
    body: fn(Arc<Subject>) -> F,
) -> Case {
    Case {
        name,
        body: Box::new(move |subject| Box::pin(body(subject))),
    }
}

/// Runs those whose name contains `filter`, one after the other.
pub(crate) fn run(filter: Option<&str>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut failed = 0;
    for subject in runtime.block_on(subject::all()) {
        let own = match subject.name {
            #[cfg(feature = "wasm")]
            "wasm" => crate::wasm::cases(),
            _ => process::cases(),
        };
        for case in behaviour::cases()
            .into_iter()
            .chain(limits::cases())
            .chain(own)
        {
            let name = format!("{}::{}", subject.name, case.name);
            if filter.is_some_and(|filter| !name.contains(filter)) {
                continue;
            }
            let start = Instant::now();
            let body = || {
                let test = async {
                    tokio::time::timeout(MAX_TEST, (case.body)(Arc::clone(&subject))).await
                };
                runtime.block_on(test).expect("the test took too long");
                runtime.block_on(subject.is_clean());
            };
            let passed = std::panic::catch_unwind(AssertUnwindSafe(body)).is_ok();
            let word = if passed { "ok" } else { "FAILED" };
            println!(
                "test {name} ... {word} ({} ms)",
                start.elapsed().as_millis()
            );
            failed += usize::from(!passed);
        }
    }
    println!("{failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
