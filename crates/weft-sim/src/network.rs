//! Sessions between agents and the server: reliable and in order while they last, as TCP is.
//!
//! A partition stalls one direction or both; a broken session loses what is under way, or still
//! delivers some of it late, next to the messages of the session that follows.

use weft_core::Epoch;
use weft_core::dispatch::{Held, TaskRef, TaskResult, TaskRun};
use weft_types::Reason;

use crate::random::Random;

/// From an agent to the server.
#[derive(Clone, Debug)]
pub enum ToServer {
    /// Opens the session.
    Hello {
        /// What the agent holds.
        held: Held,
    },
    /// Renews the lease.
    Heartbeat,
    /// Reports.
    Results(Vec<TaskResult>),
    /// Tasks that began.
    Started(Vec<TaskRef>),
    /// Tasks given back.
    Handback(Vec<TaskRef>, Option<Reason>),
}

/// From the server to an agent.
#[derive(Clone, Debug)]
pub enum ToAgent {
    /// Answers the hello.
    Welcome {
        /// What to stop and forget.
        stop: Held,
    },
    /// Work.
    Dispatch(Vec<TaskRun>),
    /// Tasks to stop and forget.
    Stop(Vec<TaskRef>),
    /// Reports to forget.
    Ack(Vec<TaskRef>),
    /// Tasks to give back if they have not begun.
    Recall(Vec<TaskRef>),
    /// The session ends.
    Goodbye,
}

/// One of the two directions of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Agent to server.
    Up,
    /// Server to agent.
    Down,
}

/// A session, seen from the network.
#[derive(Clone, Debug)]
pub struct Link {
    /// Which agent dialled.
    pub agent: usize,
    /// The epoch the server gave it; `None` before it was welcomed.
    pub epoch: Option<Epoch>,
    /// Whether both sides still use it.
    pub is_open: bool,
    /// What would arrive later than this is lost.
    cut_ms: u64,
    last_up_ms: u64,
    last_down_ms: u64,
}

/// All sessions, and what is partitioned.
#[derive(Default, Debug)]
pub struct Network {
    links: Vec<Link>,
    /// For each agent and direction, until when nothing passes.
    blocked_ms: Vec<[u64; 2]>,
}

impl Network {
    /// A network with this many agents.
    pub fn new(agents: usize) -> Self {
        Self {
            links: Vec::new(),
            blocked_ms: vec![[0; 2]; agents],
        }
    }

    /// An agent dials.
    pub fn dial(&mut self, agent: usize) -> usize {
        self.links.push(Link {
            agent,
            epoch: None,
            is_open: true,
            cut_ms: u64::MAX,
            last_up_ms: 0,
            last_down_ms: 0,
        });
        self.links.len() - 1
    }

    /// A session.
    pub fn link(&self, link: usize) -> &Link {
        &self.links[link]
    }

    /// A session, to change it.
    pub fn link_mut(&mut self, link: usize) -> &mut Link {
        &mut self.links[link]
    }

    /// When a message sent now arrives; `None` when it is lost.
    pub fn send(
        &mut self,
        now_ms: u64,
        link: usize,
        way: Direction,
        random: &mut Random,
    ) -> Option<u64> {
        let delay_ms = if random.chance(50) {
            random.between(20, 1_500)
        } else {
            random.between(1, 10)
        };
        let link = &mut self.links[link];
        if !link.is_open {
            return None;
        }
        let blocked_ms = self.blocked_ms[link.agent][way as usize];
        let last = match way {
            Direction::Up => &mut link.last_up_ms,
            Direction::Down => &mut link.last_down_ms,
        };
        let due_ms = (now_ms.max(blocked_ms) + delay_ms).max(*last);
        *last = due_ms;
        Some(due_ms)
    }

    /// Whether a message that arrives now still arrives.
    pub fn arrives(&self, now_ms: u64, link: usize) -> bool {
        now_ms <= self.links[link].cut_ms
    }

    /// Nothing passes in a direction until a time.
    pub fn block(&mut self, agent: usize, way: Direction, until_ms: u64) {
        let blocked = &mut self.blocked_ms[agent][way as usize];
        *blocked = (*blocked).max(until_ms);
    }

    /// Ends every partition.
    pub fn heal(&mut self) {
        for blocked in &mut self.blocked_ms {
            *blocked = [0; 2];
        }
    }

    /// Breaks a session. What is under way is lost at once, or arrives for a while.
    pub fn cut(&mut self, now_ms: u64, link: usize, random: &mut Random) {
        let late_ms = if random.chance(2) {
            random.between(0, 400)
        } else {
            0
        };
        let link = &mut self.links[link];
        if link.is_open {
            link.is_open = false;
            link.cut_ms = now_ms + late_ms;
        }
    }
}
