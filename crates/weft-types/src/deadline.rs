//! Until when a job must have ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::{Timestamp, format_duration, parse_duration, parse_rfc3339, rfc3339};

/// When a job must have ended: what is left of it then is cancelled with the reason `timeout`.
///
/// A span counts from the submission; the server turns it into a point in time, so that a restart
/// does not begin it anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// This long after the submission.
    In(Duration),
    /// At this time.
    At(Timestamp),
}

impl Deadline {
    /// The point in time, for a job that is submitted at `submitted`.
    pub fn at(self, submitted: Timestamp) -> Timestamp {
        match self {
            Self::In(span) => submitted.plus(span),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Deadline {
    type Err = String;

    /// Reads `30m` or `2026-01-31T12:00:00Z`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(time) = parse_rfc3339(text) {
            return Ok(Self::At(time));
        }
        parse_duration(text).map(Self::In).map_err(|_| {
            format!(
                "{text:?} is neither a duration such as 30m nor a time such as 2026-01-31T12:00:00Z"
            )
        })
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(span) => f.write_str(&format_duration(*span)),
            Self::At(time) => f.write_str(&rfc3339(*time)),
        }
    }
}

impl Serialize for Deadline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Deadline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_and_a_time_are_told_apart_and_round_trip() {
        let span: Deadline = "1h30m".parse().unwrap();
        assert_eq!(span.at(Timestamp(1_000)), Timestamp(5_401_000));
        let time: Deadline = "2023-11-14T22:13:20.123Z".parse().unwrap();
        assert_eq!(time, Deadline::At(Timestamp(1_700_000_000_123)));
        for deadline in [span, time] {
            assert_eq!(deadline.to_string().parse(), Ok(deadline));
        }
        let offset: Deadline = "2023-11-14T23:13:20.123+01:00".parse().unwrap();
        assert_eq!(offset, time);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in ["", "tomorrow", "2023-11-14", "-5m", "12:00"] {
            assert!(bad.parse::<Deadline>().is_err(), "{bad:?}");
        }
    }
}
