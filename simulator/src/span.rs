//! Spans of time as people write them in scenarios: "150us", "20ms", "1.5s", "2m", "1h".

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// None at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// Longest first where one ends like another.
const UNITS: [(&str, f64); 6] = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is no span of time; write a number and ns, us, ms, s, m or h, as in \"20ms\"");
        let unit =
            UNITS.iter().find(|(unit, _)| text.strip_suffix(unit).is_some_and(|rest| rest.parse::<f64>().is_ok()));
        let (unit, nanos) = unit.ok_or_else(bad)?;
        let number: f64 = text.strip_suffix(unit).and_then(|rest| rest.parse().ok()).ok_or_else(bad)?;
        let nanos = (number * nanos).round();
        if !(0.0..1e18).contains(&nanos) {
            return Err(bad());
        }
        Ok(Self(Duration::from_nanos(nanos as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
        let (size, unit) = units.into_iter().find(|(size, _)| nanos.is_multiple_of(*size)).unwrap_or((1, "ns"));
        write!(f, "{}{unit}", nanos / size)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_alike() {
        for (text, nanos) in
            [("1.5s", 1_500_000_000), ("20ms", 20_000_000), ("100us", 100_000), ("7ns", 7), ("2m", 120_000_000_000)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_nanos(nanos));
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        for text in ["", "s", "5", "-1s", "1 d", "1e30s", "NaNs", "infs"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
