//! Of applications and the repositories that they come from.

use super::{MAX_TEXT_BYTES, check_name, is_inside, is_plain, refuse};
use crate::FieldError;
use crate::parse::check_env;
use crate::service::{ComposeSource, ComposeSpec, GitSource};

impl ComposeSpec {
    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self) -> Result<(), FieldError> {
        check_env("compose.env", &self.env)?;
        for (index, from) in self.env_from.iter().enumerate() {
            check_name(format!("compose.env_from[{index}].secret"), &from.secret)?;
        }
        for (index, profile) in self.profiles.iter().enumerate() {
            check_name(format!("compose.profiles[{index}]"), profile)?;
        }
        match self.source() {
            None => refuse("compose", "give either `inline` or `git`"),
            Some(ComposeSource::Inline(text)) if text.len() > MAX_TEXT_BYTES => refuse(
                "compose.inline",
                format!("larger than {MAX_TEXT_BYTES} bytes; keep it in a Git repository"),
            ),
            Some(ComposeSource::Inline(_)) => Ok(()),
            Some(ComposeSource::Git(git)) => git.check(),
        }
    }
}

impl GitSource {
    fn check(&self) -> Result<(), FieldError> {
        // `ext::` and `file://` run commands and read the node; a leading dash is an option.
        let known = ["https://", "http://", "ssh://"];
        if !is_plain(&self.url) || !known.iter().any(|scheme| self.url.starts_with(scheme)) {
            return refuse(
                "compose.git.url",
                format!(
                    "{:?} does not begin with https://, http:// or ssh://",
                    self.url
                ),
            );
        }
        let host = self.url.split("//").nth(1).unwrap_or_default();
        if host.is_empty() || host.starts_with(['-', '/']) {
            return refuse("compose.git.url", "has no host");
        }
        if let Some(reference) = &self.reference
            && (!is_plain(reference)
                || reference.contains(['~', '^', ':', ' ', '?', '*', '['])
                || reference.contains(".."))
        {
            return refuse(
                "compose.git.ref",
                format!("{reference:?} is not a branch, tag or commit"),
            );
        }
        if let Some(path) = &self.path
            && (!is_inside(path, false) || path.starts_with('-'))
        {
            return refuse("compose.git.path", "not a relative path without `..`");
        }
        for (field, secret) in [
            ("credentials", &self.credentials),
            ("webhook", &self.webhook),
        ] {
            if let Some(secret) = secret {
                check_name(format!("compose.git.{field}"), secret)?;
            }
        }
        Ok(())
    }
}
