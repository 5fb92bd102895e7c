//! What breaks, at random, until it is calm.

use crate::network::Direction;
use crate::world::{Event, World};

impl World {
    /// Something breaks, and the next thing will soon.
    pub(crate) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let ms = self.random.between(100, 3_000);
        self.after(ms, Event::Fault);
        let agent = self.random.between(0, self.agents.len() as u64 - 1) as usize;
        match self.random.between(0, 10) {
            0 | 1 => {
                self.crash_server();
                let ms = self.random.between(50, 4_000);
                self.after(ms, Event::StartServer);
            }
            2 => self.pause_server(),
            3 => self.crash_agent(agent),
            4 => {
                let ms = self.random.between(100, 15_000);
                self.agents[agent].paused_until_ms = self.now_ms + ms;
            }
            5 | 6 => self.partition(agent),
            7 | 8 => self.break_session(agent),
            9 => self.break_runtimes(),
            _ => {
                self.journal.is_full = true;
                let ms = self.random.between(100, 3_000);
                self.after(ms, Event::DiskFreed);
            }
        }
    }

    fn pause_server(&mut self) {
        let ms = self.random.between(100, 10_000);
        if let Some(server) = &mut self.server
            && server.paused_until_ms <= self.now_ms
        {
            server.paused_until_ms = self.now_ms + ms;
            if ms > server.liveness.config().max_gap_ms {
                server.absent_ms += ms;
            }
        }
    }

    /// Every task on the rented nodes fails for a while.
    fn break_runtimes(&mut self) {
        let until_ms = self.now_ms + self.random.between(500, 8_000);
        for agent in &mut self.agents {
            if !agent.provider.is_empty() {
                agent.broken_until_ms = until_ms;
            }
        }
    }

    /// Nothing passes for a while, in one direction or in both.
    fn partition(&mut self, agent: usize) {
        let until_ms = self.now_ms + self.random.between(100, 12_000);
        let which = self.random.between(0, 2);
        if which != 0 {
            self.network.block(agent, Direction::Up, until_ms);
        }
        if which != 1 {
            self.network.block(agent, Direction::Down, until_ms);
        }
    }

    fn break_session(&mut self, agent: usize) {
        if let Some(link) = self.agents[agent].link {
            self.network.cut(self.now_ms, link, &mut self.random);
            let ms = self.random.between(1, 3_000);
            self.after(ms, Event::LinkLost { link });
        }
    }

    /// Whatever is broken is mended; what is on its way still comes.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
        self.network.heal();
        self.journal.is_full = false;
        for agent in &mut self.agents {
            agent.paused_until_ms = agent.paused_until_ms.min(self.now_ms);
            agent.broken_until_ms = agent.broken_until_ms.min(self.now_ms);
        }
        self.start_server();
    }
}
