//! Keeps secrets out of what is said.

use weft_unit::Secrets;

/// Shorter values are words like `on`; hiding them would hide the message.
const MIN_SECRET_BYTES: usize = 4;

/// Everything that may not be said.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Vec<String>);

impl Redactor {
    /// Hides what these secrets hold.
    pub(crate) fn new(secrets: &Secrets) -> Self {
        let pairs = [&secrets.registry, &secrets.git];
        let passwords = pairs.into_iter().flatten().map(|pair| &pair.password);
        let mut hidden: Vec<String> = secrets
            .env
            .values()
            .chain(passwords)
            .chain(&secrets.git_ssh_key)
            .map(|value| value.trim().to_owned())
            .filter(|value| value.len() >= MIN_SECRET_BYTES)
            .collect();
        // The longest first, so that a secret within another leaves no rest of it.
        hidden.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self(hidden)
    }

    /// The text with `…` in place of secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let mut secrets = Secrets::default();
        let env = [("A", "hunter2"), ("B", "hunter2-long"), ("C", "on")];
        secrets.env = env.map(|(k, v)| (k.into(), v.into())).into();
        let redactor = Redactor::new(&secrets);
        assert_eq!(redactor.clean("on hunter2-long and hunter2"), "on … and …");
    }
}
