//! Where samples come from: the history of a running host, or that in files.

use super::destination::DestinationConfig;
use dropsonde_engine::Engine;
use dropsonde_engine::series::{Metadata, SeriesState, exported, metadata};
use dropsonde_store::FoundSeries;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// History that is sent.
pub(super) trait History: Debug + Send + Sync {
    /// Returns the time before which no more samples come.
    fn complete_before_ms(&self) -> i64;

    /// Returns the time from which on there are samples at all.
    fn kept_since_ms(&self) -> i64;

    /// Returns whether all series are known by their names.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns the shortest window that is worth a request.
    fn least_window_ms(&self, config: &DestinationConfig) -> i64;

    /// Returns the present time.
    fn now_ms(&self) -> i64;

    /// Returns the state of the set of series; none if it never changes.
    fn state(&self) -> Option<SeriesState>;

    /// Returns all series. May read files.
    fn series(&self) -> Vec<FoundSeries>;

    /// Returns what is known of metrics, by their names.
    fn metadata(&self) -> BTreeMap<String, Metadata>;
}

/// The history of a running host.
#[derive(Debug)]
pub(super) struct LiveHistory(pub(super) Arc<Engine>);

impl History for LiveHistory {
    fn complete_before_ms(&self) -> i64 {
        self.0.complete_before_ms()
    }

    fn kept_since_ms(&self) -> i64 {
        // The wall clock alone may just have jumped ahead: then nothing was removed.
        let Some(trusted_ms) = self.0.store.trusted_ms() else { return i64::MIN };
        trusted_ms.min(self.0.clock.now_ms()).saturating_sub(self.0.options.load().store.retention.as_ms())
    }

    /// Before a plugin has begun, the names of its metrics are not known for sure.
    fn is_ready(&self) -> bool {
        !self.0.plugins.is_starting()
    }

    fn least_window_ms(&self, config: &DestinationConfig) -> i64 {
        config.interval.as_ms()
    }

    fn now_ms(&self) -> i64 {
        self.0.clock.now_ms()
    }

    fn state(&self) -> Option<SeriesState> {
        Some(SeriesState::now(&self.0))
    }

    fn series(&self) -> Vec<FoundSeries> {
        exported(&self.0)
    }

    fn metadata(&self) -> BTreeMap<String, Metadata> {
        metadata(&self.0)
    }
}

/// Series of history in files, and the times of the samples to send.
#[derive(Debug)]
pub(super) struct KeptHistory {
    pub(super) series: Vec<FoundSeries>,
    pub(super) window: Range<i64>,
    pub(super) now_ms: i64,
}

impl History for KeptHistory {
    fn complete_before_ms(&self) -> i64 {
        self.window.end
    }

    fn kept_since_ms(&self) -> i64 {
        i64::MIN
    }

    fn least_window_ms(&self, _: &DestinationConfig) -> i64 {
        1
    }

    fn now_ms(&self) -> i64 {
        self.now_ms
    }

    fn state(&self) -> Option<SeriesState> {
        None
    }

    fn series(&self) -> Vec<FoundSeries> {
        self.series.clone()
    }

    fn metadata(&self) -> BTreeMap<String, Metadata> {
        BTreeMap::new()
    }
}
