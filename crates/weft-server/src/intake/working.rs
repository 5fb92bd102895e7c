//! Which jobs a door is working on, by their keys.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use parking_lot::Mutex;

use crate::dispatch::NewJob;

/// Keys under which jobs are being worked on.
#[derive(Default)]
pub(super) struct Working {
    keys: Mutex<HashMap<String, Key>>,
}

struct Key {
    /// Of the job that has the key.
    fingerprint: u64,
    /// How many deliveries of it are being worked on.
    deliveries: usize,
}

impl Working {
    /// Begins to work on a job, unless another one has its key; `false` then.
    pub(super) fn begin(&self, key: &str, job: &NewJob) -> bool {
        let fingerprint = fingerprint(job);
        match self.keys.lock().entry(key.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(Key {
                    fingerprint,
                    deliveries: 1,
                });
                true
            }
            Entry::Occupied(mut entry) if entry.get().fingerprint == fingerprint => {
                entry.get_mut().deliveries += 1;
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Ends what [`Working::begin`] began.
    pub(super) fn end(&self, key: &str) {
        let mut keys = self.keys.lock();
        if let Some(entry) = keys.get_mut(key) {
            entry.deliveries -= 1;
            if entry.deliveries == 0 {
                keys.remove(key);
            }
        }
    }
}

fn fingerprint(job: &NewJob) -> u64 {
    let mut hasher = DefaultHasher::new();
    job.spec.hash(&mut hasher);
    job.payloads.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::whole_job;
    use weft_types::Timestamp;

    fn job(imm: u8) -> NewJob {
        let text = format!(r#"{{"runtime":"op","op":{{"op":"xor","imm":{imm}}}}}"#);
        let workload = weft_types::parse_json(text.as_bytes()).unwrap();
        whole_job(workload, None, Timestamp(0)).unwrap()
    }

    #[test]
    fn a_key_belongs_to_one_job_until_every_delivery_of_it_has_ended() {
        let working = Working::default();
        assert!(working.begin("k", &job(1)) && working.begin("k", &job(1)));
        assert!(!working.begin("k", &job(2)), "another job");
        assert!(working.begin("other", &job(2)));
        working.end("k");
        assert!(!working.begin("k", &job(2)), "still one delivery");
        working.end("k");
        assert!(working.begin("k", &job(2)));
    }
}
