//! The thread that writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redb::{ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::Options;
use super::codec::{decode_record, encode_events, encode_record};
use super::database::{Database, HISTORY, KEYS, LEASES, META, storage};
use super::leases::Leases;
use super::watchers::Watchers;
use crate::{
    Compare, Error, Event, EventBatch, KeyValue, LeaseId, Op, Revision, Txn, TxnOutcome, Watch,
};

/// The most transactions that share one fsync.
const MAX_GROUP: usize = 512;
/// The longest sleep, so that a clock that was set forward is noticed.
const MAX_SLEEP: Duration = Duration::from_millis(500);

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked to do.
pub(super) enum Request {
    Txn {
        txn: Txn,
        reply: Reply<TxnOutcome>,
    },
    Watch {
        prefix: String,
        from: Option<Revision>,
        reply: Reply<Watch>,
    },
    Compact {
        before: Revision,
        reply: Reply<()>,
    },
    Grant {
        ttl: Duration,
        reply: Reply<LeaseId>,
    },
    KeepAlive {
        lease: LeaseId,
        reply: Reply<()>,
    },
    Revoke {
        lease: LeaseId,
        reply: Reply<()>,
    },
}

/// What is answered once the group is durable.
enum Answer {
    Txn(Reply<TxnOutcome>, TxnOutcome),
    Lease(Reply<LeaseId>, LeaseId, Duration),
    Done(Reply<()>),
}

/// The thread that writes.
pub(super) struct Writer {
    database: Arc<RwLock<Database>>,
    options: Options,
    leases: Leases,
    watchers: Watchers,
    revision: Revision,
    oldest: Revision,
    last_lease: u64,
}

impl Writer {
    pub(super) fn new(
        database: Arc<RwLock<Database>>,
        options: Options,
        leases: BTreeMap<LeaseId, Duration>,
    ) -> Result<Self, Error> {
        let (revision, oldest, last_lease) = {
            let database = database.read();
            (
                database.meta("revision")?,
                database.meta("oldest")?,
                database.meta("last-lease")?,
            )
        };
        let leases = Leases::new((options.clock)(), leases);
        Ok(Self {
            database,
            options,
            leases,
            watchers: Watchers::default(),
            revision,
            oldest,
            last_lease,
        })
    }

