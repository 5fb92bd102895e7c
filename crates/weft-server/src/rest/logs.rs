//! What tasks print, while they run and afterwards.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use bytes::{Buf, Bytes};
use prost::Message;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use weft_api::{LogLine, NDJSON_CONTENT_TYPE};
use weft_proto::v1;
use weft_types::{BlobHash, JobId, TaskState};

use super::page::{Params, job_id};
use super::problem::ApiError;
use super::{App, jobs};
use crate::state::Server;

/// Lines that wait for the client.
const MAX_WAITING_LINES: usize = 64;
/// How many bytes of output one line carries, at most.
const PIECE_BYTES: usize = 128 << 10;
/// How often is looked whether a task has got a node, or has ended without news.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Which output.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogParams {
    task: Option<u32>,
    follow: Option<bool>,
}

/// `GET /v1/logs/jobs/{id}`: pieces of output as NDJSON, task by task; with `follow` each task
/// until it ends.
pub async fn logs(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<LogParams>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let total = jobs::view(&server, id).await?.tasks.total;
    let tasks = match params.task {
        Some(task) => task..task.saturating_add(1),
        None => 0..u32::try_from(total).unwrap_or(u32::MAX),
    };
    let follow = params.follow.unwrap_or(false);
    let (lines, receiver) = mpsc::channel(MAX_WAITING_LINES);
    tokio::spawn(async move {
        for task in tasks {
            let mut source = Source {
                server: Arc::clone(&server),
                job: id,
                task,
                lines: lines.clone(),
                stdout: 0,
                stderr: 0,
                node: None,
            };
            if source.send_all(follow).await.is_none() {
                break;
            }
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Ok(([(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE)], body).into_response())
}

/// The output of one task on its way to one client.
struct Source {
    server: Arc<Server>,
    job: JobId,
    task: u32,
    lines: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
    /// Bytes of each stream that were sent.
    stdout: u64,
    stderr: u64,
    node: Option<String>,
}

impl Source {
    /// Sends what the task printed, and with `follow` what it prints; `None` when the client is gone.
    async fn send_all(&mut self, follow: bool) -> Option<()> {
        let mut news = self.server.dispatcher.watch(self.job);
        loop {
            if self.is_final().await? {
                return self.send_stored().await;
            }
            if !follow {
                return Some(());
            }
            let mut pieces = self.server.follows.follow(self.job, self.task);
            let (job, task, stdout, stderr) = (self.job, self.task, self.stdout, self.stderr);
            let asked = self
                .server
                .dispatcher
                .ask(move |shell| shell.follow(job, task, stdout, stderr))
                .await
                .ok()?;
            loop {
                tokio::select! {
                    Some(piece) = pieces.recv(), if asked => self.send_piece(&piece).await?,
                    () = news.changed() => break,
                    () = tokio::time::sleep(LOOK_INTERVAL), if !asked => break,
                    () = self.server.stopping.cancelled() => return None,
                    () = self.lines.closed() => return None,
                }
            }
        }
    }

    async fn is_final(&self) -> Option<bool> {
        let (job, task) = (self.job, self.task);
        let state = self
            .server
            .dispatcher
            .ask(move |shell| shell.machine().task(job, task).map(|(state, ..)| state))
            .await
            .ok()??;
        Some(TaskState::is_final(state))
    }

    async fn send_piece(&mut self, piece: &v1::LogChunk) -> Option<()> {
        let (name, known) = if piece.stream == 2 {
            ("stderr", self.stderr)
        } else {
            ("stdout", self.stdout)
        };
        // What overlaps was sent before; after a gap the rest comes from the stored result.
        let Some(fresh) = known
            .checked_sub(piece.offset)
            .and_then(|skip| usize::try_from(skip).ok())
        else {
            return Some(());
        };
        match piece.data.get(fresh..) {
            Some(data) if !data.is_empty() => self.send(name, data.to_vec().into()).await,
            _ => Some(()),
        }
    }

    /// What the journal or the artifacts have beyond what was sent.
    async fn send_stored(&mut self) -> Option<()> {
        let Some(stored) = self.server.log.result(self.job, self.task).await else {
            return Some(());
        };
        let outcome = v1::TaskOutcome::decode(stored.outcome).unwrap_or_default();
        self.node = Some(outcome.node).filter(|node| !node.is_empty());
        self.send_rest("stdout", outcome.stdout, &outcome.stdout_blob)
            .await?;
        self.send_rest("stderr", outcome.stderr, &outcome.stderr_blob)
            .await
    }

    async fn send_rest(
        &mut self,
        name: &'static str,
        mut inline: Bytes,
        blob: &[u8],
    ) -> Option<()> {
        let known = if name == "stderr" {
            self.stderr
        } else {
            self.stdout
        };
        if let Ok(hash) = BlobHash::from_slice(blob) {
            return self.send_blob(name, &hash, known).await;
        }
        inline.advance(
            usize::try_from(known)
                .unwrap_or(usize::MAX)
                .min(inline.len()),
        );
        self.send(name, inline).await
    }

    async fn send_blob(&mut self, name: &'static str, hash: &BlobHash, known: u64) -> Option<()> {
        let Ok(mut file) = self.server.blobs.open_file(hash).await else {
            return Some(());
        };
        file.seek(std::io::SeekFrom::Start(known)).await.ok()?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let length = file.read(&mut buffer).await.ok()?;
            if length == 0 {
                return Some(());
            }
            self.send(name, Bytes::copy_from_slice(&buffer[..length]))
                .await?;
        }
    }

    async fn send(&mut self, name: &'static str, mut data: Bytes) -> Option<()> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            let offset = if name == "stderr" {
                &mut self.stderr
            } else {
                &mut self.stdout
            };
            let line = LogLine {
                task: self.task,
                stream: name.to_owned(),
                offset: *offset,
                data: base64::engine::general_purpose::STANDARD.encode(&piece),
                node: self.node.clone(),
            };
            *offset += piece.len() as u64;
            let mut text = serde_json::to_vec(&line).ok()?;
            text.push(b'\n');
            self.lines.send(Ok(text.into())).await.ok()?;
        }
        Some(())
    }
}
