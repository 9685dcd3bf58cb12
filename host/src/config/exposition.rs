use super::poll::check_interval;
use super::{Bytes, ConfigError, Span};
use crate::memory;
use serde::Deserialize;
use std::time::Duration;

/// `[metrics]`: what Prometheus scrapes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub path: String,
    /// Series of one plugin's own metrics; each bucket of a histogram is one.
    pub max_series_per_plugin: usize,
    /// Bytes of text of all samples together, which plugins share. None: a sixteenth of the memory there is, at most
    /// 512 MiB.
    pub max_size: Option<Bytes>,
}

/// `[snapshot]`: the application as a whole.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshot {
    /// How often sources are polled, and the snapshot's numbers written to history.
    pub interval: Span,
    /// Another path of `/v1/snapshot`.
    pub path: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { max_series_per_plugin: 10_000, path: "/metrics".to_owned(), max_size: None }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { interval: Span::from_secs(10), path: "/parsec/metrics".to_owned() }
    }
}

impl Metrics {
    /// Bytes of text of all samples together.
    pub(crate) fn size(&self) -> u64 {
        self.max_size.map_or_else(|| (memory::available() as u64 / 16).min(512 << 20), |bytes| bytes.get() as u64)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.max_series_per_plugin > 1_000_000 {
            return ConfigError::value("metrics.max_series_per_plugin", "must be at most 1000000");
        }
        if self.max_size.is_some_and(|bytes| bytes.get() < 1 << 20) {
            return ConfigError::value("metrics.max_size", "must be at least 1MiB");
        }
        check_path("metrics.path", &self.path)
    }
}

impl Snapshot {
    pub(super) fn check(&self, metrics: &Metrics) -> Result<(), ConfigError> {
        check_interval("snapshot.interval", self.interval, Duration::from_millis(100))?;
        if self.path == metrics.path {
            return ConfigError::value("snapshot.path", "is that of the metrics already");
        }
        check_path("snapshot.path", &self.path)
    }
}

/// One that is free, and means itself.
fn check_path(key: &str, path: &str) -> Result<(), ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    if !path.starts_with('/') || !path.bytes().all(plain) {
        return ConfigError::value(key, "must begin with `/` and go on with letters, digits and `/-_.`");
    }
    if crate::http::is_taken(path) {
        return ConfigError::value(key, "is a route of its own already");
    }
    Ok(())
}
