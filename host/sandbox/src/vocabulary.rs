//! The types that plugins and host exchange, independent of contract versions. Nothing in them is checked: a guest sent
//! it.

use crate::capability::series::SeriesDefinitions;

pub use dropsonde_model::{Field, Kind};
use std::time::Duration;

/// A plugin's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub about: String,
}

/// A capability that a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A glob of absolute paths.
    Read(String),
    /// An HTTP origin: scheme, host and port; perhaps with methods and paths, as `GET http://127.0.0.1:8080 /api/**`;
    /// perhaps a Unix socket with a name, as `unix:/run/docker.sock as docker`. A grant may also be a network that host
    /// names may resolve to, such as `10.0.0.0/8`.
    Http(String),
    /// The name of an environment variable.
    Env(String),
    /// A directory, read-only.
    Dir(String),
}

impl Need {
    /// Returns the glob, origin, name or path.
    pub fn what(&self) -> &str {
        match self {
            Self::Read(what) | Self::Http(what) | Self::Env(what) | Self::Dir(what) => what,
        }
    }

    /// Returns `read`, `http`, `env` or `dir`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Http(_) => "http",
            Self::Env(_) => "env",
            Self::Dir(_) => "dir",
        }
    }
}

/// Why a plugin gave no reading. A failure is part of a normal answer, unlike a [`CallError`](crate::CallError).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The instance no longer exists.
    #[error("the instance is gone")]
    Gone,
    #[error("unavailable: {0}")]
    Unavailable(String),
    #[error("denied: {0}")]
    Denied(String),
    /// The configuration cannot work.
    #[error("invalid configuration: {0}")]
    Invalid(String),
}

/// The host's clock and the budget for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The scheduled time, milliseconds since 1970 UTC.
    pub at_ms: u64,
    pub monotonic_ns: u64,
    /// CPU time in milliseconds, as the plugin is told. The limit in force is [`Limits::cpu`](crate::Limits).
    pub budget_ms: u32,
    pub interval: Duration,
}

/// Something that can be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    pub labels: Vec<(String, String)>,
}

/// The rows of one batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// All rows in one list: one row per requested instance, one value per field. NaN: no value.
    pub values: Vec<f64>,
    /// The time at which each row was read, in milliseconds relative to the tick. Empty: all rows were read at the
    /// tick.
    pub offsets_ms: Vec<i32>,
    /// The rows without a reading, by index, each with the reason.
    pub failures: Vec<(u32, Failure)>,
    /// Labelled series of instances.
    pub series: ReportedSeries,
}

/// The labelled series that a plugin reported in one call.
#[derive(Debug, Clone, Default)]
pub struct ReportedSeries {
    /// The definitions of the series, by handle.
    pub definitions: SeriesDefinitions,
    /// Handles and values by instance, in the order of the reports. An instance may be there several times.
    pub points: Vec<(String, Vec<(u32, f64)>)>,
}

impl PartialEq for ReportedSeries {
    fn eq(&self, other: &Self) -> bool {
        self.points == other.points
    }
}

/// An event that an application sent to the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub at_ms: u64,
    pub name: String,
    /// The thing that the event is about; may be empty.
    pub subject: String,
    pub value: f64,
    pub attributes: Vec<(String, String)>,
}

/// The statistics that a source returns. A section that the source knows nothing about is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub channels: Option<ChannelStats>,
    pub envelopes: Option<EnvelopeStats>,
    pub presence: Option<PresenceStats>,
    pub history: Option<HistoryStats>,
    pub tokens: Option<TokenStats>,
    pub cache: Option<CacheStats>,
}

impl Stats {
    /// Returns the name of a value that is not a finite number, if there is one.
    pub fn no_number(&self) -> Option<&'static str> {
        let Self { envelopes, presence, history, cache, .. } = self;
        let numbers = [
            ("envelopes.rate-per-second", envelopes.as_ref().map(|section| section.rate_per_second)),
            ("presence.average-per-channel", presence.map(|section| section.average_per_channel)),
            ("history.buffer-utilization-pct", history.map(|section| section.buffer_utilization_pct)),
            ("cache.hit-rate-pct", cache.map(|section| section.hit_rate_pct)),
        ];
        let (name, _) = numbers.into_iter().find(|(_, number)| number.is_some_and(|number| !number.is_finite()))?;
        Some(name)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelStats {
    pub total_active: i64,
    pub by_pattern: Vec<(String, i64)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EnvelopeStats {
    pub rate_per_second: f64,
    pub by_aspect: Vec<(String, i64)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PresenceStats {
    pub total_users: i64,
    pub total_agents: i64,
    pub average_per_channel: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HistoryStats {
    pub total_envelopes_buffered: i64,
    pub buffer_utilization_pct: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenStats {
    pub issued_last_hour: i64,
    pub revoked_last_hour: i64,
    pub active_count: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CacheStats {
    pub hit_rate_pct: f64,
    pub size_bytes: i64,
    pub size_entries: i64,
    pub evictions_last_hour: i64,
}
