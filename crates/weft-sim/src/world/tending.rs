//! The agents' shells.

use weft_core::dispatch::{Outcome, TaskRef};
use weft_types::Reason;

use crate::client::{Fate, fate};
use crate::network::{Direction, ToAgent, ToServer};

use super::{Act, Event, World};

const HEARTBEAT_MS: u64 = 1_000;
/// How long a report may stay unacknowledged before it is sent again.
const RESEND_MS: u64 = 1_500;
/// How long it takes until a write to a closed session fails.
const NOTICE_MS: u64 = 50;
/// How long an agent waits to be welcomed.
const WELCOME_MS: u64 = 5_000;

impl World {
    pub(crate) fn start_agent(&mut self, agent: usize) {
        self.agents[agent].is_up = true;
        self.act_after(self.now_jitter(agent), agent, Act::Dial);
        self.act_after(HEARTBEAT_MS, agent, Act::Heartbeat);
        self.act_after(RESEND_MS, agent, Act::Resend);
    }

    /// Agents do not all begin at the same instant.
    fn now_jitter(&self, agent: usize) -> u64 {
        1 + agent as u64 * 3
    }

    pub(crate) fn crash_agent(&mut self, agent: usize) {
        if !self.agents[agent].is_up {
            return;
        }
        if let Some(link) = self.agents[agent].link {
            self.network.cut(self.now_ms, link, &mut self.random);
        }
        self.agents[agent].crash();
        let ms = self.random.between(50, 5_000);
        self.after(ms, Event::StartAgent { agent });
    }

    fn act_after(&mut self, ms: u64, agent: usize, act: Act) {
        let incarnation = self.agents[agent].incarnation;
        self.after(
            ms,
            Event::Agent {
                agent,
                incarnation,
                act,
            },
        );
    }

    pub(super) fn agent_act(&mut self, agent: usize, incarnation: u32, act: Act) {
        if self.agents[agent].incarnation != incarnation || !self.agents[agent].is_up {
            return;
        }
        let paused_until_ms = self.agents[agent].paused_until_ms;
        if self.now_ms < paused_until_ms {
            self.at(
                paused_until_ms,
                Event::Agent {
                    agent,
                    incarnation,
                    act,
                },
            );
            return;
        }
        match act {
            Act::Dial => self.dial(agent),
            Act::GiveUp { link } => {
                let current = &self.agents[agent];
                if current.link == Some(link) && !current.is_welcome {
                    self.network.cut(self.now_ms, link, &mut self.random);
                    self.link_lost(link);
                }
            }
            Act::Heartbeat => {
                self.say(agent, ToServer::Heartbeat);
                self.act_after(HEARTBEAT_MS, agent, Act::Heartbeat);
            }
            Act::Resend => {
                self.report_all(agent);
                self.act_after(RESEND_MS, agent, Act::Resend);
            }
            Act::End(at) => self.task_ends(agent, at),
        }
    }

    fn dial(&mut self, agent: usize) {
        if self.agents[agent].link.is_some() {
            return;
        }
        let link = self.network.dial(agent);
        self.agents[agent].link = Some(link);
        let held = self.agents[agent].held();
        self.send_up(link, ToServer::Hello { held });
        self.act_after(WELCOME_MS, agent, Act::GiveUp { link });
    }

    pub(super) fn link_lost(&mut self, link: usize) {
        let agent = self.network.link(link).agent;
        if self.agents[agent].link != Some(link) || !self.agents[agent].is_up {
            return;
        }
        self.agents[agent].disconnect();
        let ms = self.random.between(10, 500);
        self.act_after(ms, agent, Act::Dial);
    }

    pub(super) fn agent_message(&mut self, link: usize, message: ToAgent) {
        let agent = self.network.link(link).agent;
        let current = &mut self.agents[agent];
        if current.link != Some(link) || !current.is_up || !self.network.arrives(self.now_ms, link)
        {
            return;
        }
        if self.now_ms < current.paused_until_ms {
            let until_ms = current.paused_until_ms;
            self.at(until_ms, Event::Down { link, message });
            return;
        }
        match message {
            ToAgent::Welcome { stop } => {
                current.drop_tasks(&stop);
                current.is_welcome = true;
                self.report_all(agent);
            }
            ToAgent::Dispatch(runs) => {
                let rejected = current.take(&runs);
                if !rejected.is_empty() {
                    let reason = Some(Reason::InsufficientResources);
                    self.say(agent, ToServer::Handback(rejected, reason));
                }
            }
            ToAgent::Stop(tasks) | ToAgent::Ack(tasks) => current.drop_tasks(&tasks),
            ToAgent::Recall(tasks) => {
                let back = current.hand_back(&tasks);
                if !back.is_empty() {
                    self.say(agent, ToServer::Handback(back, None));
                }
            }
            ToAgent::Goodbye => {
                self.network.cut(self.now_ms, link, &mut self.random);
                self.link_lost(link);
            }
        }
        self.begin(agent);
    }

    fn begin(&mut self, agent: usize) {
        let begun = self.agents[agent].begin();
        for &at in &begun {
            self.checker.begin(at);
            let (Fate::Ends(ms, _) | Fate::KillsAgent(ms)) = fate(self.seed, at);
            self.act_after(ms, agent, Act::End(at));
        }
        // Some agents say what begins, some do not; nothing may depend on it.
        if !begun.is_empty() && agent > 0 {
            self.say(agent, ToServer::Started(begun));
        }
    }

    fn task_ends(&mut self, agent: usize, at: TaskRef) {
        match fate(self.seed, at) {
            Fate::KillsAgent(_) => {
                let held = self.agents[agent].held.get(&(at.job, at.task));
                if held.is_some_and(|held| held.attempt == at.attempt) {
                    self.crash_agent(agent);
                }
            }
            Fate::Ends(_, outcome) => {
                let is_broken = self.now_ms < self.agents[agent].broken_until_ms;
                let broken = Outcome::Failed(Reason::RuntimeError);
                let outcome = if is_broken { broken } else { outcome };
                if self.agents[agent].end(at, outcome) {
                    self.report(agent, at, outcome);
                }
                self.begin(agent);
            }
        }
    }

    fn report(&mut self, agent: usize, at: TaskRef, outcome: Outcome) {
        let reports = self.agents[agent].reports();
        let fresh = reports
            .into_iter()
            .filter(|result| result.at == at && result.outcome == outcome);
        self.say(agent, ToServer::Results(fresh.collect()));
    }

    fn report_all(&mut self, agent: usize) {
        let reports = self.agents[agent].reports();
        if !reports.is_empty() {
            self.say(agent, ToServer::Results(reports));
        }
    }

    /// Sends something over the session, when there is one.
    fn say(&mut self, agent: usize, message: ToServer) {
        if self.agents[agent].is_welcome
            && let Some(link) = self.agents[agent].link
        {
            self.send_up(link, message);
        }
    }

    fn send_up(&mut self, link: usize, message: ToServer) {
        match self
            .network
            .send(self.now_ms, link, Direction::Up, &mut self.random)
        {
            Some(due_ms) => self.at(due_ms, Event::Up { link, message }),
            // The other side has closed the session: whoever writes to it is told.
            None => self.after(NOTICE_MS, Event::LinkLost { link }),
        }
    }
}
