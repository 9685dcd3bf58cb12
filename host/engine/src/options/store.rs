use crate::memory;
use dropsonde_model::{InvalidValue, Size, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[store]`: the history that is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The most rows of a sampler and instance in memory. With `memory_only` these are all rows, else those that the
    /// disk does not take for now. Rows on disk are kept as long as `retention` says, however many they are.
    pub retention_samples: usize,
    /// The age at which rows are dropped, whatever the interval.
    pub retention: Span,
    /// The largest size of all files of history together. Beyond it the oldest rows are dropped.
    pub max_disk: Size,
    /// Whether nothing is written to disk.
    pub memory_only: bool,
    /// The time between two writes of new rows: the most that a crash can cost.
    pub flush_interval: Span,
    /// Memory for unpacked history, which answers repeated queries faster.
    pub block_cache: Size,
    /// Memory for all other history, which plugins share. None: a quarter of the least of the machine's memory, the
    /// limit of its control group, and a quarter of `ulimit -v`.
    pub max_memory: Option<Size>,
    /// The most labelled series in history, which plugins share.
    pub max_series: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        // A week at 10 s.
        Self {
            retention_samples: 60_480,
            retention: Span::from_secs(7 * 86_400),
            max_disk: Size::new(10 << 30),
            memory_only: false,
            flush_interval: Span::from_secs(1),
            block_cache: Size::new(64 << 20),
            max_memory: None,
            max_series: 1_000_000,
        }
    }
}

impl StoreConfig {
    /// Returns how far back rows of this interval reach in memory alone, if that is less than `retention`.
    pub fn cut(&self, interval: Duration) -> Option<Duration> {
        let reach = interval.saturating_mul(u32::try_from(self.retention_samples).unwrap_or(u32::MAX));
        (reach < self.retention.get()).then_some(reach)
    }

    /// Returns the memory for history beside the block cache, in bytes.
    pub fn memory(&self) -> u64 {
        self.max_memory.map_or_else(|| memory::available() as u64 / 4, |bytes| bytes.get() as u64)
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.retention_samples == 0 {
            return InvalidValue::of("store.retention_samples", "must be at least 1");
        }
        if self.retention.get() < Duration::from_secs(60) {
            return InvalidValue::of("store.retention", "must be at least 1m");
        }
        if self.max_disk.get() < 1 << 20 {
            return InvalidValue::of("store.max_disk", "must be at least 1MiB");
        }
        if self.max_series == 0 {
            return InvalidValue::of("store.max_series", "must be at least 1");
        }
        if self.max_memory.is_some_and(|bytes| bytes.get() < 1 << 20) {
            return InvalidValue::of("store.max_memory", "must be at least 1MiB");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&self.flush_interval.get()) {
            return InvalidValue::of("store.flush_interval", "must be at least 10ms and at most 1h");
        }
        Ok(())
    }
}
