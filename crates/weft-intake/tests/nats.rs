//! The suite and what is special about JetStream, against a real `nats-server`.

use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::StreamExt;
use weft_e2e::Engine;
use weft_intake::conformance::{LEASE, Subject, run};
use weft_intake::nats::NatsQueue;
use weft_intake::{Acked, Done, NatsSettings, WorkQueue};

/// How long an answer may take; the client's own five seconds are little for a busy machine.
const ANSWER: Duration = Duration::from_secs(60);

struct InNats {
    engine: Engine,
    producer: jetstream::Context,
}

impl InNats {
    async fn start() -> Option<Self> {
        let engine = Engine::nats()?;
        let mut producer = jetstream::new(connect(&engine.url()).await);
        producer.set_timeout(ANSWER);
        Some(Self { engine, producer })
    }

    fn settings(&self, queue: &str, lease: Duration) -> NatsSettings {
        NatsSettings {
            stream: queue.to_uppercase(),
            subject: format!("test.{queue}"),
            lease,
            ..NatsSettings::new(self.engine.url())
        }
    }

    async fn last(&self, stream: &str, subject: &str) -> Option<Bytes> {
        let stream = self.producer.get_stream(stream).await.ok()?;
        let message = stream.get_last_raw_message_by_subject(subject).await.ok()?;
        Some(message.payload)
    }

    async fn push_as(&self, queue: &str, id: &str, body: &str) {
        let message = PublishMessage::build()
            .message_id(id)
            .payload(Bytes::copy_from_slice(body.as_bytes()));
        let deadline = Instant::now() + ANSWER;
        // Under its id it is one message, however often it is sent.
        while let Err(error) = self.publish(queue, message.clone()).await {
            assert!(Instant::now() < deadline, "{error}");
        }
    }

    /// Resolves when it is stored.
    async fn publish(&self, queue: &str, message: PublishMessage) -> Result<(), PublishError> {
        let subject = format!("test.{queue}");
        let sent = self.producer.send_publish(subject, message).await?;
        sent.await.map(drop)
    }
}

async fn connect(url: &str) -> async_nats::Client {
    let deadline = Instant::now() + ANSWER;
    loop {
        let options = ConnectOptions::new()
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER));
        match options.connect(url).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[async_trait::async_trait]
impl Subject for InNats {
    type Queue = NatsQueue;

    async fn leased(&self, queue: &str, _: &str, lease: Duration) -> NatsQueue {
        let consumer = NatsQueue::new(self.settings(queue, lease)).expect("settings");
        // The first one makes the streams.
        consumer.depth().await.expect("it answers");
        consumer
    }

    async fn push(&self, queue: &str, body: Bytes) {
        let message = PublishMessage::build().payload(body);
        self.publish(queue, message).await.expect("stored");
    }

    async fn result(&self, queue: &str, id: &str) -> Option<Bytes> {
        let stream = format!("{}_RESULTS", queue.to_uppercase());
        self.last(&stream, &format!("test.{queue}.results.{id}"))
            .await
    }

    async fn dead(&self, queue: &str) -> Vec<Bytes> {
        let stream = format!("{}_DEAD", queue.to_uppercase());
        let stream = self.producer.get_stream(stream).await.expect("the stream");
        let config = jetstream::consumer::pull::Config::default();
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let batch = consumer
            .fetch()
            .max_messages(100)
            .messages()
            .await
            .expect("a batch");
        let letters = batch.filter_map(|message| async { message.ok().map(|m| m.payload.clone()) });
        letters.collect().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_behaves_as_the_port_says() {
    let Some(nats) = InNats::start().await else {
        return;
    };
    run(&nats).await;
}

fn done(body: &'static str) -> Done {
    Done {
        result: "id".to_owned(),
        body: Bytes::from_static(body.as_bytes()),
        measure: None,
    }
}

#[tokio::test]
async fn a_name_that_another_job_has_is_not_taken_from_it() {
    let Some(nats) = InNats::start().await else {
        return;
    };
    let queue = nats.consumer("names", "a").await;
    for (id, body) in [("1", "a"), ("2", "b"), ("3", "a")] {
        nats.push_as("names", id, body).await;
    }
    let mut taken = Vec::new();
    while taken.len() < 3 {
        taken.extend(queue.take(3, Duration::from_secs(5)).await.expect("take"));
    }
    assert_eq!(taken[0].key.as_deref(), Some("1"));
    assert_eq!(
        queue.ack(&taken[0].receipt, &done("first")).await,
        Ok(Acked::Done)
    );
    let other = queue.ack(&taken[1].receipt, &done("second")).await;
    assert_eq!(other, Ok(Acked::NameTaken));
    let same = queue.ack(&taken[2].receipt, &done("third")).await;
    assert_eq!(same, Ok(Acked::Stale), "a job that was pushed twice");
    assert_eq!(
        nats.result("names", "id").await.as_deref(),
        Some(&b"first"[..])
    );
}

#[tokio::test]
async fn a_stream_of_another_kind_is_refused_by_name() {
    let Some(nats) = InNats::start().await else {
        return;
    };
    let config = jetstream::stream::Config {
        name: "OTHER".to_owned(),
        subjects: vec!["test.other".to_owned()],
        ..Default::default()
    };
    nats.producer.create_stream(config).await.expect("a stream");
    let queue = NatsQueue::new(nats.settings("other", LEASE)).expect("settings");
    let refused = queue
        .take(1, Duration::ZERO)
        .await
        .expect_err("no work queue");
    assert!(
        refused.to_string().contains("queue.nats.stream"),
        "{refused}"
    );
}
