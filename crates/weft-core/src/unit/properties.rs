//! Random schedules: an engine that fails, answers late and loses instances; a lease that comes
//! and goes; an instance that fills its layer; an order to end at any moment.

use proptest::prelude::*;
use weft_types::{Reason, RestartPolicy, RestartWhen, UnitId, WorkloadId, WorkloadState};

use super::*;

const MAX_DISK: u64 = 1_000;

#[derive(Clone, Debug)]
enum Event {
    /// The call under way ends like this.
    Answer(bool),
    /// The check under way ends like this.
    Check(bool),
    /// The instance ends by itself.
    End(i32),
    /// Somebody removes the instance.
    Lose,
    Look,
    Wait(u64),
    /// The instance writes this much to its layer.
    Write(u64),
    /// It is measured; the reading arrives at once, or only later.
    Measure(bool),
    /// A reading of before arrives.
    Late,
    LeaseLost,
    LeaseHeld,
    Stop,
    /// The agent starts again over what it had written down.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<bool>().prop_map(Event::Answer),
        8 => Just(Event::Answer(true)),
        3 => any::<bool>().prop_map(Event::Check),
        2 => (0..3i32).prop_map(Event::End),
        1 => Just(Event::Lose),
        3 => Just(Event::Look),
        5 => (0..70_000u64).prop_map(Event::Wait),
        2 => (1..MAX_DISK).prop_map(Event::Write),
        3 => any::<bool>().prop_map(Event::Measure),
        1 => Just(Event::Late),
        1 => Just(Event::LeaseLost),
        2 => Just(Event::LeaseHeld),
        1 => Just(Event::Restart),
    ]
}

/// A machine with its engine.
struct World {
    settings: Settings,
    machine: Machine,
    now: Now,
    instance: Phase,
    /// What the instance has written to its layer.
    written: u64,
    /// The last reading: when it was begun, and what it said.
    reading: Option<(Monotonic, u64)>,
    probe: Option<u64>,
    lease: Lease,
    run: bool,
}

impl World {
    fn new(settings: Settings) -> Self {
        let now = Now {
            mono: Monotonic(1_000_000),
            unix_ms: 1_700_000_000_000,
        };
        let mut world = Self {
            machine: Machine::new(settings.clone(), None, now),
            settings,
            now,
            instance: Phase::Absent,
            written: 0,
            reading: None,
            probe: None,
            lease: Lease::Held,
            run: true,
        };
        world.order();
        world
    }

    fn order(&mut self) {
        let run = self.run;
        self.input(Input::Ordered(Order {
            run,
            ..Order::default()
        }));
    }

