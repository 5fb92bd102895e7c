//! The suite and what is special about Redis, against a real `redis-server`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig};
use weft_e2e::Engine;
use weft_intake::conformance::{Subject, run};
use weft_intake::redis::RedisQueue;
use weft_intake::{Acked, Done, MAX_JOB_BYTES, RedisSettings, WorkQueue};

/// How long an answer may take; the client's own half second is little for a busy machine.
const ANSWER: Duration = Duration::from_secs(60);

struct InRedis {
    engine: Engine,
    producer: MultiplexedConnection,
}

impl InRedis {
    async fn start() -> Option<Self> {
        let engine = Engine::redis()?;
        let client = redis::Client::open(engine.url()).expect("an address");
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER));
        let producer = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .expect("it answers");
        Some(Self { engine, producer })
    }

    fn settings(&self, prefix: &str, lease: Duration) -> RedisSettings {
        RedisSettings {
            prefix: prefix.to_owned(),
            lease,
            ..RedisSettings::new(self.engine.url())
        }
    }
}

#[async_trait::async_trait]
impl Subject for InRedis {
    type Queue = RedisQueue;

    async fn leased(&self, queue: &str, name: &str, lease: Duration) -> RedisQueue {
        RedisQueue::new(self.settings(queue, lease), name).expect("settings")
    }

    async fn push(&self, queue: &str, body: Bytes) {
        let mut producer = self.producer.clone();
        let pushed: i64 = producer
            .lpush(format!("{queue}:jobs:queue"), &body[..])
            .await
            .expect("LPUSH");
        assert!(pushed > 0);
    }

    async fn result(&self, queue: &str, id: &str) -> Option<Bytes> {
        let mut producer = self.producer.clone();
        let found: Option<Vec<u8>> = producer
            .get(format!("{queue}:results:{id}"))
            .await
            .expect("GET");
        found.map(Bytes::from)
    }

    async fn dead(&self, queue: &str) -> Vec<Bytes> {
        let mut producer = self.producer.clone();
        let all: Vec<Vec<u8>> = producer
            .lrange(format!("{queue}:jobs:dead"), 0, -1)
            .await
            .expect("LRANGE");
        all.into_iter().map(Bytes::from).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behaves_as_the_port_says() {
    let Some(redis) = InRedis::start().await else {
        return;
    };
    run(&redis).await;
}

#[tokio::test]
async fn results_and_measures_end_as_the_contract_says() {
    let Some(redis) = InRedis::start().await else {
        return;
    };
    let queue = redis.consumer("packetfs", "a").await;
    redis.push("packetfs", Bytes::from_static(b"x")).await;
    let delivery = queue
        .take(1, Duration::from_secs(5))
        .await
        .expect("take")
        .remove(0);
    let done = Done {
        result: "id-1".to_owned(),
        body: Bytes::from_static(b"{}"),
        measure: Some(Bytes::from_static(b"{\"job_id\":\"id-1\"}")),
    };
    assert_eq!(queue.ack(&delivery.receipt, &done).await, Ok(Acked::Done));
    let mut producer = redis.producer.clone();
    let ttl: i64 = producer.ttl("packetfs:results:id-1").await.expect("TTL");
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    let measures: Vec<String> = producer
        .lrange("packetfs:metrics", 0, -1)
        .await
        .expect("LRANGE");
    assert_eq!(measures, ["{\"job_id\":\"id-1\"}"]);
    let left: Vec<String> = producer.keys("packetfs:jobs:*").await.expect("KEYS");
    assert_eq!(left, ["packetfs:jobs:sequence"]);
}

#[tokio::test]
async fn of_a_job_that_is_too_large_only_the_beginning_is_taken() {
    let Some(redis) = InRedis::start().await else {
        return;
    };
    let queue = redis.consumer("large", "a").await;
    redis
        .push("large", Bytes::from(vec![b'x'; MAX_JOB_BYTES + 1]))
        .await;
    redis.push("large", Bytes::from_static(b"small")).await;
    let taken = queue.take(2, Duration::from_secs(5)).await.expect("take");
    assert_eq!(taken[0].size, MAX_JOB_BYTES + 1);
    assert!(!taken[0].is_whole() && taken[0].body.len() < 10_000);
    assert_eq!(taken[1].body, "small");
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_and_nothing_is_lost() {
    let Some(redis) = InRedis::start().await else {
        return;
    };
    let queue = redis.consumer("broken", "a").await;
    redis.push("broken", Bytes::from_static(b"1")).await;
    let held = queue
        .take(1, Duration::from_secs(5))
        .await
        .expect("take")
        .remove(0);
    let mut producer = redis.producer.clone();
    let killed: i64 = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .query_async(&mut producer)
        .await
        .expect("CLIENT KILL");
    assert!(killed >= 1);
    redis.push("broken", Bytes::from_static(b"2")).await;
    let deadline = Instant::now() + ANSWER;
    let second = loop {
        match queue.take(4, Duration::from_secs(1)).await {
            Ok(mut taken) if !taken.is_empty() => break taken.remove(0),
            _ => assert!(Instant::now() < deadline, "it does not come back"),
        }
    };
    assert_eq!(second.body, "2", "what is held is not delivered again");
    for delivery in [&held, &second] {
        let done = Done {
            result: String::from_utf8_lossy(&delivery.body).into_owned(),
            body: Bytes::new(),
            measure: None,
        };
        assert_eq!(queue.ack(&delivery.receipt, &done).await, Ok(Acked::Done));
    }
}

#[tokio::test]
async fn a_key_of_the_wrong_type_is_refused_in_words() {
    let Some(redis) = InRedis::start().await else {
        return;
    };
    let mut producer = redis.producer.clone();
    let () = producer
        .set("odd:jobs:queue", "not a list")
        .await
        .expect("SET");
    let queue = redis.consumer("odd", "a").await;
    let refused = queue.take(1, Duration::ZERO).await.expect_err("WRONGTYPE");
    assert!(refused.to_string().contains("WRONGTYPE"), "{refused}");
}
