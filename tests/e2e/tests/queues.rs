//! Jobs that others push into Redis or NATS, with the real servers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use redis::Commands;
use serde_json::{Value, json};
use weft_e2e::{Cluster, Engine, UpOptions, eventually, eventually_some};

/// How long an answer may take; five seconds, as clients have it, are little for a busy machine.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a batch of jobs may take, killed servers included.
const BATCH: Duration = Duration::from_secs(90);

fn up(args: &[&str]) -> Cluster {
    Cluster::with(UpOptions {
        nodes: 2,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..UpOptions::default()
    })
}

fn input(number: usize) -> String {
    format!("the input of job {number}")
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn redis_job(number: usize) -> Value {
    json!({
        "job_id": format!("job-{number}"),
        "program": {"op": "crc32c", "data": base64(input(number).as_bytes())},
        "required_memory_mb": 4,
        "metadata": {"number": number},
    })
}

fn connect(redis: &Engine) -> redis::Connection {
    let client = redis::Client::open(redis.url()).expect("an address");
    eventually_some("Redis answers", ANSWER, || {
        let mut connection = client.get_connection().ok()?;
        // It takes connections while it still reads its files.
        let pong: Option<String> = redis::cmd("PING").query(&mut connection).ok();
        pong.map(|_| connection)
    })
}

fn push(producer: &mut redis::Connection, jobs: std::ops::Range<usize>) {
    let mut pipe = redis::pipe();
    for number in jobs {
        pipe.lpush("packetfs:jobs:queue", redis_job(number).to_string())
            .ignore();
    }
    let () = pipe.query(producer).expect("LPUSH");
}

fn results(producer: &mut redis::Connection) -> usize {
    let keys: Vec<String> = producer.keys("packetfs:results:*").unwrap_or_default();
    keys.len()
}

/// Every job has its right result, was ended once, and nothing is left in the queue.
fn check_results(producer: &mut redis::Connection, jobs: usize) {
    for number in 0..jobs {
        let text: Option<String> = producer
            .get(format!("packetfs:results:job-{number}"))
            .expect("GET");
        let result: Value = serde_json::from_str(&text.expect("a result")).expect("JSON");
        let expected = crc32c::crc32c(input(number).as_bytes());
        assert_eq!(result["result"]["checksum"], expected, "{result}");
        assert_eq!(result["job_id"], format!("job-{number}"));
        assert_eq!(
            (&result["success"], &result["error"]),
            (&json!(true), &Value::Null)
        );
        assert_eq!(result["bytes_processed"], input(number).len());
        assert_eq!(result["cost_usd"], 0.0);
        assert!(
            result["substrate"].is_string() && result["completed_at"].is_string(),
            "{result}"
        );
        assert!(result["exec_time_ms"].is_number(), "{result}");
    }
    let lines: Vec<String> = producer.lrange("packetfs:metrics", 0, -1).expect("LRANGE");
    let mut ended = BTreeMap::<String, usize>::new();
    for line in &lines {
        let line: Value = serde_json::from_str(line).expect("JSON");
        *ended
            .entry(line["job_id"].as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    let twice: Vec<_> = ended.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "ended more than once: {twice:?}");
    assert_eq!(ended.len(), jobs);
    assert_eq!(left(producer), 0);
}

/// Jobs in the queue or held.
fn left(producer: &mut redis::Connection) -> usize {
    let waiting: usize = producer.llen("packetfs:jobs:queue").expect("LLEN");
    let held: Vec<String> = producer.keys("packetfs:jobs:processing:*").expect("KEYS");
    waiting + held.len()
}

fn metric(cluster: &Cluster, name: &str) -> String {
    let metrics = cluster.curl(&[], "/metrics");
    let text = String::from_utf8_lossy(&metrics.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next())
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn redis_jobs_get_their_results_and_malformed_ones_are_dead_letters() {
    let Some(redis) = Engine::redis() else { return };
    let cluster = up(&["--redis-url", &redis.url()]);
    let mut producer = connect(&redis);
    let malformed: [(&[u8], &str); 9] = [
        (br#"{"job_id":"bad-1","program":"#, "EOF"),
        (br#"{"job_id":7,"program":{"op":"xor"}}"#, "job_id"),
        (
            br#"{"job_id":"bad-3","program":{"op":"crc99"}}"#,
            "program.op",
        ),
        (
            br#"{"job_id":"bad-4","program":{"op":"xor"},"required_memory_mb":-1}"#,
            "required_memory_mb",
        ),
        (
            br#"{"job_id":"bad-5","program":{"op":"xor"},"timeout_s":-2}"#,
            "timeout_s",
        ),
        (br#"{"job_id":"bad-6","program":["xor"]}"#, "program"),
        (b"{\"job_id\":\"\xff\xfe\"}", ""),
        (
            br#"{"job_id":"job-0","program":{"op":"fnv64"}}"#,
            "another job",
        ),
        (b"", ""),
    ];
    push(&mut producer, 0..500);
    for (body, _) in malformed {
        let _: i64 = producer.lpush("packetfs:jobs:queue", body).expect("LPUSH");
    }
    let large = vec![b' '; 40 << 20];
    let _: i64 = producer.lpush("packetfs:jobs:queue", large).expect("LPUSH");
    push(&mut producer, 500..1000);
    // A producer that is not sure repeats itself.
    push(&mut producer, 999..1000);
    eventually("every job has ended", BATCH, || {
        results(&mut producer) >= 1000 && left(&mut producer) == 0
    });
    let dead: Vec<String> = producer
        .lrange("packetfs:jobs:dead", 0, -1)
        .expect("LRANGE");
    let details: Vec<Value> = dead
        .iter()
        .map(|letter| serde_json::from_str(letter).expect("JSON"))
        .collect();
    assert_eq!(dead.len(), malformed.len() + 1, "{details:?}");
    for (_, word) in malformed {
        let named = |letter: &Value| {
            letter["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(word))
        };
        assert!(details.iter().any(named), "{word}: {details:?}");
    }
    assert!(
        details
            .iter()
            .all(|letter| letter["reason"] == "invalid-spec"),
        "{details:?}"
    );
    let large = details
        .iter()
        .find(|letter| letter["body_bytes"] == 40 << 20)
        .expect("the large one");
    assert!(
        large["detail"]
            .as_str()
            .unwrap_or_default()
            .contains("more than")
    );
    let ttl: i64 = producer.ttl("packetfs:results:job-1").expect("TTL");
    assert!((80_000..=86_400).contains(&ttl), "{ttl}");
    // They are counted after the queue has them.
    eventually("figures say the same", ANSWER, || {
        metric(&cluster, "weft_intake_connected{queue=\"redis\"}") == "1"
            && metric(&cluster, "weft_intake_rejected_total{queue=\"redis\"}") == "10"
    });
    // The repeated job was ended once more, with the same result.
    let repeated: Vec<String> = producer.lrange("packetfs:metrics", 0, -1).expect("LRANGE");
    let repeated = repeated.iter().filter(|line| line.contains("\"job-999\""));
    assert_eq!(repeated.count(), 2);
}

#[test]
fn a_killed_server_takes_up_its_redis_jobs_again() {
    let Some(redis) = Engine::redis() else { return };
    let mut cluster = up(&["--redis-url", &redis.url()]);
    let mut producer = connect(&redis);
    push(&mut producer, 0..1000);
    for done in [50, 400] {
        eventually("some have ended", BATCH, || results(&mut producer) >= done);
        cluster.kill_server();
        cluster.start();
    }
    eventually("every job has ended", BATCH, || {
        results(&mut producer) >= 1000 && left(&mut producer) == 0
    });
    check_results(&mut producer, 1000);
}

#[test]
fn redis_may_be_away_at_the_start_and_in_between() {
    let Some(mut redis) = Engine::redis() else {
        return;
    };
    redis.kill();
    let cluster = up(&["--redis-url", &redis.url()]);
    eventually("it is told", BATCH, || {
        cluster.log("server").contains("cannot be reached")
    });
    assert_eq!(
        metric(&cluster, "weft_intake_connected{queue=\"redis\"}"),
        "0"
    );
    redis.restart();
    let mut producer = connect(&redis);
    push(&mut producer, 0..500);
    eventually("some have ended", BATCH, || results(&mut producer) >= 20);
    redis.restart();
    let mut producer = connect(&redis);
    push(&mut producer, 500..600);
    eventually("every job has ended", BATCH, || {
        results(&mut producer) >= 600 && left(&mut producer) == 0
    });
    check_results(&mut producer, 600);
}

#[test]
fn another_server_takes_over_what_a_dead_one_had() {
    let Some(redis) = Engine::redis() else { return };
    let config = tempfile::NamedTempFile::new().expect("a file");
    let text = format!(
        "[queue.redis]\nurl = '{}'\nlease = '1s'\nmax_in_flight = 100\n",
        redis.url()
    );
    std::fs::write(config.path(), text).expect("written");
    let path = config.path().display().to_string();
    let mut first = up(&["--config", &path]);
    let _second = up(&["--config", &path]);
    let mut producer = connect(&redis);
    push(&mut producer, 0..1000);
    eventually("some have ended", BATCH, || results(&mut producer) >= 100);
    first.kill_server();
    eventually("every job has ended", BATCH, || {
        results(&mut producer) >= 1000 && left(&mut producer) == 0
    });
    check_results(&mut producer, 1000);
}

/// What a producer does with NATS.
struct Producer {
    runtime: tokio::runtime::Runtime,
    jetstream: async_nats::jetstream::Context,
}

impl Producer {
    fn connect(nats: &Engine) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let client = eventually_some("NATS answers", ANSWER, || {
            let options = async_nats::ConnectOptions::new()
                .connection_timeout(ANSWER)
                .request_timeout(Some(ANSWER));
            runtime.block_on(options.connect(nats.url())).ok()
        });
        let mut jetstream = {
            let _inside = runtime.enter();
            async_nats::jetstream::new(client)
        };
        jetstream.set_timeout(ANSWER);
        Self { runtime, jetstream }
    }

    fn push(&self, id: &str, body: impl Into<Vec<u8>>) {
        let message = async_nats::jetstream::message::PublishMessage::build()
            .message_id(id)
            .payload(body.into().into());
        // Under its id it is one message, however often it is sent.
        eventually_some(&format!("{id} is stored"), ANSWER, || {
            let sent = async {
                let subject = "weft.jobs".to_owned();
                let sent = self.jetstream.send_publish(subject, message.clone()).await;
                sent.ok()?.await.ok()
            };
            self.runtime.block_on(sent)
        });
    }

    /// How many messages a stream has; `None` when there is no such stream, or no answer.
    fn count(&self, stream: &str) -> Option<u64> {
        self.runtime.block_on(async {
            let mut stream = self.jetstream.get_stream(stream).await.ok()?;
            let info = stream.info().await.ok()?;
            Some(info.state.messages)
        })
    }

    fn last(&self, stream: &str, subject: &str) -> Option<Value> {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(stream).await.ok()?;
            let message = stream.get_last_raw_message_by_subject(subject).await.ok()?;
            serde_json::from_slice(&message.payload).ok()
        })
    }

    /// Every message of a stream.
    fn all(&self, stream: &str) -> Vec<Value> {
        let count = self.count(stream).expect("the stream");
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(stream).await.expect("the stream");
            let mut found = Vec::new();
            for sequence in 1..=count {
                if let Ok(message) = stream.get_raw_message(sequence).await {
                    found.push(serde_json::from_slice(&message.payload).expect("JSON"));
                }
            }
            found
        })
    }
}

fn nats_job(number: usize) -> String {
    json!({
        "runtime": "op", "op": {"op": "crc32c"},
        "tasks": [{"data": base64(input(number).as_bytes())}],
    })
    .to_string()
}

#[test]
fn two_servers_share_a_nats_stream_and_one_takes_over_from_the_other() {
    let Some(nats) = Engine::nats() else { return };
    let config = tempfile::NamedTempFile::new().expect("a file");
    let text = format!(
        "[queue.nats]\nurl = '{}'\nlease = '2s'\nmax_in_flight = 64\n",
        nats.url()
    );
    std::fs::write(config.path(), text).expect("written");
    let path = config.path().display().to_string();
    let mut first = up(&["--config", &path]);
    let second = up(&["--config", &path]);
    let producer = Producer::connect(&nats);
    eventually("the stream is there", BATCH, || {
        metric(&second, "weft_intake_connected{queue=\"nats\"}") == "1"
    });
    for number in 0..600 {
        producer.push(&format!("job-{number}"), nats_job(number));
    }
    eventually("some have ended", BATCH, || {
        producer.count("WEFT_JOBS_RESULTS") >= Some(60)
    });
    first.kill_server();
    for number in 600..700 {
        producer.push(&format!("job-{number}"), nats_job(number));
    }
    eventually("every job has ended", BATCH, || {
        producer.count("WEFT_JOBS_RESULTS") >= Some(700) && producer.count("WEFT_JOBS") == Some(0)
    });
    let results = producer.count("WEFT_JOBS_RESULTS");
    assert_eq!(results, Some(700), "one result a job");
    for number in 0..700 {
        let subject = format!("weft.jobs.results.job-{number}");
        let line = producer
            .last("WEFT_JOBS_RESULTS", &subject)
            .expect("a result");
        assert_eq!(line["state"], "completed", "{line}");
        let expected = crc32c::crc32c(input(number).as_bytes());
        assert_eq!(line["result"]["checksum"], expected, "{line}");
    }
    assert_eq!(producer.count("WEFT_JOBS_DEAD"), Some(0));
}

#[test]
fn malformed_nats_jobs_are_dead_letters_and_the_door_goes_on() {
    let Some(nats) = Engine::nats() else { return };
    let cluster = up(&["--nats-url", &nats.url()]);
    eventually("the stream is there", BATCH, || {
        metric(&cluster, "weft_intake_connected{queue=\"nats\"}") == "1"
    });
    let producer = Producer::connect(&nats);
    let malformed: [(&str, &[u8], &str); 6] = [
        ("bad-1", br#"{"runtime":"op","#, "EOF"),
        ("bad-2", br#"{"runtime":"op","op":{"op":"nope"}}"#, "op.op"),
        (
            "bad-3",
            br#"{"runtime":"op","op":{"op":"xor"},"priority":-1000}"#,
            "priority",
        ),
        ("bad-4", br#"{"runtime":7}"#, "runtime"),
        ("bad-5", b"\xff\xfe{}", ""),
        (
            "bad.6",
            br#"{"runtime":"op","op":{"op":"xor"}}"#,
            "Nats-Msg-Id",
        ),
    ];
    for (id, body, _) in malformed {
        producer.push(id, body);
    }
    producer.push("good", nats_job(1));
    let many = json!({
        "runtime": "op", "op": {"op": "xor"}, "inputs": {"array": 5000},
    });
    producer.push("many", many.to_string());
    eventually("every job has ended", BATCH, || {
        producer.count("WEFT_JOBS") == Some(0)
    });
    let letters = producer.all("WEFT_JOBS_DEAD");
    let ids: BTreeSet<&str> = letters
        .iter()
        .filter_map(|letter| letter["job_id"].as_str())
        .collect();
    assert_eq!(
        ids,
        BTreeSet::from(malformed.map(|(id, ..)| id)),
        "{letters:?}"
    );
    for (id, _, word) in malformed {
        let letter = letters
            .iter()
            .find(|letter| letter["job_id"] == id)
            .expect(id);
        assert!(
            letter["detail"].as_str().unwrap_or_default().contains(word),
            "{letter}"
        );
    }
    let good = producer
        .last("WEFT_JOBS_RESULTS", "weft.jobs.results.good")
        .expect("a result");
    assert_eq!(
        good["result"]["checksum"],
        crc32c::crc32c(input(1).as_bytes())
    );
    // 5,000 lines do not fit into one message.
    assert!(producer.count("WEFT_JOBS_RESULTS") > Some(2));
}
