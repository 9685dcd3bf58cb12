use humantime::DurationError;
use serde::Deserialize;
use serde::de::{self, Visitor};
use std::fmt;
use std::num::IntErrorKind;
use std::time::Duration;

/// Largest distance of a time from 1970, in milliseconds: about nine thousand years. Times beyond it are mistakes, and
/// would overflow sums.
pub const FURTHEST_MS: i64 = 1 << 48;

/// Parses a time and returns it in milliseconds since 1970. The text is RFC 3339, or Unix seconds with or without a
/// fraction.
pub fn time_ms(text: &str) -> Option<i64> {
    let ms = match text.parse::<f64>() {
        Ok(seconds) if seconds.is_nan() => return None,
        Ok(seconds) => (seconds * 1000.0).round() as i64,
        Err(_) => text.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
    };
    (ms.unsigned_abs() <= FURTHEST_MS.unsigned_abs()).then_some(ms)
}

/// Parses a time like [`time_ms`], or one relative to `now_ms`: `now`, `-1h`, `now-1h`.
pub fn time_at(text: &str, now_ms: i64) -> Option<i64> {
    if let Some(time) = time_ms(text) {
        return Some(time);
    }
    let relative = text.strip_prefix("now").unwrap_or(text);
    if relative.is_empty() && text == "now" {
        return Some(now_ms);
    }
    let back: Span = relative.strip_prefix('-')?.trim_start().parse().ok()?;
    Some(now_ms.saturating_sub(back.as_ms()))
}

/// Longest duration, in days: a thousand years. Longer ones are mistakes, and would overflow sums and products.
const LONGEST_DAYS: u64 = 365_250;

/// A duration, written as `10s`, `90m`, `7d`, `1h 30m`, or as a bare number of seconds. At most a thousand years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn get(self) -> Duration {
        self.0
    }

    /// Returns the duration in whole milliseconds.
    pub fn as_ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }

    fn bounded(span: Duration) -> Option<Self> {
        (span <= Duration::from_secs(LONGEST_DAYS * 86_400)).then_some(Self(span))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => Duration::MAX,
            Err(_) => match humantime::parse_duration(text) {
                Ok(span) => span,
                Err(DurationError::NumberOverflow) => Duration::MAX,
                Err(_) => return Err(format!("{text:?} is not a duration; write it like 30s, 15m, 6h or 7d")),
            },
        };
        Self::bounded(span).ok_or_else(|| format!("{text:?} is too long; at most {LONGEST_DAYS}d are allowed"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like \"30s\", or seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Span, E> {
                self.visit_u64(u64::try_from(seconds).map_err(|_| E::custom("a duration must not be negative"))?)
            }

            // JSON has these.
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Span, E> {
                let span = Span::bounded(Duration::from_secs(seconds));
                span.ok_or_else(|| E::custom(format!("{seconds} s is too long; at most {LONGEST_DAYS}d are allowed")))
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_relative_to_now() {
        let at = |text: &str| time_at(text, 10_000_000);
        assert_eq!((at("now"), at("-1h"), at("now-90m")), (Some(10_000_000), Some(6_400_000), Some(4_600_000)));
        assert_eq!((at("-1"), at("1970-01-01T00:00:02Z")), (Some(-1000), Some(2000)), "bare numbers are Unix seconds");
        for bad in ["", "1h", "now+1h", "--1h", "nowhere", "now-"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_parsed_with_and_without_units() {
        let seconds = |text: &str| text.parse::<Span>().map(|span| span.get().as_secs());
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("60"), Ok(60));
        assert!(seconds("soon").unwrap_err().contains("\"soon\""));
        assert!(seconds("").is_err() && seconds("-1s").is_err());
    }

    #[test]
    fn a_duration_above_a_thousand_years_is_too_long() {
        let parse = |text: &str| text.parse::<Span>().map(Span::get);
        assert_eq!(parse("365250d"), Ok(Duration::from_secs(LONGEST_DAYS * 86_400)));
        for long in ["300000000d", "365251d", "18446744073709551615", "99999999999999999999", "99999999999999999999d"] {
            let error = parse(long).unwrap_err();
            assert!(error.contains("too long; at most 365250d"), "{error}");
        }
        let from_toml = toml::from_str::<std::collections::BTreeMap<String, Span>>("a = 9223372036854775807");
        assert!(from_toml.unwrap_err().to_string().contains("too long"));
    }
}
