//! What goes wrong, and how it is told.

use std::path::PathBuf;

use bollard::errors::Error as Api;
use weft_types::Reason;
use weft_unit::{Secrets, Step};

/// Why an [`crate::Engine`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directories for its data.
    #[error(transparent)]
    Volumes(#[from] weft_volumes::Error),
    /// A file or directory of its own.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// What the engine said, without the client's words around it.
pub(crate) fn said(error: &Api) -> String {
    match error {
        Api::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Api::DockerStreamError { error } => error.trim().to_owned(),
        Api::RequestTimeoutError => "the engine does not answer".to_owned(),
        other => other.to_string(),
    }
}

/// The status of the engine's answer, if there was one.
pub(crate) fn status(error: &Api) -> Option<u16> {
    match error {
        Api::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// A step that failed for what the engine said.
pub(crate) fn failed(step: Step, error: &Api) -> weft_unit::Error {
    weft_unit::Error::new(step, reason(error), said(error))
}

fn reason(error: &Api) -> Reason {
    match status(error) {
        Some(400) => Reason::InvalidSpec,
        Some(401 | 403) => Reason::PermissionDenied,
        Some(_) => Reason::RuntimeError,
        None => Reason::RuntimeUnavailable,
    }
}

/// A step that failed for a volume.
pub(crate) fn volume(step: Step, error: &weft_volumes::Error) -> weft_unit::Error {
    weft_unit::Error::new(step, error.reason(), error.to_string())
}

/// The shortest value that is taken for a secret: shorter ones are in every second word.
const SHORTEST_SECRET: usize = 4;

/// The same error without any secret that the engine may have quoted.
pub(crate) fn without_secrets(mut error: weft_unit::Error, secrets: &Secrets) -> weft_unit::Error {
    let registry = secrets.registry.iter().map(|login| &login.password);
    for secret in secrets.env.values().chain(registry) {
        if secret.len() >= SHORTEST_SECRET {
            error.detail = error.detail.replace(secret.as_str(), "…");
            for line in &mut error.evidence {
                *line = line.replace(secret.as_str(), "…");
            }
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_what_the_engine_said() {
        let mut secrets = Secrets::default();
        let variable = ("A".to_owned(), "s3cr3t".to_owned());
        secrets
            .env
            .extend([variable, ("B".to_owned(), "e".to_owned())]);
        let error = weft_unit::Error::new(Step::Start, Reason::RuntimeError, "A=s3cr3t is bad")
            .with_evidence(vec!["s3cr3t here".to_owned()]);
        let told = without_secrets(error, &secrets);
        assert_eq!(told.detail, "A=… is bad");
        assert_eq!(told.evidence, ["… here"]);
    }
}
