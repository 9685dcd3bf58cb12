use super::poll::check_interval;
use dropsonde_model::{InvalidValue, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[snapshot]`: the snapshot of the application as a whole.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// The time between two polls of sources, and between two rows of the snapshot's numbers in history.
    pub interval: Span,
    /// A second path of `/v1/snapshot`.
    pub path: String,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { interval: Span::from_secs(10), path: "/parsec/metrics".to_owned() }
    }
}

impl SnapshotConfig {
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_interval("snapshot.interval", self.interval, Duration::from_millis(100))
    }
}
