use dropsonde_store::{Align, Query};

/// A time range of a history of hosts. Each range has its own step between points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryRange {
    HalfHour,
    Hour,
    SixHours,
    Day,
}

/// The error for a text that is not a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid range; use 30m, 1h, 6h, or 24h")]
pub struct InvalidRange;

const MINUTE_MS: i64 = 60_000;

impl HistoryRange {
    /// Returns the range as people read it.
    pub fn label(self) -> &'static str {
        match self {
            Self::HalfHour => "30 minutes",
            Self::Hour => "1 hour",
            Self::SixHours => "6 hours",
            Self::Day => "24 hours",
        }
    }

    /// Returns the length of the range, in milliseconds.
    pub fn length_ms(self) -> i64 {
        match self {
            Self::HalfHour => 30 * MINUTE_MS,
            Self::Hour => 60 * MINUTE_MS,
            Self::SixHours => 360 * MINUTE_MS,
            Self::Day => 1440 * MINUTE_MS,
        }
    }

    /// Returns the time between two points, in milliseconds.
    pub fn step_ms(self) -> i64 {
        match self {
            Self::HalfHour | Self::Hour => MINUTE_MS,
            Self::SixHours => 5 * MINUTE_MS,
            Self::Day => 15 * MINUTE_MS,
        }
    }

    /// Returns the query for this range up to now. It finds nothing older than the range, and nothing later than now.
    pub fn query(self, now_ms: i64) -> Query {
        Query {
            since_ms: now_ms.saturating_sub(self.length_ms()),
            until_ms: now_ms.saturating_add(1),
            step_ms: self.step_ms(),
            align: Align::Epoch,
            fields: None,
        }
    }
}

impl std::str::FromStr for HistoryRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        match text {
            "30m" => Ok(Self::HalfHour),
            "1h" => Ok(Self::Hour),
            "6h" => Ok(Self::SixHours),
            "24h" => Ok(Self::Day),
            _ => Err(InvalidRange),
        }
    }
}
