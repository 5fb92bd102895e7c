//! What must hold between any two inputs.

use std::collections::BTreeMap;

use super::Machine;
use super::job::Job;
use super::node::candidate;
use super::table::Phase;

impl Machine {
    /// Looks at everything and panics when the machine contradicts itself. Takes time in
    /// proportion to its size: for tests and the simulator.
    ///
    /// # Panics
    /// When counts do not add up, a reservation exceeds what is held, or a task is in two places.
    pub fn check(&self) {
        let mut held: BTreeMap<(u16, u32), u32> = BTreeMap::new();
        let mut recording = 0u64;
        let mut tasks = 0;
        for (slot, job) in self.jobs.iter() {
            tasks += u64::from(job.table.len());
            let mut phases = [0u64; Phase::COUNT];
            for (task, cell) in job.table.iter() {
                phases[cell.phase() as usize] += 1;
                if cell.phase().is_held() {
                    let node = cell.node();
                    let node =
                        node.unwrap_or_else(|| panic!("{}/{task} is held by nobody", job.id));
                    *held.entry((node, slot)).or_default() += 1;
                    if let Some(second) = job.second_node(task) {
                        assert_ne!(second, node, "{}/{task} is twice on one node", job.id);
                        *held.entry((second, slot)).or_default() += 1;
                    }
                    assert!(
                        cell.attempt() > 0,
                        "{}/{task} is held without an attempt",
                        job.id
                    );
                } else {
                    assert_eq!(
                        job.second_node(task),
                        None,
                        "{}/{task} is not held, but its second attempt is",
                        job.id
                    );
                }
            }
            recording += phases[Phase::Recording as usize];
            assert!(
                job.phases_are(&phases),
                "the counts of {} are not its tasks",
                job.id
            );
            check_dependencies(job);
            assert_eq!(
                job.in_lane,
                job.can_run(),
                "{} is in the wrong lane",
                job.id
            );
        }
        assert_eq!(tasks, self.jobs.tasks(), "the number of tasks");
        let written: usize = self
            .recording
            .values()
            .map(|batch| batch.entries.len())
            .sum();
        assert!(
            recording <= written as u64,
            "a task is being written that no batch has"
        );
        self.check_nodes(&held);
    }

    fn check_nodes(&self, held: &BTreeMap<(u16, u32), u32>) {
        for (slot, node) in self.nodes.iter() {
            let by_job: u32 = node.jobs.values().sum();
            let by_class: u32 = node.loads.iter().map(|load| load.held).sum();
            assert_eq!(by_job, node.held, "{} by job", node.id);
            assert_eq!(by_class, node.held, "{} by class", node.id);
            assert!(
                node.epoch.is_some() || node.held == 0,
                "{} is down and holds",
                node.id
            );
            for load in &node.loads {
                assert!(
                    load.reserved <= load.held,
                    "{} reserves more than it holds",
                    node.id
                );
            }
            for (&job, &count) in &node.jobs {
                assert_eq!(held.get(&(slot, job)), Some(&count), "{} of {job}", node.id);
            }
        }
        self.check_reservations();
        let total: u32 = held.values().sum();
        let by_node: u32 = self.nodes.iter().map(|(_, node)| node.held).sum();
        assert_eq!(total, by_node, "tasks held");
    }

    /// What the index counts as taken is what nodes have reserved.
    fn check_reservations(&self) {
        for (slot, node) in self.nodes.iter().filter(|(_, node)| !node.removed) {
            let at = candidate(slot);
            let (Some(known), Some(free)) = (self.index.candidate(at), self.index.free(at)) else {
                continue;
            };
            let reserved: u64 = node
                .loads
                .iter()
                .map(|load| {
                    let unit = &self.index.request(load.class).resources;
                    u64::from(load.reserved) * unit.cpu.0
                })
                .sum();
            // A node that came back smaller than what it runs has nothing free.
            let capacity = known.capacity.cpu.0;
            let taken = capacity - free.cpu.0;
            assert!(
                taken == reserved || (free.cpu.0 == 0 && reserved >= capacity),
                "{} has {taken} millicores taken and {reserved} reserved",
                node.id
            );
        }
    }
}

/// What waits for other tasks waits for as many as have not completed, and nothing else begins.
fn check_dependencies(job: &Job) {
    let Some(dependents) = &job.dependents else {
        assert_eq!(
            job.count(Phase::Blocked),
            0,
            "{} has no dependencies",
            job.id
        );
        return;
    };
    // These are for the simulator's own checkers to find.
    let left_to_them = [
        planted!(DependentReleasedEarly),
        planted!(DependentOfFailedRuns),
        planted!(SecondResultCounts),
    ];
    if left_to_them.contains(&true) {
        return;
    }
    let unfinished = job.count_dependencies(dependents, |phase| phase != Phase::Completed);
    for (task, cell) in job.table.iter() {
        let left = unfinished[task as usize];
        match cell.phase() {
            Phase::Blocked => assert!(
                left > 0 && left == dependents.waits(task),
                "{}/{task} waits for {} of {left} tasks",
                job.id,
                dependents.waits(task)
            ),
            Phase::Cancelled => {}
            phase => assert_eq!(left, 0, "{}/{task} is {phase:?} too early", job.id),
        }
    }
}
