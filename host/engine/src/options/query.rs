use dropsonde_model::{InvalidValue, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[query]`: queries in PromQL.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// The most samples that a query may read.
    pub max_samples: u64,
    /// The most series that a selector of a query may select.
    pub max_series: usize,
    /// The longest time that a query may take.
    pub timeout: Span,
    /// The most queries that are computed at a time, half of them for one client. Others wait until `timeout`.
    pub concurrency: usize,
    /// How old the newest sample of a series may be.
    pub lookback: Span,
    /// Whether functions and modifiers are known that Prometheus has behind a flag.
    pub experimental: bool,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            max_samples: 50_000_000,
            max_series: 200_000,
            timeout: Span::from_secs(120),
            concurrency: 20,
            lookback: Span::from_secs(300),
            experimental: false,
        }
    }
}

impl QueryConfig {
    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.max_samples == 0 || self.max_series == 0 {
            return InvalidValue::of("query", "max_samples and max_series must be at least 1");
        }
        if !(1..=64).contains(&self.concurrency) {
            return InvalidValue::of("query.concurrency", "must be at least 1 and at most 64");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.timeout.get()) {
            return InvalidValue::of("query.timeout", "must be at least 1s and at most 1h");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&self.lookback.get()) {
            return InvalidValue::of("query.lookback", "must be at least 1s and at most 1d");
        }
        Ok(())
    }
}
