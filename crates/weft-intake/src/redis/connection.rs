//! One connection that all calls share, made again when it broke.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::Mutex;

use crate::Error;

/// What the engine is called in errors.
pub(super) const QUEUE: &str = "Redis";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Long enough for a batch of large jobs on a slow link.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// The connection, and how to make it.
pub(super) struct Connection {
    client: Client,
    open: Mutex<Option<MultiplexedConnection>>,
}

impl Connection {
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let client = Client::open(url)
            .map_err(|error| Error::setting("queue.redis.url", error.to_string()))?;
        Ok(Self {
            client,
            open: Mutex::new(None),
        })
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let mut connection = self.get().await?;
        let answer = command.query_async(&mut connection).await;
        self.checked(answer).await
    }

    pub(super) async fn invoke<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        let mut connection = self.get().await?;
        let answer = call.invoke_async(&mut connection).await;
        self.checked(answer).await
    }

    async fn get(&self) -> Result<MultiplexedConnection, Error> {
        let mut open = self.open.lock().await;
        if let Some(connection) = &*open {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connected = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(unreachable)?;
        Ok(open.insert(connected).clone())
    }

    /// A connection that broke, or on which an answer is overdue, is not used again.
    async fn checked<T>(&self, answer: Result<T, RedisError>) -> Result<T, Error> {
        match answer {
            Ok(value) => Ok(value),
            Err(error)
                if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() =>
            {
                *self.open.lock().await = None;
                Err(unreachable(error))
            }
            Err(error) => Err(Error::Refused {
                queue: QUEUE,
                detail: error.to_string(),
            }),
        }
    }
}

fn unreachable(error: RedisError) -> Error {
    Error::Unreachable {
        queue: QUEUE,
        detail: error.to_string(),
    }
}
