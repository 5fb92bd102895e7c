//! The client with its streams and its consumer, made when they are needed.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::ANSWER_TIMEOUT;
use crate::{Error, MAX_DEAD_LETTERS, NatsSettings, RESULT_TTL};

/// What the engine is called in errors.
const QUEUE: &str = "NATS";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all of the streams and the consumer may take to be found or made.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);
/// The most jobs that all servers together may hold.
const MAX_ACK_PENDING: i64 = 1 << 20;

/// The connection, and how to make it.
pub(super) struct Connection {
    settings: NatsSettings,
    open: Mutex<Option<Arc<Connected>>>,
}

/// What is used of NATS.
pub(super) struct Connected {
    client: Client,
    context: Context,
    pub(super) consumer: Consumer<pull::Config>,
    results: String,
}

impl Connection {
    pub(super) fn new(settings: NatsSettings) -> Self {
        Self {
            settings,
            open: Mutex::new(None),
        }
    }

    pub(super) async fn get(&self) -> Result<Arc<Connected>, Error> {
        let mut open = self.open.lock().await;
        if let Some(connected) = &*open {
            return Ok(Arc::clone(connected));
        }
        let connected = timeout(SETUP_TIMEOUT, connect(&self.settings))
            .await
            .map_err(|_| unreachable("no answer in time"))??;
        Ok(Arc::clone(open.insert(Arc::new(connected))))
    }

    pub(super) async fn forget(&self) {
        *self.open.lock().await = None;
    }

    /// Resolves when all that was published is on its way.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let connected = self.get().await?;
        timeout(ANSWER_TIMEOUT, connected.client.flush())
            .await
            .map_err(|_| unreachable("no answer in time"))?
            .map_err(unreachable)
    }
}

async fn connect(settings: &NatsSettings) -> Result<Connected, Error> {
    let mut options = ConnectOptions::new()
        .name("weft")
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(ANSWER_TIMEOUT));
    if let Some(path) = &settings.credentials {
        let read = options.credentials_file(path).await;
        options = read.map_err(|error| {
            Error::setting(
                "queue.nats.credentials",
                format!("{}: {error}", path.display()),
            )
        })?;
    }
    if let Some(path) = &settings.ca {
        options = options.add_root_certificates(path.clone());
    }
    let servers: Vec<&str> = settings.url.split(',').map(str::trim).collect();
    let client = async_nats::connect_with_options(servers, options)
        .await
        .map_err(unreachable)?;
    let mut context = jetstream::new(client.clone());
    context.set_timeout(ANSWER_TIMEOUT);
    let consumer = set_up(&context, settings).await?;
    Ok(Connected {
        client,
        context,
        consumer,
        results: results(settings),
    })
}

fn results(settings: &NatsSettings) -> String {
    format!("{}_RESULTS", settings.stream)
}

/// Finds or makes the streams and the consumer.
async fn set_up(
    context: &Context,
    settings: &NatsSettings,
) -> Result<Consumer<pull::Config>, Error> {
    let subject = &settings.subject;
    let stream = |name: String, subject: String| Config {
        name,
        subjects: vec![subject],
        storage: StorageType::File,
        num_replicas: settings.replicas,
        ..Config::default()
    };
    let jobs = Config {
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        ..stream(settings.stream.clone(), subject.clone())
    };
    let results = Config {
        max_age: RESULT_TTL,
        ..stream(results(settings), format!("{subject}.results.>"))
    };
    let dead = Config {
        max_messages: i64::try_from(MAX_DEAD_LETTERS).unwrap_or(i64::MAX),
        ..stream(
            format!("{}_DEAD", settings.stream),
            format!("{subject}.dead"),
        )
    };
    for other in [results, dead] {
        context.get_or_create_stream(other).await.map_err(refused)?;
    }
    let mut jobs = context.get_or_create_stream(jobs).await.map_err(refused)?;
    let retention = jobs.info().await.map_err(unreachable)?.config.retention;
    if retention != RetentionPolicy::WorkQueue {
        let detail = format!(
            "the stream {} is there with retention {retention:?}; it has to be a work queue",
            settings.stream
        );
        return Err(Error::setting("queue.nats.stream", detail));
    }
    let consumer = pull::Config {
        durable_name: Some(settings.consumer.clone()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.lease,
        // Without a bound: weft itself moves to the dead letters what came too often.
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    jobs.get_or_create_consumer(&settings.consumer, consumer)
        .await
        .map_err(refused)
}

impl Connected {
    /// The largest message that the server takes, in bytes.
    pub(super) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Resolves when JetStream has the message.
    pub(super) async fn publish(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<(), PublishError> {
        let confirmed = self
            .context
            .send_publish(subject.to_owned(), message)
            .await?;
        confirmed.await.map(drop)
    }

    /// Headers of the result that is there.
    pub(super) async fn last_headers(&self, subject: &str) -> Result<Option<HeaderMap>, Error> {
        let stream = self
            .context
            .get_stream(&self.results)
            .await
            .map_err(unreachable)?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.headers)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unreachable(error)),
        }
    }

    /// How many jobs were delivered to nobody.
    pub(super) async fn waiting(&self) -> Result<u64, Error> {
        let mut consumer = self.consumer.clone();
        let info = consumer.info().await.map_err(unreachable)?;
        Ok(info.num_pending)
    }
}

pub(super) fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::Unreachable {
        queue: QUEUE,
        detail: error.to_string(),
    }
}

pub(super) fn refused(error: impl std::fmt::Display) -> Error {
    Error::Refused {
        queue: QUEUE,
        detail: error.to_string(),
    }
}
