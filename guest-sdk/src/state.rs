//! Keeps up to 64 KiB for this plugin through traps, reloads and restarts. Natively, per thread.

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

/// Returns the bytes that were saved last. None if nothing was saved.
pub fn load() -> Option<Vec<u8>> {
    host::load()
}

/// The most bytes that the host keeps.
const LARGEST: usize = 64 << 10;

/// Replaces the saved bytes, at most 64 KiB. The error says why the host refused them.
pub fn save(bytes: &[u8]) -> Result<(), String> {
    // The host ends a call that passes very much, before it can refuse it.
    if bytes.len() > LARGEST {
        return Err(format!("the state has {} bytes; at most {LARGEST} are kept", bytes.len()));
    }
    host::save(bytes)
}