    fn input(&mut self, input: Input) {
        for output in self.machine.step(self.now, input) {
            if let Output::Probe { call } = output {
                self.probe = Some(call);
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.unix_ms += ms;
        self.input(Input::Tick);
    }

    fn exit(&mut self, code: i32) {
        if matches!(self.instance, Phase::Running { .. }) {
            self.instance = Phase::Exited {
                exit_code: Some(code),
                signal: None,
                reason: None,
                detail: String::new(),
            };
        }
    }

    fn answer(&mut self, ok: bool) {
        let Some((call, action)) = self.machine.call.clone() else {
            return;
        };
        let failure = || Failure::new("start", Reason::RuntimeError, "the engine failed");
        if action == Action::Observe {
            let seen = Observation::of(self.instance.clone());
            let result = if ok { Ok(seen) } else { Err(failure()) };
            return self.input(Input::Seen { call, result });
        }
        if ok {
            match action {
                Action::Start => {
                    assert!(
                        self.lease == Lease::Held || !self.settings.exclusive,
                        "started without a lease"
                    );
                    assert!(self.run, "started though it is to end");
                    self.written = 0;
                    self.instance = Phase::Running {
                        since_ms: self.now.unix_ms,
                    };
                }
                Action::Stop { .. } => self.exit(143),
                Action::Remove { .. } => self.instance = Phase::Absent,
                _ => {}
            }
        }
        let result = if ok { Ok(()) } else { Err(failure()) };
        self.input(Input::Did { call, result });
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Answer(ok) => self.answer(ok),
            Event::Check(ok) => {
                if let Some(call) = self.probe.take() {
                    let result = if ok { Ok(()) } else { Err("no".to_owned()) };
                    self.input(Input::Probed { call, result });
                }
            }
            Event::End(code) => self.exit(code),
            Event::Lose => self.instance = Phase::Absent,
            Event::Look => self.input(Input::Look),
            Event::Wait(ms) => self.pass(ms),
            Event::Write(bytes) => self.written += bytes,
            Event::Measure(arrives) => self.measure(arrives),
            Event::Late => self.late(),
            Event::LeaseLost => self.lease_is(Lease::Lost { grace_ms: 100 }),
            Event::LeaseHeld => self.lease_is(Lease::Held),
            Event::Stop => {
                self.run = false;
                self.order();
            }
            Event::Restart => self.restart(),
        }
    }

    fn measure(&mut self, arrives: bool) {
        if !matches!(self.instance, Phase::Running { .. }) {
            return;
        }
        self.reading = Some((self.now.mono, self.written));
        if arrives {
            self.pass(1);
            self.late();
        }
    }

    /// The last reading arrives: what is over its limit is not left running, and what is within it
    /// is not ended for what an instance before it wrote.
    fn late(&mut self) {
        let Some((since, disk_bytes)) = self.reading.take() else {
            return;
        };
        let was_running = self.machine.is_running();
        self.input(Input::Measured { since, disk_bytes });
        let runs = matches!(self.instance, Phase::Running { .. });
        if was_running && runs && self.written <= MAX_DISK {
            assert!(self.machine.is_running(), "{:?}", self.machine);
        }
        if !self.machine.is_running() && was_running {
            let action = self.machine.call.as_ref().map(|(_, action)| action);
            assert_eq!(action, Some(&Action::Stop { grace_ms: 0 }));
            let status = self.machine.status();
            assert_eq!(status.reason, Some(Reason::StorageError));
        }
    }

    fn lease_is(&mut self, lease: Lease) {
        self.lease = lease;
        self.input(Input::Lease(lease));
    }

    fn restart(&mut self) {
        if self.machine.is_gone() {
            return;
        }
        let memory = self.machine.memory();
        self.machine = Machine::new(self.settings.clone(), Some(memory), self.now);
        self.probe = None;
        self.input(Input::Lease(self.lease));
        self.order();
    }

    /// Everything works from here on.
    fn settle(&mut self) {
        self.lease_is(Lease::Held);
        for _ in 0..200 {
            self.answer(true);
            self.happens(Event::Check(true));
            self.measure(true);
            self.input(Input::Look);
            self.answer(true);
            self.pass(1_000);
        }
    }
}

fn settings(policy: u8, exclusive: bool, checked: bool) -> Settings {
    let policies = [
        RestartWhen::No,
        RestartWhen::Always,
        RestartWhen::OnFailure,
        RestartWhen::UnlessStopped,
    ];
    Settings {
        unit: UnitId {
            workload: WorkloadId(3),
            number: 2,
        },
        node: "n1".parse().unwrap(),
        restart: RestartPolicy {
            policy: policies[usize::from(policy % 4)],
            max: None,
        },
        health: checked.then_some(HealthTimes {
            interval_ms: 5_000,
            retries: 2,
            start_period_ms: 1_000,
        }),
        grace_ms: 10_000,
        exclusive,
        boots: false,
        max_disk_bytes: MAX_DISK,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The debug assertions are checked at every step.
    #[test]
    fn a_unit_that_is_to_run_ends_up_ready_done_or_given_up(
        policy: u8, exclusive: bool, checked: bool,
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(settings(policy, exclusive, checked));
        for event in events {
            world.happens(event);
        }
        world.settle();
        let status = world.machine.status();
        let is_done = status.state == WorkloadState::Succeeded || status.given_up;
        prop_assert!(status.ready || is_done, "{:?}", world.machine);
        prop_assert_eq!(status.ready, matches!(world.instance, Phase::Running { .. }));
        prop_assert!(!status.ready || world.written <= MAX_DISK, "{:?}", world.machine);
    }

    #[test]
    fn a_unit_that_is_to_end_leaves_nothing(
        policy: u8, exclusive: bool, checked: bool,
        before in proptest::collection::vec(event(), 0..60),
        after in proptest::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new(settings(policy, exclusive, checked));
        for event in before {
            world.happens(event);
        }
        world.happens(Event::Stop);
        for event in after {
            world.happens(event);
        }
        world.settle();
        prop_assert!(world.machine.is_gone(), "{:?}", world.machine);
        prop_assert_eq!(world.instance, Phase::Absent);
        prop_assert!(!world.machine.uses_room());
    }

    #[test]
    fn a_unit_without_a_lease_is_stopped_by_its_next_two_answers(
        policy: u8, checked: bool,
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(settings(policy, true, checked));
        for event in events {
            world.happens(event);
        }
        world.happens(Event::LeaseLost);
        world.answer(true);
        world.answer(true);
        prop_assert!(!matches!(world.instance, Phase::Running { .. }), "{:?}", world.machine);
        prop_assert!(!world.machine.status().ready);
    }
}
