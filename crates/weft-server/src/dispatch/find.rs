//! Jobs by what people call them.

use weft_types::{JobId, Namespace};

use super::shell::Shell;

impl Shell {
    /// For each word the job it means: an id, a name in the namespace (the newest of that name), or
    /// a unique prefix of an id; otherwise what is wrong with it.
    pub fn find_jobs(&self, namespace: &Namespace, words: &[String]) -> Vec<Result<JobId, String>> {
        let find = |word: &String| self.find_job(namespace, word);
        words.iter().map(find).collect()
    }

    fn find_job(&self, namespace: &Namespace, word: &str) -> Result<JobId, String> {
        let unknown = || format!("there is no job {word:?}; `weft job ls` lists them");
        if let Ok(id) = word.parse::<JobId>() {
            return self
                .jobs
                .contains_key(&id)
                .then_some(id)
                .ok_or_else(unknown);
        }
        let named = self
            .jobs
            .iter()
            .filter(|(_, record)| *record.name == *word && record.namespace == *namespace);
        if let Some(newest) = named.map(|(id, _)| *id).max() {
            return Ok(newest);
        }
        let begins = |id: &JobId| {
            let text = id.to_string();
            let bare = text.strip_prefix("job-").unwrap_or(&text);
            !word.is_empty() && (text.starts_with(word) || bare.starts_with(word))
        };
        let mut found = self.jobs.keys().copied().filter(begins);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(format!(
                "{word:?} could be more than one job; write more of the id"
            )),
            _ => Err(unknown()),
        }
    }
}
