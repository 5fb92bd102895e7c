//! Whether a guest has booted.
//!
//! | the guest | has booted when | has not when |
//! | --- | --- | --- |
//! | has an agent, or is known to print its address | an address was told | none was by the timeout |
//! | has neither | an address was seen in a lease or by ARP, or it ran to the timeout | it ended before |
//!
//! None has that says why it gets no further: its kernel panicked, nothing to boot from was found.

use std::time::Duration;

/// What is known of a guest that boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    /// Since the start, without pauses.
    pub(crate) age: Duration,
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// An address is known.
    pub(crate) has_address: bool,
    /// Its agent answered, in this life or one before.
    pub(crate) has_agent: bool,
    /// It is to print `weft-address: …`: its seed or command line says so, or it did before.
    pub(crate) prints_address: bool,
    /// Why it gets no further, as it said.
    pub(crate) failure: Option<&'static str>,
    /// It shut itself down or its process is gone.
    pub(crate) has_ended: bool,
}

/// What follows from them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Too early to say.
    Booting,
    /// It works.
    Booted,
    /// It does not, and why.
    Failed(String),
}

/// Judges a guest that has not counted as booted before.
pub(crate) fn judge(facts: &Facts) -> Verdict {
    if let Some(why) = facts.failure {
        return Verdict::Failed(why.to_owned());
    }
    if facts.has_address {
        return Verdict::Booted;
    }
    if facts.has_ended {
        return Verdict::Failed("it ended before it had booted".to_owned());
    }
    if facts.age < facts.timeout {
        return Verdict::Booting;
    }
    if !facts.has_agent && !facts.prints_address {
        return Verdict::Booted;
    }
    let how = if facts.has_agent {
        "its guest agent"
    } else {
        "its console"
    };
    Verdict::Failed(format!("{how} told no address within {:?}", facts.timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Facts = Facts {
        age: Duration::from_secs(1),
        timeout: Duration::from_secs(60),
        has_address: false,
        has_agent: false,
        prints_address: false,
        failure: None,
        has_ended: false,
    };
    const OLD: Facts = Facts {
        age: Duration::from_secs(60),
        ..YOUNG
    };

    fn failed(facts: Facts) -> bool {
        matches!(judge(&facts), Verdict::Failed(_))
    }

    #[test]
    fn a_guest_that_can_tell_its_address_must() {
        let with_agent = |facts| Facts {
            has_agent: true,
            ..facts
        };
        let printing = |facts| Facts {
            prints_address: true,
            ..facts
        };
        assert_eq!(judge(&with_agent(YOUNG)), Verdict::Booting);
        assert!(failed(with_agent(OLD)) && failed(printing(OLD)));
        let told = Facts {
            has_address: true,
            ..with_agent(YOUNG)
        };
        assert_eq!(judge(&told), Verdict::Booted);
    }

    #[test]
    fn a_guest_without_a_way_to_tell_must_run_steadily() {
        assert_eq!(judge(&YOUNG), Verdict::Booting);
        assert_eq!(judge(&OLD), Verdict::Booted);
        assert!(failed(Facts {
            has_ended: true,
            ..YOUNG
        }));
        assert!(failed(Facts {
            failure: Some("its kernel panicked"),
            ..YOUNG
        }));
    }
}
