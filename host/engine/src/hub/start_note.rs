//! The note that one start keeps for the next. By it, a reader that was away during a restart hears from what time on
//! to query history.

use super::Hub;
use super::event_log::EventTimes;
use dropsonde_store::Store;
use serde::{Deserialize, Serialize};

/// The key of the note beside history.
const NOTE: &str = "streams";

/// The number of a start, and the times of its events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StartNote {
    pub(super) boot: String,
    pub(super) moments: EventTimes,
}

/// Returns the number of this start: the current time in milliseconds, or one more than the last start's number if that
/// is not earlier. A board without a clock of its own may start at the same time twice.
pub(crate) fn next_boot(store: &Store, now_ms: i64) -> i64 {
    let last = noted(store).and_then(|before| i64::from_str_radix(&before.boot, 16).ok());
    last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)))
}

fn noted(store: &Store) -> Option<StartNote> {
    let (_, value) = store.notes(NOTE).into_iter().find(|(key, _)| key == NOTE)?;
    // A note that cannot be read was written by another version.
    serde_json::from_slice(&value).ok()
}

impl Hub {
    /// Reads the note of the last start.
    pub(crate) fn restore(&self, store: &Store) {
        self.lock().before = noted(store);
    }

    /// Writes the note of this start.
    pub(crate) fn note(&self, store: &Store) {
        let moments = self.lock().log.moments().clone();
        let value = serde_json::to_vec(&StartNote { boot: self.0.boot.to_string(), moments });
        if let Err(error) = store.note(NOTE, value.ok()) {
            tracing::error!(%error, "cannot note the times of events; after a restart, readers query too much history");
        }
    }
}
