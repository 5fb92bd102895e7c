//! Bugs to plant, which prove that the simulator's checkers bite. Exists only with the feature
//! `planted`, which no product is built with.

use std::cell::Cell;

/// A defect that can be switched on in the thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Reports count whoever sends them and under whatever attempt.
    FencingSkipped,
    /// A report for a final task is recorded once more.
    FinalAgain,
    /// Work of a lost node waits for a timer that nobody has set.
    LostWorkForgotten,
    /// Reports that could not be written stay in limbo.
    RecordFailureIgnored,
    /// A server that stood still judges nodes by its own absence.
    OutageNotExtended,
    /// Capacity of finished tasks is not given back.
    ReservationLeaked,
    /// Units are handed out as if the node were empty.
    Oversubscribed,
    /// A reconnecting node is not told what to stop.
    StaleNotStopped,
    /// A task whose backoff has passed is not queued.
    RetryForgotten,
    /// Results in the journal are not read back.
    FinalsNotRecovered,
    /// A task is queued as soon as the first of its dependencies has completed.
    DependentReleasedEarly,
    /// A task is queued although one of its dependencies failed.
    DependentOfFailedRuns,
    /// A second attempt has the number of the first.
    SecondKeepsAttempt,
    /// What the slower of two attempts reports is recorded once more.
    SecondResultCounts,
    /// Nodes of a substrate that fails everything get work.
    SubstrateIgnored,
    /// An exclusive unit is placed anew as soon as its node's heartbeats stop counting, while it may
    /// still be told to run.
    ExclusiveNotFenced,
    /// The new unit of an exclusive service comes before the old one is gone.
    ExclusiveBesideOld,
    /// A unit that its node has given up is not replaced.
    FailedUnitKept,
    /// An update whose units fail is not rolled back.
    BadRevisionGoesOn,
    /// Failed units are replaced without a wait.
    BackoffIgnored,
    /// Old units go although the new ones are not ready.
    OldGoesEarly,
    /// All units of an update come at once.
    SurgeIgnored,
    /// Room that is made for a service is taken by others.
    ClaimsIgnored,
    /// Units of one plan are placed as if the others were not there.
    PlannedNotCounted,
    /// A unit of a service that is apart from itself comes to a node that has one of it.
    OwnUnitIgnored,
    /// Who is apart from a service does not keep it away where it is first.
    ApartOneWay,
    /// A unit that is to stop is company to count on.
    LeavingIsCompany,
    /// Units make way for an update though fewer than `min` stay.
    MinGivenUp,
    /// No unit makes way for an update where every node has one.
    NoWayMade,
    /// Units of the same priority make room.
    EqualsPreempted,
    /// Units of which one would be enough make room together.
    VictimsNotSpared,
    /// The load decides beyond `max`.
    ScaledBeyondMax,
    /// The load takes units away below `min`.
    ScaledBelowMin,
    /// Replicas go as soon as the load does.
    EasedAtOnce,
    /// The load is not followed upwards.
    LoadIgnored,
    /// Replicas are put beside each other though there is another place.
    SpreadIgnored,
}

impl Bug {
    /// Those in leases and dispatch.
    pub const ALL: &'static [Self] = &[
        Self::FencingSkipped,
        Self::FinalAgain,
        Self::LostWorkForgotten,
        Self::RecordFailureIgnored,
        Self::OutageNotExtended,
        Self::ReservationLeaked,
        Self::Oversubscribed,
        Self::StaleNotStopped,
        Self::RetryForgotten,
        Self::FinalsNotRecovered,
        Self::DependentReleasedEarly,
        Self::DependentOfFailedRuns,
        Self::SecondKeepsAttempt,
        Self::SecondResultCounts,
        Self::SubstrateIgnored,
    ];

    /// Those in the planning of services.
    pub const SERVICES: &'static [Self] = &[
        Self::ExclusiveNotFenced,
        Self::ExclusiveBesideOld,
        Self::FailedUnitKept,
        Self::BadRevisionGoesOn,
        Self::BackoffIgnored,
        Self::OldGoesEarly,
        Self::SurgeIgnored,
        Self::ClaimsIgnored,
        Self::PlannedNotCounted,
        Self::OwnUnitIgnored,
        Self::ApartOneWay,
        Self::LeavingIsCompany,
        Self::MinGivenUp,
        Self::NoWayMade,
        Self::EqualsPreempted,
        Self::VictimsNotSpared,
        Self::ScaledBeyondMax,
        Self::ScaledBelowMin,
        Self::EasedAtOnce,
        Self::LoadIgnored,
        Self::SpreadIgnored,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches one bug on in this thread, and every other off.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is switched on.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
