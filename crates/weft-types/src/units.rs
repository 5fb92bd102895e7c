//! Integer quantities with their units: CPU in millicores, memory and disk in bytes, money in
//! micro-dollars.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A quantity that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseUnitError {
    text: String,
    expected: &'static str,
}

/// CPU time per time: 1000 is one core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Millicores(pub u64);

/// An amount of memory or disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bytes(pub u64);

/// An amount of money in micro-dollars.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Money(pub i64);

/// Largest CPU request: a million cores.
const MAX_MILLICORES: u64 = 1_000_000_000;

/// Splits `12.5Gi` into its digits, up to nine decimals of fraction, and its suffix.
fn split_decimal(text: &str) -> Option<(u64, u64, u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let fraction_value = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    Some((
        whole.parse().ok()?,
        fraction_value,
        fraction.len() as u32,
        suffix,
    ))
}

/// `whole.fraction × scale`, exact or nothing.
fn scaled(whole: u64, fraction: u64, decimals: u32, scale: u64) -> Option<u64> {
    let unit = 10u128.pow(decimals);
    let total = (u128::from(whole) * unit + u128::from(fraction)) * u128::from(scale);
    if !total.is_multiple_of(unit) {
        return None;
    }
    (total / unit).try_into().ok()
}

impl FromStr for Millicores {
    type Err = ParseUnitError;

    /// Kubernetes notation: `500m`, `2`, `0.5`.
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let parsed =
            split_decimal(text).and_then(|(whole, fraction, decimals, suffix)| match suffix {
                "" => scaled(whole, fraction, decimals, 1000),
                "m" => scaled(whole, fraction, decimals, 1),
                _ => None,
            });
        match parsed {
            Some(millicores) if millicores <= MAX_MILLICORES => Ok(Self(millicores)),
            _ => Err(ParseUnitError {
                text: text.to_owned(),
                expected: "an amount of CPU: write for example 500m, 2 or 0.5",
            }),
        }
    }
}

impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

const BINARY: [(&str, u64); 5] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = ParseUnitError;

    /// Kubernetes notation: `256Mi`, `1Gi`, `1.5Gi`, `500M`, `1024`.
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let parsed = split_decimal(text).and_then(|(whole, fraction, decimals, suffix)| {
            let scale = match suffix {
                "k" | "K" => 1_000,
                "M" => 1_000_000,
                "G" => 1_000_000_000,
                "T" => 1_000_000_000_000,
                binary => BINARY.iter().find(|(name, _)| *name == binary)?.1,
            };
            scaled(whole, fraction, decimals, scale)
        });
        parsed.map(Self).ok_or_else(|| ParseUnitError {
            text: text.to_owned(),
            expected: "an amount of bytes: write for example 256Mi, 1Gi or 500M",
        })
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (suffix, scale) = BINARY
            .iter()
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale))
            .unwrap_or(&("", 1));
        write!(f, "{}{suffix}", self.0 / scale)
    }
}

impl Money {
    /// The most that an hour of a node can cost: a million dollars.
    pub const MAX_PRICE_PER_HOUR: Self = Self(1_000_000_000_000);

    /// A price per hour of a node: dollars, not negative and not absurd.
    ///
    /// # Errors
    /// What is wrong with it, without the name of its field.
    pub fn price_per_hour(text: &str) -> Result<Self, String> {
        let price: Self = text.parse().map_err(|error| format!("{error}"))?;
        if price > Self::MAX_PRICE_PER_HOUR {
            let most = Self::MAX_PRICE_PER_HOUR;
            return Err(format!("{price} is more than {most} an hour"));
        }
        Ok(price)
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Money {
    type Err = ParseUnitError;

    /// Dollars with up to six decimals: `$0.50`, `10`.
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let parsed = match split_decimal(text.strip_prefix('$').unwrap_or(text)) {
            Some((whole, fraction, decimals, "")) => scaled(whole, fraction, decimals, 1_000_000),
            _ => None,
        };
        parsed
            .and_then(|micros| i64::try_from(micros).ok())
            .map(Self)
            .ok_or_else(|| ParseUnitError {
                text: text.to_owned(),
                expected: "an amount of money: write for example $0.50 or $10",
            })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        let (dollars, rest) = (micros / 1_000_000, micros % 1_000_000);
        if rest.is_multiple_of(10_000) {
            write!(f, "{sign}${dollars}.{:02}", rest / 10_000)
        } else {
            write!(f, "{sign}${dollars}.{rest:06}")
        }
    }
}

macro_rules! text_unit {
    ($name:ident, $expected:literal, $from_number:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Unit;
                impl Visitor<'_> for Unit {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        let convert: fn(u64) -> Option<$name> = $from_number;
                        convert(number)
                            .ok_or_else(|| E::custom(concat!("too large for ", $expected)))
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        let number = u64::try_from(number)
                            .map_err(|_| E::custom(concat!("negative; expected ", $expected)))?;
                        self.visit_u64(number)
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$name, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Unit)
            }
        }
    };
}

text_unit!(Millicores, "an amount of CPU such as 500m or 2", |cores| {
    cores
        .checked_mul(1000)
        .filter(|m| *m <= MAX_MILLICORES)
        .map(Millicores)
});
text_unit!(Bytes, "an amount of bytes such as 256Mi", |bytes| Some(
    Bytes(bytes)
));
text_unit!(Money, "an amount of money such as $0.50", |dollars| {
    i64::try_from(dollars)
        .ok()
        .and_then(|d| d.checked_mul(1_000_000))
        .map(Money)
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn units_round_trip(n in 0u64..1_000_000_000) {
            prop_assert_eq!(Millicores(n).to_string().parse(), Ok(Millicores(n)));
            prop_assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
            prop_assert_eq!(Money(n as i64).to_string().parse(), Ok(Money(n as i64)));
        }

        #[test]
        fn parsing_units_never_panics(text in "\\PC*") {
            let _ = text.parse::<Millicores>();
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<Money>();
        }
    }

    #[test]
    fn kubernetes_quantities_are_understood() {
        assert_eq!("500m".parse(), Ok(Millicores(500)));
        assert_eq!("0.5".parse(), Ok(Millicores(500)));
        assert_eq!("1.5Gi".parse(), Ok(Bytes(3 << 29)));
        assert_eq!("$0.50".parse(), Ok(Money(500_000)));
        assert_eq!(Money::price_per_hour("0.12"), Ok(Money(120_000)));
        for wrong in ["-0.12", "", "0.12 EUR", "NaN", "1000001", "0.0000001"] {
            assert!(Money::price_per_hour(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            serde_json::from_str::<Millicores>("2").ok(),
            Some(Millicores(2000))
        );
        assert_eq!(
            serde_json::from_str::<Millicores>("0.25").ok(),
            Some(Millicores(250))
        );
    }

    #[test]
    fn nonsense_quantities_are_refused() {
        for bad in [
            "",
            "m",
            "-1",
            "1.",
            ".5",
            "1e9",
            "1Zi",
            "1.2345m",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Millicores>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Bytes>("-5").is_err());
        assert!("99999999Ti".parse::<Bytes>().is_err());
    }
}
