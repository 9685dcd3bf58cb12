//! `state`: bytes that the host keeps for a plugin through traps, reloads and restarts.

use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of one plugin's state. A window of counters fits; a database does not.
const LARGEST: usize = 64 << 10;

/// A plugin's saved bytes. They outlive its instances. The owner of this value may write them to disk.
#[derive(Debug, Clone, Default)]
pub struct SavedState(Arc<Mutex<SavedBytes>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SavedBytes {
    bytes: Option<Vec<u8>>,
    /// The number of saves so far.
    times: u64,
    /// The number of the save that is on disk.
    kept: u64,
}

/// The state for the trial of a plugin's newer version beside the running one. What the newer version saves is kept
/// only if it takes over.
#[derive(Debug)]
pub struct Trial {
    of: SavedState,
    own: SavedState,
    /// The running version's number of saves at the start of the trial.
    times: u64,
}

impl SavedState {
    /// Returns the state that an earlier host kept.
    pub fn restored(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(SavedBytes { bytes: Some(bytes), ..SavedBytes::default() })))
    }

    /// Begins a trial with the bytes that are saved now.
    pub fn trial(&self) -> Trial {
        let saved = self.with(|saved| saved.clone());
        let times = saved.times;
        Trial { of: self.clone(), own: Self(Arc::new(Mutex::new(SavedBytes { kept: times, ..saved }))), times }
    }

    /// Returns the bytes that are not on disk yet, if there are any, and the number of the save they are from.
    pub fn unkept(&self) -> Option<(u64, Vec<u8>)> {
        self.with(|saved| Some((saved.times, saved.bytes.clone().filter(|_| saved.times != saved.kept)?)))
    }

    /// Notes that the bytes of a save are on disk. Later saves are not.
    pub fn kept(&self, save: u64) {
        self.with(|saved| saved.kept = saved.kept.max(save));
    }

    pub(crate) fn load(&self) -> Option<Vec<u8>> {
        self.with(|saved| saved.bytes.clone())
    }

    pub(crate) fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        if bytes.len() > LARGEST {
            return Err(format!("the state has {} bytes; at most {LARGEST} are kept", bytes.len()));
        }
        self.with(|saved| *saved = SavedBytes { bytes: Some(bytes), times: saved.times + 1, kept: saved.kept });
        Ok(())
    }

    fn with<T>(&self, look: impl FnOnce(&mut SavedBytes) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Trial ===

impl Trial {
    /// Returns the state that the newer version loads from and saves to.
    pub fn state(&self) -> &SavedState {
        &self.own
    }

    /// Ends the running version's state and lets the newer version take over. Returns true if the running version saved
    /// something since the trial began, or if another version took over meanwhile. Then the bytes that this one saved
    /// count, and the newer version has to load them.
    pub fn take_over(self, current: &SavedState) -> bool {
        let old = current.with(|saved| saved.clone());
        let is_late = old.times != self.times || !Arc::ptr_eq(&self.of.0, &current.0);
        self.own.with(|saved| {
            // Bytes that the running version saved and that are not on disk still have to be written.
            saved.kept = old.kept;
            if is_late {
                *saved = old;
            }
        });
        is_late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_saves_counts_once_it_takes_over() {
        let state = SavedState::restored(vec![1]);
        let trial = state.trial();
        trial.state().save(vec![2]).unwrap();
        assert_eq!(state.load(), Some(vec![1]), "until then it is for itself alone");
        let own = trial.state().clone();
        assert!(!trial.take_over(&state));
        assert_eq!(own.unkept(), Some((1, vec![2])));
    }

    #[test]
    fn what_the_running_version_saved_meanwhile_is_not_lost() {
        let state = SavedState::restored(vec![1]);
        let trial = state.trial();
        trial.state().save(vec![2]).unwrap();
        state.save(vec![3]).unwrap();
        let own = trial.state().clone();
        assert!(trial.take_over(&state), "the newer version has to load again");
        assert_eq!((own.load(), own.unkept()), (Some(vec![3]), Some((1, vec![3]))));
    }

    #[test]
    fn what_a_version_in_between_saved_is_not_lost() {
        let state = SavedState::restored(vec![1]);
        let (first, second) = (state.trial(), state.trial());
        let (a, b) = (first.state().clone(), second.state().clone());
        assert!(!first.take_over(&state));
        a.save(vec![2]).unwrap();
        assert!(second.take_over(&a));
        assert_eq!(b.load(), Some(vec![2]));
    }

    #[test]
    fn a_save_is_unkept_until_it_is_kept() {
        let state = SavedState::restored(vec![1]);
        assert_eq!(state.unkept(), None);
        state.save(vec![2]).unwrap();
        assert_eq!(state.unkept(), Some((1, vec![2])));
        assert_eq!(state.unkept(), Some((1, vec![2])), "it could not be written: another try");
        state.save(vec![3]).unwrap();
        state.kept(1);
        assert_eq!(state.unkept(), Some((2, vec![3])), "what was saved while the one before was written");
        state.kept(2);
        assert_eq!((state.unkept(), state.load()), (None, Some(vec![3])));
    }

    #[test]
    fn what_was_not_kept_of_the_running_version_is_kept_of_the_newer_one() {
        let state = SavedState::restored(vec![1]);
        state.save(vec![2]).unwrap();
        let trial = state.trial();
        let own = trial.state().clone();
        assert!(!trial.take_over(&state));
        assert_eq!(own.unkept(), Some((1, vec![2])));
    }

    #[test]
    fn too_much_is_refused_and_what_was_there_stays() {
        let state = SavedState::restored(vec![1]);
        assert!(state.save(vec![0; LARGEST + 1]).is_err());
        assert_eq!(state.load(), Some(vec![1]));
    }
}
