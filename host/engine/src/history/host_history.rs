use super::HistoryRange;
use super::flusher::{FlushHooks, Flusher};
use dropsonde_store::{InstanceId, Keeper, OpenError, Points, Schema, Store, StoreLimits, StoredField};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time between two writes.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time [`HostHistory::close`] takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Durable history of hosts that all have the same fields.
#[derive(Debug)]
pub struct HostHistory {
    store: Store,
    schema: Schema,
    interval_ms: i64,
    keeping: Flusher,
    closed: RwLock<bool>,
    refused: AtomicU64,
}

/// The reason why a sample is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    /// [`HostHistory::close`] was called.
    #[error("the history is closed")]
    Closed,
    /// [`StoreLimits::memory`] is used up.
    #[error("no memory left for the history of one more host; raise StoreLimits::memory")]
    Full,
}

struct WallClock;

impl FlushHooks for WallClock {
    fn now_ms(&mut self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

impl HostHistory {
    /// Opens the history in a folder, which is made if need be. `interval_ms`: the time between two samples of a host.
    pub fn open(
        folder: &Path,
        fields: Vec<StoredField>,
        interval_ms: i64,
        limits: &StoreLimits,
    ) -> Result<Self, OpenError> {
        let (store, keeper, _) = Store::open(folder, limits)?;
        Self::with(store, keeper, fields, interval_ms)
    }

    /// Makes a history in memory alone.
    pub fn in_memory(fields: Vec<StoredField>, interval_ms: i64, limits: &StoreLimits) -> Result<Self, OpenError> {
        let store = Store::in_memory(limits);
        let keeper = Keeper::in_memory(store.clone(), limits);
        Self::with(store, keeper, fields, interval_ms)
    }

    fn with(store: Store, keeper: Keeper, fields: Vec<StoredField>, interval_ms: i64) -> Result<Self, OpenError> {
        let keeping = Flusher::start(keeper, FLUSH_INTERVAL, WallClock)?;
        Ok(Self {
            store,
            schema: Schema::new("history", fields),
            interval_ms,
            keeping,
            closed: RwLock::new(false),
            refused: AtomicU64::new(0),
        })
    }

    /// Adds a sample with one value per field; NaN for a field without a value. Does not wait for a write.
    pub fn record(&self, host: &InstanceId, at_ms: i64, values: &[f64]) -> Result<(), NotRecorded> {
        // The lock is held until the sample is in the store, so that `close` writes every sample that was taken.
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(NotRecorded::Closed);
        }
        let frame = self.store.frame_if_room(self.schema.sampler(), host, &self.schema, self.interval_ms);
        if frame.is_ok_and(|frame| frame.push(at_ms, values)) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(NotRecorded::Full)
    }

    /// Returns a host's samples by ascending time; none for an unknown host.
    pub fn query(&self, host: &InstanceId, range: HistoryRange, now_ms: i64) -> Points {
        self.store.range(host, &range.query(now_ms))
    }

    /// Returns the hosts that have samples, sorted.
    pub fn hosts(&self) -> Vec<InstanceId> {
        self.store.instances()
    }

    /// Returns the number of samples that were not recorded.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Writes what is left, for a bounded time. Returns whether all of it is written. A second call writes nothing and
    /// returns the same.
    pub fn close(&self) -> bool {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
        self.keeping.stop(PATIENCE)
    }
}

impl Drop for HostHistory {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: i64 = 60_000;

    #[test]
    fn samples_are_there_after_close_and_reopen_and_a_closed_history_records_none() {
        let folder = tempfile::tempdir().unwrap();
        let fields = || vec![StoredField::gauge("p99_ms")];
        let host = InstanceId::new("example.org").unwrap();
        let history = HostHistory::open(folder.path(), fields(), MIN, &StoreLimits::default()).unwrap();
        assert!(history.hosts().is_empty());
        history.record(&host, 10 * MIN, &[5.0]).unwrap();
        assert!(matches!(
            HostHistory::open(folder.path(), fields(), MIN, &StoreLimits::default()),
            Err(OpenError::InUse)
        ));
        assert!(history.close() && history.close());
        assert_eq!((history.record(&host, 11 * MIN, &[6.0]), history.refused()), (Err(NotRecorded::Closed), 1));

        let again = HostHistory::open(folder.path(), fields(), MIN, &StoreLimits::default()).unwrap();
        let points = again.query(&host, HistoryRange::HalfHour, 12 * MIN);
        assert_eq!((points.at_ms, points.columns[0].values.clone()), (vec![10 * MIN], vec![5.0]));
        assert_eq!(again.hosts(), [host]);
    }

    #[test]
    fn a_range_covers_its_length_up_to_now() {
        let history = HostHistory::in_memory(vec![StoredField::gauge("x")], MIN, &StoreLimits::default()).unwrap();
        let host = InstanceId::new("h").unwrap();
        for minute in 0..120 {
            history.record(&host, minute * MIN, &[minute as f64]).unwrap();
        }
        let points = history.query(&host, HistoryRange::HalfHour, 100 * MIN);
        assert_eq!((points.at_ms.first(), points.at_ms.last()), (Some(&(70 * MIN)), Some(&(100 * MIN))));
        assert!(history.query(&InstanceId::new("nobody").unwrap(), HistoryRange::Day, 0).is_empty());
    }
}
