use serde::Deserialize;
use serde::de::{self, Visitor};
use std::fmt;
use std::time::Duration;

/// Times beyond some ten thousand years from 1970 are mistakes, and would overflow sums.
pub(crate) const FURTHEST_MS: i64 = 1 << 48;

/// A time as people write it, in milliseconds since 1970: RFC 3339, or Unix seconds with or without a fraction.
pub(crate) fn time_ms(text: &str) -> Option<i64> {
    let ms = match text.parse::<f64>() {
        Ok(seconds) if seconds.is_nan() => return None,
        Ok(seconds) => (seconds * 1000.0).round() as i64,
        Err(_) => text.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
    };
    (ms.unsigned_abs() <= FURTHEST_MS.unsigned_abs()).then_some(ms)
}

/// A duration as people write it: `10s`, `90m`, `7d`, `1h 30m`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn get(self) -> Duration {
        self.0
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration; write it like 30s, 15m, 6h or 7d");
        if let Ok(seconds) = text.parse::<u64>() {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        humantime::parse_duration(text).map(Self).map_err(|_| wrong())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like \"30s\", or seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Span, E> {
                u64::try_from(seconds).map(Span::from_secs).map_err(|_| E::custom("a duration is not negative"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_write_them() {
        let seconds = |text: &str| text.parse::<Span>().map(|span| span.get().as_secs());
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("60"), Ok(60));
        assert!(seconds("soon").unwrap_err().contains("\"soon\""));
        assert!(seconds("").is_err() && seconds("-1s").is_err());
    }
}
