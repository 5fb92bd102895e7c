//! The session with a server: greeting, work in, reports out, renewal.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::server_message::Message as Answer;

use crate::artifacts::Artifacts;
use crate::capacity::{Offer, Offers};
use crate::channel::connect;
use crate::executor::Executor;
use crate::heartbeat::Heartbeats;
use crate::identity::{Member, now};
use crate::lease::Lease;
use crate::logs::Follows;
use crate::renewal::Renewal;
use crate::units::{Tunnels, Units};
use crate::{Error, lease};

/// Messages that wait for the network.
const MAX_WAITING_MESSAGES: usize = 64;
/// Heartbeats that wait for the network.
const MAX_WAITING_BEATS: usize = 4;
/// How long the server may take to answer the greeting.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long, and at the latest after twice that, a result that was sent and not
/// acknowledged is sent again: the server may have had no room on its disk for it.
const RESEND_INTERVAL: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It broke off, or the server ended it; another may be opened.
    Lost(Error),
    /// The node is not part of the cluster any more.
    Removed,
    /// The agent stops.
    Shutdown,
}

/// What sessions are opened with.
pub(crate) struct Sessions {
    pub(crate) member: Member,
    pub(crate) offers: Offers,
    pub(crate) executor: Executor,
    pub(crate) units: Units,
    pub(crate) lease: Lease,
    pub(crate) artifacts: Artifacts,
    pub(crate) data_dir: PathBuf,
    pub(crate) started: Instant,
    pub(crate) last_epoch: u64,
    pub(crate) stop: CancellationToken,
}

impl Sessions {
    /// Opens a session and keeps it until it ends; `welcomed` is called once the server has
    /// answered.
    pub(crate) async fn run(&mut self, welcomed: impl FnOnce()) -> Ended {
        let stop = self.stop.clone();
        let ended = tokio::select! {
            ended = self.open(welcomed) => ended,
            () = stop.cancelled() => return Ended::Shutdown,
        };
        self.artifacts.connected(None);
        ended
    }

    async fn open(&mut self, welcomed: impl FnOnce()) -> Ended {
        if let Err(error) = self.member.ensure_valid().await {
            return ended_by(error);
        }
        self.units.present(&self.member.credentials);
        let mut client = match connect(&self.member.addresses, &self.member.tls).await {
            Ok(client) => client,
            Err(error) => return Ended::Lost(error),
        };
        let (out, messages) = mpsc::channel(MAX_WAITING_MESSAGES);
        let (beats, heartbeats) = mpsc::channel(MAX_WAITING_BEATS);
        let changes = self.offers.subscribe();
        let offer = self.offers.now();
        let greeted_ms = lease::now_ms();
        let hello = v1::AgentMessage {
            message: Some(Message::Hello(self.hello(&offer))),
        };
        if out.send(hello).await.is_err() {
            return Ended::Lost(Error::Machine("the session could not be opened".to_owned()));
        }
        let outgoing = ReceiverStream::new(heartbeats).merge(ReceiverStream::new(messages));
        let mut incoming = match client.session(outgoing).await {
            Ok(response) => response.into_inner(),
            Err(status) => return refused(&status),
        };
        let welcome = match tokio::time::timeout(WELCOME_TIMEOUT, incoming.message()).await {
            Ok(Ok(Some(v1::ServerMessage {
                message: Some(Answer::Welcome(welcome)),
            }))) => welcome,
            Ok(Err(status)) => return refused(&status),
            _ => return Ended::Lost(Error::Refused("it did not answer the greeting".to_owned())),
        };
        self.last_epoch = welcome.epoch;
        self.lease.welcomed(greeted_ms, welcome.lease_ttl_ms);
        let tunnels = Tunnels::new(&self.units, client.clone());
        self.artifacts.connected(Some(client));
        self.executor.stop(&welcome.stop);
        self.executor.resend_all();
        self.units.session_began();
        let period = Duration::from_millis(welcome.heartbeat_ms.max(10));
        let started = Heartbeats::start(
            period,
            welcome.epoch,
            self.executor.clone(),
            self.data_dir.clone(),
            beats,
        );
        let _heartbeats = match started {
            Ok(heartbeats) => heartbeats,
            Err(error) => {
                return Ended::Lost(Error::Machine(format!("no thread for heartbeats: {error}")));
            }
        };
        welcomed();
        let (executor, units) = (self.executor.clone(), self.units.clone());
        let (lease, offers) = (self.lease.clone(), self.offers.clone());
        // Apart, so that a network that takes nothing does not keep the agent from listening.
        tokio::select! {
            ended = self.listen(&mut incoming, &out, &tunnels) => ended,
            ended = send_reports(executor, &out) => ended,
            ended = send_units(units, &out) => ended,
            ended = send_offers(offers, offer, changes, &out) => ended,
            () = lease.lost() => {
                let detail = "no heartbeat was answered in time, and exclusive units had to stop";
                Ended::Lost(Error::Refused(detail.to_owned()))
            }
        }
    }

    fn hello(&self, offer: &Offer) -> v1::Hello {
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(offer.to_proto()),
            held: self.executor.held(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            last_epoch: self.last_epoch,
            peer_port: self.units.peer_port().into(),
        }
    }

