//! Points in time and spans, explicit everywhere: pure code is handed the time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// This time plus a span, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(span.as_millis().try_into().unwrap_or(u64::MAX)),
        )
    }

    /// The span since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A time in RFC 3339, in UTC, with milliseconds.
pub fn rfc3339(time: Timestamp) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map(|t| format!("{t:.3}"))
        .unwrap_or_else(|_| "9999-12-31T23:59:59.999Z".to_owned())
}

/// The time that an RFC 3339 text names; `None` when it is not one or lies before 1970.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp)
}

/// The longest span accepted from outside: ten years.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Parses `250ms`, `30s`, `5m`, `1h30m`, `7d`.
///
/// # Errors
/// A sentence for the user when the text is not a span, or longer than ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let malformed =
        || format!("{text:?} is not a duration: write for example 250ms, 30s, 5m, 1h30m or 7d");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(malformed)?;
        let number: u64 = rest[..digits].parse().map_err(|_| malformed())?;
        rest = &rest[digits..];
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit_millis: u64 = match &rest[..unit_len] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(malformed()),
        };
        rest = &rest[unit_len..];
        let part = number.checked_mul(unit_millis).ok_or_else(malformed)?;
        total = total
            .checked_add(Duration::from_millis(part))
            .ok_or_else(malformed)?;
    }
    if total > MAX_DURATION {
        return Err(format!("{text:?} is longer than ten years"));
    }
    Ok(total)
}

/// Writes a span as [`parse_duration`] reads it, in the largest units that lose nothing.
pub fn format_duration(span: Duration) -> String {
    let mut millis = span.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit_millis, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
        (1, "ms"),
    ] {
        if millis >= unit_millis {
            text.push_str(&format!("{}{unit}", millis / unit_millis));
            millis %= unit_millis;
        }
    }
    text
}

struct DurationVisitor;

impl serde::de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 250ms, 30s, 5m or 1h30m")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(E::custom)
    }
}

/// Serde form of a [`Duration`]: the text of [`format_duration`].
pub mod serde_duration {
    use super::{Duration, DurationVisitor, format_duration};
    use serde::{Deserializer, Serializer};

    /// Writes the span as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*span))
    }

    /// Reads a span from text.
    ///
    /// # Errors
    /// When the text is not a span.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(DurationVisitor)
    }
}

/// Serde form of an optional [`Duration`].
pub mod serde_duration_opt {
    use super::{Duration, format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the span as text, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => serializer.serialize_str(&format_duration(*span)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a span from text, or null.
    ///
    /// # Errors
    /// When the text is not a span.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| parse_duration(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0u64..1_000_000_000_000 / 4) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }

        #[test]
        fn parsing_a_duration_never_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
        }
    }

    #[test]
    fn times_round_trip_with_milliseconds() {
        let time = Timestamp(1_700_000_000_123);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
        assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        assert!(rfc3339(Timestamp(u64::MAX)).starts_with("9999"));
    }

    #[test]
    fn a_bare_number_or_a_negative_or_an_overflow_is_refused() {
        for bad in [
            "",
            "5",
            "-5s",
            "5 s",
            "1.5h",
            "99999999999999999999s",
            "4000d",
            "s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
