//! Errors of the port, made short.

use std::io;
use std::path::Path;

use weft_types::Reason;
use weft_unit::{Error, Step};

use crate::qmp::Failure;

/// An error about a file.
pub(crate) fn file(step: Step, doing: &str, path: &Path, error: &io::Error) -> Error {
    let detail = format!("{doing} {}: {error}", path.display());
    Error::new(step, Reason::StorageError, detail)
}

/// A field of the specification that is refused.
pub(crate) fn refused(field: &str, message: impl std::fmt::Display) -> Error {
    let detail = format!("{field}: {message}");
    Error::new(Step::Prepare, Reason::InvalidSpec, detail)
}

/// A machine that does not obey.
pub(crate) fn engine(step: Step, failure: &Failure) -> Error {
    Error::new(step, Reason::RuntimeError, failure.to_string())
}

/// Awaits work that was made independent of its caller.
pub(crate) async fn joined<T: Send + 'static>(
    step: Step,
    work: tokio::task::JoinHandle<Result<T, Error>>,
) -> Result<T, Error> {
    work.await.unwrap_or_else(|error| {
        let detail = format!("the work ended early: {error}");
        Err(Error::new(step, Reason::Internal, detail))
    })
}

/// Runs what blocks away from the threads of the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    step: Step,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    joined(step, tokio::task::spawn_blocking(work)).await
}
