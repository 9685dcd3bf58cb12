//! What is kept of one start for the next: who was away while the host was restarted hears from when on to ask history.

use super::Hub;
use super::log::Moments;
use dropsonde_store::Store;
use serde::{Deserialize, Serialize};

/// Beside history.
const NOTE: &str = "streams";

/// A start, and what times its events were of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) boot: String,
    pub(super) moments: Moments,
}

/// The number of this start: the time, as long as that is later than the last start's number. A board without a clock of its
/// own may start at the same time twice.
pub(crate) fn next_boot(store: &Store, now_ms: i64) -> i64 {
    let last = noted(store).and_then(|before| i64::from_str_radix(&before.boot, 16).ok());
    last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)))
}

fn noted(store: &Store) -> Option<Before> {
    let (_, value) = store.notes(NOTE).into_iter().find(|(key, _)| key == NOTE)?;
    // What cannot be read was written by another version.
    serde_json::from_slice(&value).ok()
}

impl Hub {
    pub(crate) fn restore(&self, store: &Store) {
        self.lock().before = noted(store);
    }

    pub(crate) fn note(&self, store: &Store) {
        let moments = self.lock().log.moments().clone();
        let value = serde_json::to_vec(&Before { boot: self.0.boot.to_string(), moments });
        if let Err(error) = store.note(NOTE, value.ok()) {
            tracing::error!(%error, "streams cannot say after a restart what they missed");
        }
    }
}
