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

impl Hub {
    pub(crate) fn restore(&self, store: &Store) {
        let noted = store.notes(NOTE).into_iter().find(|(key, _)| key == NOTE);
        // What cannot be read was written by another version.
        let before = noted.and_then(|(_, value)| serde_json::from_slice(&value).ok());
        self.lock().before = before;
    }

    pub(crate) fn note(&self, store: &Store) {
        let moments = self.lock().log.moments().clone();
        let value = serde_json::to_vec(&Before { boot: self.0.boot.to_string(), moments });
        store.note(NOTE, value.ok());
    }
}
