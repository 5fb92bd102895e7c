//! The suite against the embedded store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weft_intake::EmbeddedQueue;
use weft_intake::conformance::{Subject, run};

struct InStore(Arc<dyn weft_store::Store>);

#[async_trait::async_trait]
impl Subject for InStore {
    type Queue = EmbeddedQueue;

    async fn leased(&self, queue: &str, name: &str, lease: Duration) -> EmbeddedQueue {
        EmbeddedQueue::new(Arc::clone(&self.0), &format!("intake/{queue}"), name, lease)
    }

    async fn push(&self, queue: &str, body: Bytes) {
        let producer = self.consumer(queue, "producer").await;
        producer.push(body).await.expect("push");
    }

    async fn result(&self, queue: &str, id: &str) -> Option<Bytes> {
        let producer = self.consumer(queue, "producer").await;
        producer.result(id).await.expect("result")
    }

    async fn dead(&self, queue: &str) -> Vec<Bytes> {
        let producer = self.consumer(queue, "producer").await;
        producer.dead_letters().await.expect("dead letters")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_queue_behaves_as_the_port_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = weft_store::Embedded::open(dir.path(), weft_store::Options::default());
    run(&InStore(Arc::new(store.expect("the store opens")))).await;
}