    /// Runs until every handle is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "the store has no thread to write with"),
        };
        let mut group = Vec::with_capacity(MAX_GROUP);
        loop {
            let sleep = self.sleep();
            let taken = runtime.block_on(async {
                tokio::select! {
                    taken = requests.recv_many(&mut group, MAX_GROUP) => Some(taken),
                    () = tokio::time::sleep(sleep) => None,
                }
            });
            if taken == Some(0) {
                return;
            }
            self.end_leases();
            self.serve(&mut group);
        }
    }

    fn sleep(&self) -> Duration {
        let now = (self.options.clock)();
        self.leases
            .next_end()
            .map_or(MAX_SLEEP, |end| end.saturating_sub(now).min(MAX_SLEEP))
    }

    fn end_leases(&mut self) {
        for lease in self.leases.ended((self.options.clock)()) {
            let (reply, _) = oneshot::channel();
            self.serve(&mut vec![Request::Revoke { lease, reply }]);
        }
    }

    /// Answers what needs no write, and everything else after one durable commit.
    fn serve(&mut self, group: &mut Vec<Request>) {
        let mut writes = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            match request {
                Request::KeepAlive { lease, reply } => {
                    let _ = reply.send(self.leases.keep_alive((self.options.clock)(), lease));
                }
                // A watch begins after the writes before it and before those after it.
                Request::Watch {
                    prefix,
                    from,
                    reply,
                } => {
                    self.commit(std::mem::take(&mut writes));
                    let _ = reply.send(self.watch(prefix, from));
                }
                write => writes.push(write),
            }
        }
        self.commit(writes);
    }

    fn commit(&mut self, writes: Vec<Request>) {
        if writes.is_empty() {
            return;
        }
        let before = (self.revision, self.oldest, self.last_lease);
        let mut batches = Vec::new();
        let mut waiting = Vec::new();
        let result = self.write(writes, &mut batches, &mut waiting);
        if let Err(error) = &result {
            tracing::error!(%error, "the store could not be written");
            (self.revision, self.oldest, self.last_lease) = before;
            // The database refuses everything after a failed write until it is opened again.
            if let Err(error) = self.database.write().reopen() {
                tracing::error!(%error, "the store could not be opened again");
            }
        } else {
            for batch in &batches {
                self.watchers.tell(batch);
            }
        }
        for answer in waiting {
            self.answer(answer, &result);
        }
    }

    fn answer(&mut self, answer: Answer, result: &Result<(), Error>) {
        match answer {
            Answer::Txn(reply, outcome) => drop(reply.send(result.clone().map(|()| outcome))),
            Answer::Done(reply) => drop(reply.send(result.clone())),
            Answer::Lease(reply, lease, ttl) => {
                if result.is_ok() {
                    self.leases.insert((self.options.clock)(), lease, ttl);
                }
                let _ = reply.send(result.clone().map(|()| lease));
            }
        }
    }

    fn write(
        &mut self,
        writes: Vec<Request>,
        batches: &mut Vec<EventBatch>,
        waiting: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        let database = Arc::clone(&self.database);
        let database = database.read();
        // Everybody is answered, also when the very beginning fails.
        let write = match database
            .file()
            .and_then(|file| file.begin_write().map_err(storage))
        {
            Ok(write) => write,
            Err(error) => {
                waiting.extend(writes.into_iter().filter_map(unanswered));
                return Err(error);
            }
        };
        let mut failed = None;
        {
            let mut keys = write.open_table(KEYS).map_err(storage)?;
            let mut history = write.open_table(HISTORY).map_err(storage)?;
            let mut leases = write.open_table(LEASES).map_err(storage)?;
            let mut meta = write.open_table(META).map_err(storage)?;
            for request in writes {
                if failed.is_some() {
                    waiting.extend(unanswered(request));
                    continue;
                }
                let applied = self.apply(
                    request,
                    &mut keys,
                    &mut history,
                    &mut leases,
                    batches,
                    waiting,
                );
                failed = applied.err();
            }
            if failed.is_none() {
                self.forget_old(&mut history)?;
                for (name, value) in [
                    ("revision", self.revision),
                    ("oldest", self.oldest),
                    ("last-lease", self.last_lease),
                ] {
                    meta.insert(name, value).map_err(storage)?;
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => write.commit().map_err(storage),
        }
    }

    fn apply(
        &mut self,
        request: Request,
        keys: &mut Table<'_, &str, &[u8]>,
        history: &mut Table<'_, u64, &[u8]>,
        leases: &mut Table<'_, u64, u64>,
        batches: &mut Vec<EventBatch>,
        waiting: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        let events = match request {
            Request::Txn { txn, reply } => {
                let succeeded = holds(&txn.compare, keys)?;
                let ops = if succeeded { txn.success } else { txn.failure };
                let revision = self.revision + 1;
                let events = change(ops, revision, &self.leases, keys)?;
                let revision = if events.is_empty() {
                    self.revision
                } else {
                    revision
                };
                waiting.push(Answer::Txn(
                    reply,
                    TxnOutcome {
                        succeeded,
                        revision,
                    },
                ));
                events
            }
            Request::Grant { ttl, reply } => {
                self.last_lease += 1;
                let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                leases.insert(self.last_lease, ttl_ms).map_err(storage)?;
                waiting.push(Answer::Lease(reply, LeaseId(self.last_lease), ttl));
                Vec::new()
            }
            Request::Revoke { lease, reply } => {
                waiting.push(Answer::Done(reply));
                leases.remove(lease.0).map_err(storage)?;
                self.leases.remove(lease);
                remove_keys_of(lease, keys)?
            }
            Request::Compact { before, reply } => {
                waiting.push(Answer::Done(reply));
                self.oldest = self.oldest.max(before.min(self.revision + 1));
                Vec::new()
            }
            Request::Watch { .. } | Request::KeepAlive { .. } => Vec::new(),
        };
        if !events.is_empty() {
            self.revision += 1;
            history
                .insert(self.revision, encode_events(&events).as_slice())
                .map_err(storage)?;
            batches.push(EventBatch {
                revision: self.revision,
                events,
            });
        }
        Ok(())
    }

    fn forget_old(&mut self, history: &mut Table<'_, u64, &[u8]>) -> Result<(), Error> {
        self.oldest = self
            .oldest
            .max((self.revision + 1).saturating_sub(self.options.kept_revisions));
        history
            .retain_in(..self.oldest, |_, _| false)
            .map_err(storage)
    }

    fn watch(&mut self, prefix: String, from: Option<Revision>) -> Result<Watch, Error> {
        let past = match from {
            None => Vec::new(),
            Some(from) if from < self.oldest => {
                return Err(Error::Compacted {
                    oldest: self.oldest,
                });
            }
            Some(from) => self.database.read().history(from)?,
        };
        Ok(self.watchers.add(prefix, past))
    }
}

/// The answer of a request that was not applied because the group failed before.
fn unanswered(request: Request) -> Option<Answer> {
    let nothing = TxnOutcome {
        succeeded: false,
        revision: 0,
    };
    match request {
        Request::Txn { reply, .. } => Some(Answer::Txn(reply, nothing)),
        Request::Compact { reply, .. } | Request::Revoke { reply, .. } => Some(Answer::Done(reply)),
        Request::Grant { reply, ttl } => Some(Answer::Lease(reply, LeaseId(0), ttl)),
        Request::Watch { .. } | Request::KeepAlive { .. } => None,
    }
}

fn read(key: &str, keys: &Table<'_, &str, &[u8]>) -> Result<Option<KeyValue>, Error> {
    let record = keys.get(key).map_err(storage)?;
    record
        .map(|record| decode_record(key, record.value()))
        .transpose()
}

fn holds(compare: &[Compare], keys: &Table<'_, &str, &[u8]>) -> Result<bool, Error> {
    for condition in compare {
        let holds = match condition {
            Compare::Exists(key) => read(key, keys)?.is_some(),
            Compare::NotExists(key) => read(key, keys)?.is_none(),
            Compare::ModRevision(key, revision) => {
                read(key, keys)?.is_some_and(|kv| kv.mod_revision == *revision)
            }
            Compare::CreateRevision(key, revision) => {
                read(key, keys)?.is_some_and(|kv| kv.create_revision == *revision)
            }
            Compare::Value(key, value) => read(key, keys)?.is_some_and(|kv| kv.value == *value),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn change(
    ops: Vec<Op>,
    revision: Revision,
    leases: &Leases,
    keys: &mut Table<'_, &str, &[u8]>,
) -> Result<Vec<Event>, Error> {
    let mut events = Vec::with_capacity(ops.len());
    for op in ops {
        match op {
            Op::Put { key, value, lease } => {
                // A lease that ended meanwhile takes the key with it at once: it is not set.
                if lease.is_some_and(|lease| !leases.contains(lease)) {
                    continue;
                }
                let old = read(&key, keys)?;
                let (create_revision, version) =
                    old.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
                let kv = KeyValue {
                    key,
                    value,
                    create_revision,
                    mod_revision: revision,
                    version,
                    lease,
                };
                keys.insert(kv.key.as_str(), encode_record(&kv).as_slice())
                    .map_err(storage)?;
                events.push(Event::Put(kv));
            }
            Op::Delete { key } => {
                if keys.remove(key.as_str()).map_err(storage)?.is_some() {
                    events.push(Event::Delete { key });
                }
            }
            Op::DeletePrefix { prefix } => {
                let mut removed = Vec::new();
                for entry in keys.range(prefix.as_str()..).map_err(storage)? {
                    let (key, _) = entry.map_err(storage)?;
                    if !key.value().starts_with(&prefix) {
                        break;
                    }
                    removed.push(key.value().to_owned());
                }
                for key in removed {
                    keys.remove(key.as_str()).map_err(storage)?;
                    events.push(Event::Delete { key });
                }
            }
        }
    }
    Ok(events)
}

fn remove_keys_of(lease: LeaseId, keys: &mut Table<'_, &str, &[u8]>) -> Result<Vec<Event>, Error> {
    let mut removed = Vec::new();
    for entry in keys.iter().map_err(storage)? {
        let (key, record) = entry.map_err(storage)?;
        if decode_record(key.value(), record.value())?.lease == Some(lease) {
            removed.push(key.value().to_owned());
        }
    }
    for key in &removed {
        keys.remove(key.as_str()).map_err(storage)?;
    }
    Ok(removed
        .into_iter()
        .map(|key| Event::Delete { key })
        .collect())
}
