//! The host's own use of memory, disk, connections and shared pools, for the API and the dashboard.

use crate::Engine;
use crate::remotes::RemoteStatus;
use crate::shares::{self, PoolUse};
use crate::{json, memory};
use serde::Serialize;

/// The host's use of resources at one time.
#[derive(Debug, Serialize)]
pub struct HostStatus {
    started_at: String,
    /// Memory that the process occupies. Absent where the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// Tracked instances, with those that have ended.
    instances: u64,
    /// Open streams.
    streams: u64,
    /// Open connections that are not streams.
    connections: u64,
    /// Samples that were dropped since the start, for any reason.
    samples_dropped: u64,
    history: HistoryStatus,
    /// The pools that plugins and programs share.
    pools: Vec<PoolUse>,
    /// The servers that get samples.
    remotes: Vec<RemoteStatus>,
    /// The database that is asked for longer history. Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    longer_history: Option<String>,
}

/// History on disk.
#[derive(Debug, Serialize)]
struct HistoryStatus {
    on: bool,
    /// The size of its files.
    bytes: u64,
    /// `store.max_disk`.
    most_bytes: u64,
    /// Rows in memory that are not on disk yet.
    unwritten_rows: u64,
    /// Why it cannot be written now. Absent if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl HostStatus {
    pub fn of(engine: &Engine) -> Self {
        let archive = engine.store.archive();
        let started_ms = (engine.metrics.start_time_seconds.get() * 1000.0).round() as i64;
        Self {
            started_at: json::time(started_ms),
            memory_bytes: memory::resident(),
            instances: engine.tracked.places().used(),
            streams: engine.hub.open() as u64,
            connections: engine.front().map_or(0, |front| front.connections()) as u64,
            samples_dropped: engine.metrics.all_samples_dropped(),
            history: HistoryStatus {
                on: archive.on,
                bytes: archive.size,
                most_bytes: engine.options.load().store.max_disk.get() as u64,
                unwritten_rows: archive.unstored_rows,
                error: archive.failing.map(|failing| failing.error),
            },
            pools: shares::in_use(engine),
            remotes: engine.remotes.statuses(&engine.metrics.remotes, engine.clock.now_ms()),
            longer_history: engine.long_history.get().map(|database| database.name().to_owned()),
        }
    }
}
