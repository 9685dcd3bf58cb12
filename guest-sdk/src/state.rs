//! Bytes the host keeps for this plugin through traps, reloads and restarts: 64 KiB at most.
//! Natively: kept for the thread.

#[cfg(target_family = "wasm")]
use crate::glue::dropsonde::plugin::state as host;

#[cfg(not(target_family = "wasm"))]
mod host {
    use std::cell::RefCell;

    thread_local! {
        static SAVED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    }

    pub(super) fn load() -> Option<Vec<u8>> {
        SAVED.with_borrow(Clone::clone)
    }

    pub(super) fn save(bytes: &[u8]) -> Result<(), String> {
        SAVED.set(Some(bytes.to_vec()));
        Ok(())
    }
}

/// What was saved last.
pub fn load() -> Option<Vec<u8>> {
    host::load()
}

/// Replaces what was saved before. The error says why the host did not take it.
pub fn save(bytes: &[u8]) -> Result<(), String> {
    host::save(bytes)
}
