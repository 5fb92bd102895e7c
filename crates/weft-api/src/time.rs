//! Times as text.

use weft_types::Timestamp;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_with_milliseconds() {
        let time = Timestamp(1_700_000_000_123);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
        assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        assert!(rfc3339(Timestamp(u64::MAX)).starts_with("9999"));
    }
}
