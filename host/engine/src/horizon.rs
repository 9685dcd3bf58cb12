//! The time before which history is complete. Readings have the time of their tick, which is before they are recorded:
//! whoever sends history elsewhere waits until no more can come.

use crate::Engine;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Samples that have the time at which they are recorded are recorded within this time.
const AT_ONCE_MS: i64 = 1000;

/// The longest wait for somebody who is late, and for a disk. What comes later is not sent elsewhere.
const LONGEST_WAIT_MS: i64 = 60_000;

/// The ticks whose readings are not recorded yet.
#[derive(Debug)]
pub(crate) struct Horizon {
    due: Mutex<HashMap<u64, i64>>,
    next: AtomicU64,
    /// The rows from before this time are on disk, unless the disk fails.
    flushed_ms: AtomicI64,
}

/// Somebody who records readings tick by tick.
#[derive(Debug)]
pub(crate) struct TickWriter<'a> {
    horizon: &'a Horizon,
    number: u64,
}

impl Default for Horizon {
    fn default() -> Self {
        Self { due: Mutex::default(), next: AtomicU64::new(0), flushed_ms: AtomicI64::new(i64::MIN) }
    }
}

impl Horizon {
    /// Adds somebody who records readings.
    pub(crate) fn writer(&self) -> TickWriter<'_> {
        TickWriter { horizon: self, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Notes that the rows from before a time are on disk.
    pub(crate) fn flushed(&self, before_ms: i64) {
        self.flushed_ms.store(before_ms, Ordering::Relaxed);
    }

    fn complete_before_ms(&self, now_ms: i64, flush_interval_ms: i64) -> i64 {
        let due_ms = self.due().values().min().copied().unwrap_or(i64::MAX);
        let complete_ms = now_ms.saturating_sub(AT_ONCE_MS).min(due_ms).min(self.flushed_ms.load(Ordering::Relaxed));
        complete_ms.max(now_ms.saturating_sub(LONGEST_WAIT_MS.max(flush_interval_ms.saturating_mul(2))))
    }

    fn due(&self) -> MutexGuard<'_, HashMap<u64, i64>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TickWriter<'_> {
    /// Promises that the next readings have this time or a later one.
    pub(crate) fn next_is_due(&self, at_ms: i64) {
        self.horizon.due().insert(self.number, at_ms);
    }

    /// Promises nothing: no readings are to come for now.
    pub(crate) fn rests(&self) {
        self.horizon.due().remove(&self.number);
    }
}

impl Drop for TickWriter<'_> {
    fn drop(&mut self) {
        self.rests();
    }
}

impl Engine {
    /// Returns the time before which history is complete: nothing that happened before is still to be recorded, and all
    /// of it is on disk. Waits for nobody, and for a disk, longer than a minute.
    pub fn complete_before_ms(&self) -> i64 {
        let flush_interval_ms = self.options.load().store.flush_interval.as_ms();
        self.horizon.complete_before_ms(self.clock.now_ms(), flush_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_complete_before_the_earliest_tick_that_is_due_and_before_the_last_flush() {
        let horizon = Horizon::default();
        let complete_ms = |horizon: &Horizon| horizon.complete_before_ms(1_000_000, 1000);
        assert_eq!(complete_ms(&horizon), 940_000, "nothing is on disk yet");
        horizon.flushed(999_800);
        assert_eq!(complete_ms(&horizon), 999_000);
        let (early, late) = (horizon.writer(), horizon.writer());
        late.next_is_due(1_005_000);
        assert_eq!(complete_ms(&horizon), 999_000);
        early.next_is_due(995_000);
        assert_eq!(complete_ms(&horizon), 995_000);
        early.next_is_due(10);
        assert_eq!(complete_ms(&horizon), 940_000, "nobody is waited for longer than a minute");
        drop(early);
        horizon.flushed(998_500);
        assert_eq!(complete_ms(&horizon), 998_500);
    }
}
