use dropsonde_store::{Align, Query};

/// How far back a history of hosts is asked for, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    HalfHour,
    Hour,
    SixHours,
    Day,
}

/// What is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid range; use 30m, 1h, 6h, or 24h")]
pub struct NoRange;

const MINUTE_MS: i64 = 60_000;

impl Range {
    /// As people read it.
    pub fn label(self) -> &'static str {
        match self {
            Self::HalfHour => "30 minutes",
            Self::Hour => "1 hour",
            Self::SixHours => "6 hours",
            Self::Day => "24 hours",
        }
    }

    pub fn length_ms(self) -> i64 {
        match self {
            Self::HalfHour => 30 * MINUTE_MS,
            Self::Hour => 60 * MINUTE_MS,
            Self::SixHours => 360 * MINUTE_MS,
            Self::Day => 1440 * MINUTE_MS,
        }
    }

    pub fn step_ms(self) -> i64 {
        match self {
            Self::HalfHour | Self::Hour => MINUTE_MS,
            Self::SixHours => 5 * MINUTE_MS,
            Self::Day => 15 * MINUTE_MS,
        }
    }

    /// Nothing that is older than it, and nothing that is later than now.
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

impl std::str::FromStr for Range {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        match text {
            "30m" => Ok(Self::HalfHour),
            "1h" => Ok(Self::Hour),
            "6h" => Ok(Self::SixHours),
            "24h" => Ok(Self::Day),
            _ => Err(NoRange),
        }
    }
}
