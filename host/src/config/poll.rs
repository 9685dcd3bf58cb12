use super::{ConfigError, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[poll]`: when instances are read, and by whom.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Poll {
    pub interval: Span,
    /// Longest wall time of one call; at most the interval.
    pub timeout: Span,
    /// How often plugins are asked what they find.
    pub discover_interval: Span,
    /// Which samplers poll an instance that names none: `*` is all.
    pub default_samplers: Vec<String>,
    pub max_instances: usize,
}

impl Default for Poll {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(10),
            timeout: Span::from_secs(5),
            discover_interval: Span::from_secs(30),
            default_samplers: vec!["*".to_owned()],
            max_instances: 100_000,
        }
    }
}

impl Poll {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.interval.get() < Duration::from_millis(100) {
            return ConfigError::value("poll.interval", "must be at least 100ms");
        }
        if self.timeout.get().is_zero() || self.timeout.get() > Duration::from_secs(3600) {
            return ConfigError::value("poll.timeout", "must be more than nothing and at most 1h");
        }
        if self.discover_interval.get() < Duration::from_secs(1) {
            return ConfigError::value("poll.discover_interval", "must be at least 1s");
        }
        if self.max_instances == 0 {
            return ConfigError::value("poll.max_instances", "must be at least 1");
        }
        Ok(())
    }
}
