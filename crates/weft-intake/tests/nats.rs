//! The suite and what is special about JetStream, against a real `nats-server`.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::StreamExt;
use weft_e2e::Engine;
use weft_intake::conformance::{LEASE, Subject, run};
use weft_intake::nats::NatsQueue;
use weft_intake::{Acked, Done, NatsSettings, WorkQueue};

struct InNats {
    engine: Engine,
    producer: jetstream::Context,
}

impl InNats {
    async fn start() -> Option<Self> {
        let engine = Engine::nats()?;
        let client = async_nats::connect(engine.url()).await;
        let producer = jetstream::new(client.expect("it answers"));
        Some(Self { engine, producer })
    }

    fn settings(&self, queue: &str) -> NatsSettings {
        NatsSettings {
            stream: queue.to_uppercase(),
            subject: format!("test.{queue}"),
            lease: LEASE,
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
        let subject = format!("test.{queue}");
        let sent = self
            .producer
            .send_publish(subject, message)
            .await
            .expect("sent");
        sent.await.expect("stored");
    }
}

#[async_trait::async_trait]
impl Subject for InNats {
    type Queue = NatsQueue;

    async fn consumer(&self, queue: &str, _: &str) -> NatsQueue {
        let consumer = NatsQueue::new(self.settings(queue)).expect("settings");
        // The first one makes the streams.
        consumer.depth().await.expect("it answers");
        consumer
    }

    async fn push(&self, queue: &str, body: Bytes) {
        let sent = self
            .producer
            .publish(format!("test.{queue}"), body)
            .await
            .expect("sent");
        sent.await.expect("stored");
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
    let queue = NatsQueue::new(nats.settings("other")).expect("settings");
    let refused = queue
        .take(1, Duration::ZERO)
        .await
        .expect_err("no work queue");
    assert!(
        refused.to_string().contains("queue.nats.stream"),
        "{refused}"
    );
}
