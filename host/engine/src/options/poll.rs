use crate::memory;
use dropsonde_model::{InvalidValue, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[poll]`: the times at which instances are polled, and the samplers that poll them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    /// The time between two polls.
    pub interval: Span,
    /// The longest wall time of one call; at most the interval.
    pub timeout: Span,
    /// The time between two discoveries of a plugin.
    pub discover_interval: Span,
    /// The samplers that poll an instance that names none. `*` means all samplers.
    pub default_samplers: Vec<String>,
    /// The most instances of one owner. None: as many as fit into an eighth of the available memory at 1 KiB each,
    /// at most 100 000.
    pub max_instances: Option<usize>,
}

impl Default for PollConfig {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(10),
            timeout: Span::from_secs(5),
            discover_interval: Span::from_secs(30),
            default_samplers: vec!["*".to_owned()],
            max_instances: None,
        }
    }
}

impl PollConfig {
    /// Returns the most instances of one owner.
    pub fn max_instances(&self) -> usize {
        /// Bytes of memory that an instance takes, without its samples.
        const EACH: usize = 1 << 10;
        self.max_instances.unwrap_or_else(|| (memory::available() / 8 / EACH).clamp(1000, 100_000))
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        check_interval("poll.interval", self.interval, Duration::from_millis(100))?;
        if self.timeout.get().is_zero() || self.timeout.get() > Duration::from_secs(3600) {
            return InvalidValue::of("poll.timeout", "must be greater than 0 and at most 1h");
        }
        check_interval("poll.discover_interval", self.discover_interval, Duration::from_secs(1))?;
        if self.max_instances.is_some_and(|most| !(1..=100_000_000).contains(&most)) {
            return InvalidValue::of("poll.max_instances", "must be at least 1 and at most 100000000");
        }
        Ok(())
    }
}

/// The longest time between two polls, in days. The host adds up times of some intervals, and a plugin that is polled
/// less often measures nothing.
const LONGEST_INTERVAL_DAYS: u64 = 366;

/// Checks a time between two polls or discoveries. `key`: its place in the configuration.
pub(super) fn check_interval(key: &str, interval: Span, least: Duration) -> Result<(), InvalidValue> {
    if !(least..=Duration::from_secs(LONGEST_INTERVAL_DAYS * 86_400)).contains(&interval.get()) {
        let least = humantime::format_duration(least);
        let why = format!("must be at least {least} and at most {LONGEST_INTERVAL_DAYS}d");
        return InvalidValue::of(key, &why);
    }
    Ok(())
}
