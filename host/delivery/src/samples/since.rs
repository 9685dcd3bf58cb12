//! The time from which on a server gets samples.

use dropsonde_model::Span;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use std::str::FromStr;

/// A time: `now`, a span before now such as `7d`, or a date.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Since {
    #[default]
    Now,
    Ago(Span),
    At(Timestamp),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = || text.parse().ok().map(Self::Ago);
        let at = || text.parse().ok().map(Self::At);
        let since = if text == "now" { Some(Self::Now) } else { at().or_else(span) };
        since.ok_or_else(|| {
            format!(
                "{text:?} is no time; write \"now\", a span such as \"7d\", or a date such as \"2026-11-01T00:00:00Z\""
            )
        })
    }
}

impl<'de> Deserialize<'de> for Since {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Since {
    /// Returns it in milliseconds since 1970.
    pub fn ms_before(self, now_ms: i64) -> i64 {
        match self {
            Self::Now => now_ms,
            Self::Ago(span) => now_ms.saturating_sub(span.as_ms()),
            Self::At(time) => time.as_millisecond(),
        }
    }
}
