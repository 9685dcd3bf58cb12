//! `state`: bytes the host keeps for a plugin through traps, reloads and restarts.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes one plugin may keep. A window of counters fits; a database does not.
const LARGEST: usize = 64 << 10;

/// A plugin's saved bytes. They outlive its instances; whoever holds it may write them to disk.
#[derive(Debug, Clone, Default)]
pub struct SavedState(Arc<Mutex<Saved>>);

#[derive(Debug, Default)]
struct Saved {
    bytes: Option<Vec<u8>>,
    changed: bool,
}

impl SavedState {
    /// What an earlier host kept.
    pub fn restored(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Saved { bytes: Some(bytes), changed: false })))
    }

    /// The bytes, if they changed since this was last asked.
    pub fn take_change(&self) -> Option<Vec<u8>> {
        self.with(|saved| std::mem::take(&mut saved.changed).then(|| saved.bytes.clone()).flatten())
    }

    pub(crate) fn load(&self) -> Option<Vec<u8>> {
        self.with(|saved| saved.bytes.clone())
    }

    pub(crate) fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        if bytes.len() > LARGEST {
            return Err(format!("{} bytes; at most {LARGEST} are kept", bytes.len()));
        }
        self.with(|saved| *saved = Saved { bytes: Some(bytes), changed: true });
        Ok(())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Saved) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reported_once() {
        let state = SavedState::restored(vec![1]);
        assert_eq!(state.take_change(), None);
        state.save(vec![2]).unwrap();
        assert_eq!(state.take_change(), Some(vec![2]));
        assert_eq!(state.take_change(), None);
        assert_eq!(state.load(), Some(vec![2]));
    }

    #[test]
    fn too_much_is_refused_and_what_was_there_stays() {
        let state = SavedState::restored(vec![1]);
        assert!(state.save(vec![0; LARGEST + 1]).is_err());
        assert_eq!(state.load(), Some(vec![1]));
    }
}
