//! What the guard does next: a pure function of what it read, with the time as an argument.

use crate::lease_file::Kept;

/// How much later than the agent the guard asks, as a part of the lease: an agent that lives is to
/// be first, so that nothing is asked twice.
const LATER: u64 = 64;
/// While the lease is over, how often is looked for what still runs or was started all the same: by
/// an agent that stands still and may go on in the middle of a start, and by one that knows that it
/// must not. In milliseconds.
const WATCH_MS: u64 = 200;
const NOTICED_WATCH_MS: u64 = 5_000;
/// The longest wait for anything, in milliseconds: waits do not count while the machine sleeps.
const MAX_WAIT_MS: u64 = 60_000;

/// What is known at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) now_ms: u64,
    /// The newest lease that could be read; `None` when there never was one of this boot.
    pub(super) lease: Option<Kept>,
    /// Whether any unit is listed.
    pub(super) has_units: bool,
    /// Whether the agent that started this guard is gone.
    pub(super) is_alone: bool,
    /// Whether units were asked to end under this lease.
    pub(super) has_asked: bool,
    /// Whether all that is listed was looked at after the lease ended, and nothing ran.
    pub(super) is_quiet: bool,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing, for this long at most.
    Wait { ms: u64 },
    /// A heartbeat is overdue: have at hand what is needed to end units, then wait.
    Prepare { ms: u64 },
    /// Ask what runs to end, and kill what has not after this grace.
    Ask { grace_ms: u64 },
    /// Kill what runs, then wait.
    Kill { ms: u64 },
    /// There is nothing left to guard.
    End,
}

/// What to do now.
pub(super) fn next(facts: Facts) -> Next {
    if !facts.has_units || (facts.is_quiet && facts.is_alone) {
        return Next::End;
    }
    let now_ms = facts.now_ms;
    // One from the future is none.
    let Some(lease) = facts.lease.filter(|lease| lease.sent_ms <= now_ms) else {
        return Next::Kill { ms: WATCH_MS };
    };
    let until = |at: u64| at.saturating_sub(now_ms).clamp(1, MAX_WAIT_MS);
    let prepare_at = lease.sent_ms.saturating_add(lease.ttl_ms / 2);
    let ask_at = lease.ask_at().saturating_add(lease.ttl_ms / LATER);
    let kill_at = lease.kill_at();
    if now_ms < prepare_at {
        Next::Wait {
            ms: until(prepare_at),
        }
    } else if now_ms < ask_at {
        Next::Prepare { ms: until(ask_at) }
    } else if now_ms < kill_at && !lease.is_noticed && !facts.has_asked {
        Next::Ask {
            grace_ms: kill_at - now_ms,
        }
    } else if now_ms < kill_at {
        Next::Prepare { ms: until(kill_at) }
    } else if lease.is_noticed {
        let ms = if facts.is_quiet {
            NOTICED_WATCH_MS
        } else {
            WATCH_MS
        };
        Next::Kill { ms }
    } else {
        Next::Kill { ms: WATCH_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEASE: Kept = Kept {
        sent_ms: 100_000,
        ttl_ms: 3_000,
        is_noticed: false,
    };

    fn at(ms: u64) -> Facts {
        Facts {
            now_ms: LEASE.sent_ms + ms,
            lease: Some(LEASE),
            has_units: true,
            is_alone: false,
            has_asked: false,
            is_quiet: false,
        }
    }

    #[test]
    fn it_sleeps_prepares_asks_and_kills_before_the_lease_ends() {
        assert_eq!(next(at(0)), Next::Wait { ms: 1_500 });
        assert_eq!(next(at(1_499)), Next::Wait { ms: 1 });
        assert_eq!(next(at(1_500)), Next::Prepare { ms: 796 });
        // The agent asks at 2,250; it is to be the first.
        assert_eq!(next(at(2_250)), Next::Prepare { ms: 46 });
        assert_eq!(next(at(2_296)), Next::Ask { grace_ms: 329 });
        let asked = Facts {
            has_asked: true,
            ..at(2_300)
        };
        assert_eq!(next(asked), Next::Prepare { ms: 325 });
        assert_eq!(next(at(2_625)), Next::Kill { ms: WATCH_MS });
        assert_eq!(next(at(60_000)), Next::Kill { ms: WATCH_MS });
    }

    #[test]
    fn what_the_agent_asked_itself_is_only_killed_when_it_is_late() {
        let noticed = |ms| Facts {
            lease: Some(Kept {
                is_noticed: true,
                ..LEASE
            }),
            ..at(ms)
        };
        assert_eq!(next(noticed(2_300)), Next::Prepare { ms: 325 });
        assert_eq!(next(noticed(2_625)), Next::Kill { ms: WATCH_MS });
        let quiet = Facts {
            is_quiet: true,
            ..noticed(9_000)
        };
        assert_eq!(
            next(quiet),
            Next::Kill {
                ms: NOTICED_WATCH_MS
            }
        );
    }

    #[test]
    fn it_ends_with_its_units_or_alone_when_none_of_them_runs() {
        let ended = Facts {
            has_units: false,
            ..at(0)
        };
        assert_eq!(next(ended), Next::End);
        let quiet = Facts {
            is_quiet: true,
            ..at(9_000)
        };
        assert_ne!(next(quiet), Next::End, "the agent may go on");
        let alone = Facts {
            is_alone: true,
            ..quiet
        };
        assert_eq!(next(alone), Next::End);
        let early = Facts {
            is_alone: true,
            ..at(1_000)
        };
        assert_eq!(next(early), Next::Wait { ms: 500 });
    }

    #[test]
    fn without_a_lease_nothing_may_run() {
        let none = Facts {
            lease: None,
            ..at(0)
        };
        assert_eq!(next(none), Next::Kill { ms: WATCH_MS });
        let future = Facts {
            now_ms: LEASE.sent_ms - 1,
            ..at(0)
        };
        assert_eq!(next(future), Next::Kill { ms: WATCH_MS });
    }

    proptest! {
        #[test]
        fn it_never_sleeps_through_a_moment_at_which_it_must_act(
            ttl_ms in 100..600_000u64, age in 0..700_000u64, is_noticed: bool, has_asked: bool,
        ) {
            let lease = Kept { sent_ms: 5, ttl_ms, is_noticed };
            let facts = Facts { now_ms: 5 + age, lease: Some(lease), has_asked, ..at(0) };
            match next(facts) {
                Next::Wait { ms } => prop_assert!(ms >= 1 && facts.now_ms + ms <= 5 + ttl_ms / 2 + 1),
                Next::Prepare { ms } => prop_assert!(ms >= 1 && facts.now_ms + ms <= lease.kill_at() + 1),
                Next::Ask { grace_ms } => {
                    prop_assert!(!is_noticed && !has_asked);
                    prop_assert!(facts.now_ms >= lease.ask_at());
                    prop_assert_eq!(facts.now_ms + grace_ms, lease.kill_at());
                }
                Next::Kill { ms } => {
                    prop_assert!(ms > 0 && facts.now_ms >= lease.kill_at());
                }
                Next::End => prop_assert!(false, "it has a unit"),
            }
        }
    }
}