    async fn listen(
        &mut self,
        incoming: &mut Streaming<v1::ServerMessage>,
        out: &mpsc::Sender<v1::AgentMessage>,
        tunnels: &Tunnels,
    ) -> Ended {
        let mut follows = Follows::default();
        let mut renewal = Renewal::new();
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(v1::ServerMessage { message: Some(Answer::Renewed(renewed)) })) => {
                        if self.renewed(&renewed) {
                            next_look = Instant::now();
                        }
                    }
                    Ok(Some(message)) => {
                        if let Some(ended) = self.take(message, &mut follows, out, tunnels) {
                            return ended;
                        }
                    }
                    Ok(None) => return closed(),
                    Err(status) => return refused(&status),
                },
                () = tokio::time::sleep_until(next_look.into()) => {
                    let look = renewal.look(self.member.credentials.certificate.renew_at().since(now()));
                    next_look = Instant::now() + look.pause;
                    if look.ask {
                        self.ask_for_renewal(out);
                    }
                }
            }
        }
    }

    fn take(
        &mut self,
        message: v1::ServerMessage,
        follows: &mut Follows,
        out: &mpsc::Sender<v1::AgentMessage>,
        tunnels: &Tunnels,
    ) -> Option<Ended> {
        match message.message? {
            Answer::Dispatch(dispatch) => self.executor.dispatch(dispatch),
            Answer::Cancel(cancel) => self.executor.stop(&cancel.tasks),
            Answer::Ack(ack) => self.executor.acknowledged(&ack.tasks),
            Answer::Recall(recall) => self.executor.recall(&recall.tasks),
            Answer::Follow(request) => follows.request(&self.executor, &request, out),
            Answer::Goodbye(goodbye) if goodbye.code == "removed" => return Some(Ended::Removed),
            Answer::Goodbye(goodbye) => {
                return Some(Ended::Lost(Error::Refused(format!(
                    "it ended the session: {}",
                    goodbye.code
                ))));
            }
            Answer::Beat(beat) => self.lease.beat(beat.sent_ms),
            Answer::Units(units) => self.units.apply(units),
            Answer::Endpoints(endpoints) => self.units.endpoints(endpoints),
            Answer::Open(request) => tunnels.open(request),
            Answer::Welcome(_) | Answer::Renewed(_) => {}
        }
        None
    }

    fn ask_for_renewal(&self, out: &mpsc::Sender<v1::AgentMessage>) {
        match self.member.identity.csr() {
            Ok(csr) => {
                let request = Message::Renew(v1::RenewRequest { csr: csr.into() });
                // With no room in the channel it is asked for at the next look.
                let _ = out.try_send(v1::AgentMessage {
                    message: Some(request),
                });
            }
            Err(error) => tracing::error!(%error, "the certificate cannot be renewed"),
        }
    }

    /// Whether there is another certificate now.
    fn renewed(&mut self, renewed: &v1::RenewResponse) -> bool {
        if !renewed.error.is_empty() {
            tracing::error!(error = renewed.error, "the certificate was not renewed");
            return false;
        }
        if let Err(error) = self.member.renewed(&renewed.certificate) {
            tracing::error!(%error, "the renewed certificate is not usable");
            return false;
        }
        self.units.present(&self.member.credentials);
        true
    }
}

/// Sends what the executor has to tell, until the session ends.
async fn send_reports(executor: Executor, out: &mpsc::Sender<v1::AgentMessage>) -> Ended {
    let mut resend = tokio::time::interval(RESEND_INTERVAL);
    // Rounds that a slow network made late must not follow each other at once.
    resend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while let Some(message) = executor.next_message() {
            let message = v1::AgentMessage {
                message: Some(message),
            };
            if out.send(message).await.is_err() {
                return closed();
            }
        }
        tokio::select! {
            () = executor.outgoing() => {}
            _ = resend.tick() => executor.resend_unacknowledged(),
        }
    }
}

/// Sends what there is to tell of units, until the session ends.
async fn send_units(units: Units, out: &mpsc::Sender<v1::AgentMessage>) -> Ended {
    loop {
        while let Some(message) = units.next_message() {
            let message = v1::AgentMessage {
                message: Some(message),
            };
            if out.send(message).await.is_err() {
                return closed();
            }
        }
        units.outgoing().await;
    }
}

/// Sends what the node offers whenever that is something else than what was told before.
async fn send_offers(
    offers: Offers,
    mut told: Offer,
    mut changes: watch::Receiver<u64>,
    out: &mpsc::Sender<v1::AgentMessage>,
) -> Ended {
    while changes.changed().await.is_ok() {
        let offer = offers.now();
        if offer == told {
            continue;
        }
        let message = v1::Offer {
            capacity: Some(offer.to_proto()),
        };
        let message = v1::AgentMessage {
            message: Some(Message::Offer(message)),
        };
        if out.send(message).await.is_err() {
            return closed();
        }
        told = offer;
    }
    std::future::pending().await
}

fn closed() -> Ended {
    Ended::Lost(Error::Refused("it closed the session".to_owned()))
}

fn refused(status: &Status) -> Ended {
    match status.code() {
        Code::PermissionDenied => Ended::Removed,
        _ => Ended::Lost(Error::Refused(status.message().to_owned())),
    }
}

fn ended_by(error: Error) -> Ended {
    match error {
        Error::Removed => Ended::Removed,
        error => Ended::Lost(error),
    }
}

#[cfg(test)]
mod tests;
