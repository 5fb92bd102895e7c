//! What breaks, at random, until it is calm.

use super::{Event, NODES, WALL_MS, World};

const HOUR_MS: i64 = 3_600_000;

impl World {
    /// Something breaks, and the next thing will soon.
    pub(super) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let ms = self.random.between(200, 3_000);
        self.after(ms, Event::Fault);
        let index = self.random.between(0, NODES as u64 - 1) as usize;
        match self.random.between(0, 13) {
            0 => self.crash_node(index, true),
            1 => self.crash_node(index, false),
            2 | 3 => {
                let ms = self.random.between(100, 12_000);
                let node = &mut self.nodes[index];
                // What it was kept from doing until then would come after what it does meanwhile.
                node.paused_until_ms = node.paused_until_ms.max(self.now_ms + ms);
            }
            4..=6 => self.partition(index),
            7 | 8 => self.crash_scheduler(),
            9 => self.pause_scheduler(),
            10 => {
                self.server_is_up = false;
                let ms = self.random.between(50, 8_000);
                self.after(ms, Event::StartServer);
            }
            11 => self.vanish(index),
            12 => {
                let hours = self.random.between(0, 2) as i64 - 1;
                self.wall_skew_ms = WALL_MS + hours * HOUR_MS;
            }
            _ => {
                let hours = self.random.between(0, 2) as i64 - 1;
                self.nodes[index].clock_skew_ms = hours * HOUR_MS;
            }
        }
    }

    /// Nothing passes for a while, in one direction or in both.
    fn partition(&mut self, index: usize) {
        let until_ms = self.now_ms + self.random.between(100, 10_000);
        let which = self.random.between(0, 2);
        if which != 0 {
            self.nodes[index].up_blocked_until_ms = until_ms;
        }
        if which != 1 {
            self.nodes[index].down_blocked_until_ms = until_ms;
        }
    }

    fn crash_scheduler(&mut self) {
        let index = self.random.between(0, 1) as usize;
        self.schedulers[index] = None;
        let ms = self.random.between(10, 5_000);
        self.after(ms, Event::StartScheduler { index });
    }

    /// It stands still, perhaps for longer than it leads, and goes on as if nothing had been.
    fn pause_scheduler(&mut self) {
        let index = self.random.between(0, 1) as usize;
        let ms = self.random.between(100, 8_000);
        if let Some(scheduler) = &mut self.schedulers[index] {
            scheduler.paused_until_ms = self.now_ms + ms;
        }
    }

    /// Whatever is broken is mended, and every node is open.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        for node in &mut self.nodes {
            node.up_blocked_until_ms = 0;
            node.down_blocked_until_ms = 0;
        }
        for record in self.store.nodes.values_mut() {
            *record = super::store::NodeRecord::default();
        }
        self.health_version += 1;
        self.start_server();
        self.start_scheduler(0);
        self.start_scheduler(1);
        self.after(5_000, Event::Check);
    }
}
