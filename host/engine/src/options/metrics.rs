use crate::memory::{available, default_answer_bytes};
use dropsonde_model::{InvalidValue, Size, Span};
use serde::Deserialize;
use std::time::Duration;

/// The smallest size that can be configured, in bytes.
const LEAST: usize = 1 << 20;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// `[metrics]`: the text that Prometheus scrapes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The path of the text.
    pub path: String,
    /// The most series of one plugin's own metrics; each bucket of a histogram counts as one.
    pub max_series_per_plugin: usize,
    /// The largest text of all samples together, which plugins share, and that of all their own metrics together. None:
    /// an eighth each of the memory for unfinished answers.
    pub max_size: Option<Size>,
    /// Whether the metrics of the host and of plugins are in history too.
    pub history: bool,
    /// The time between two samples of them in history. None: `poll.interval`.
    pub history_interval: Option<Span>,
    /// Globs of the names of the metrics that are in history. Empty: all.
    pub history_keep: Vec<String>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            max_series_per_plugin: 10_000,
            path: "/metrics".to_owned(),
            max_size: None,
            history: true,
            history_interval: None,
            history_keep: Vec::new(),
        }
    }
}

impl MetricsConfig {
    /// Sets the size to the default for a server whose unfinished answers may take `answers` bytes, unless it is
    /// configured. Then a few slow scrapers do not take the answers of others.
    pub fn or_for_answers(self, answers: usize) -> Self {
        Self { max_size: self.max_size.or(Some(Size::new((answers / 8).max(LEAST)))), ..self }
    }

    /// Returns the largest size of the text of all samples together, in bytes.
    pub fn size(&self) -> u64 {
        let of_default = || default_answer_bytes(available()) / 8;
        self.max_size.map_or_else(of_default, Size::get) as u64
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.max_series_per_plugin > 1_000_000 {
            return InvalidValue::of("metrics.max_series_per_plugin", "must be at most 1000000");
        }
        if self.max_size.is_some_and(|bytes| bytes.get() < LEAST) {
            return InvalidValue::of("metrics.max_size", "must be at least 1MiB");
        }
        if self.history_interval.is_some_and(|interval| interval.get() < SHORTEST_INTERVAL) {
            return InvalidValue::of("metrics.history_interval", "must be at least 100ms");
        }
        if let Some(error) = self.history_keep.iter().find_map(|pattern| glob::Pattern::new(pattern).err()) {
            return InvalidValue::of("metrics.history_keep", &format!("has an invalid glob: {error}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_text_of_metrics_is_a_quarter_of_the_memory_for_answers_by_default() {
        // Samples, and as much again of plugins' own metrics.
        assert_eq!(2 * MetricsConfig::default().size(), default_answer_bytes(available()) as u64 / 4);
        assert_eq!(MetricsConfig::default().or_for_answers(64 << 20).size(), 8 << 20);
        let configured = MetricsConfig { max_size: Some(Size::new(2 << 20)), ..MetricsConfig::default() };
        assert_eq!(configured.or_for_answers(64 << 20).size(), 2 << 20);
    }
}
