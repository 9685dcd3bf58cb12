use crate::memory;
use dropsonde_model::{InvalidValue, Size};
use serde::Deserialize;

/// `[metrics]`: the text that Prometheus scrapes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The path of the text.
    pub path: String,
    /// The most series of one plugin's own metrics; each bucket of a histogram counts as one.
    pub max_series_per_plugin: usize,
    /// The largest text of all samples together, which plugins share. None: a sixteenth of the available memory, at
    /// most 512 MiB.
    pub max_size: Option<Size>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { max_series_per_plugin: 10_000, path: "/metrics".to_owned(), max_size: None }
    }
}

impl MetricsConfig {
    /// Returns the largest size of the text of all samples together, in bytes.
    pub fn size(&self) -> u64 {
        self.max_size.map_or_else(|| (memory::available() as u64 / 16).min(512 << 20), |bytes| bytes.get() as u64)
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.max_series_per_plugin > 1_000_000 {
            return InvalidValue::of("metrics.max_series_per_plugin", "must be at most 1000000");
        }
        if self.max_size.is_some_and(|bytes| bytes.get() < 1 << 20) {
            return InvalidValue::of("metrics.max_size", "must be at least 1MiB");
        }
        Ok(())
    }
}
