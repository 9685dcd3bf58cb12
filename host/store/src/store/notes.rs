//! Notes: small values by key that are there again after a restart; and folders that are opened late.

use super::Store;
use crate::Frame;
use crate::archive::{self, Restored, TooLarge, Values, dead};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Notes, and what of them is yet to be written.
#[derive(Debug, Default)]
pub(super) struct ToKeep {
    pub(super) values: Values,
    /// Since they were last written.
    pub(super) changes: Changes,
    /// Numbers of frames that were removed.
    pub(super) removed: Vec<u64>,
    /// The content of a folder that was opened late, until somebody takes it.
    pub(super) opened: Option<Opened>,
}

/// The content of a folder that could be opened late. Its frames are among the others by then.
#[derive(Debug)]
pub struct Opened {
    /// Notes, as they were in the folder.
    pub notes: Vec<(String, Vec<u8>)>,
    pub restored: Restored,
}

/// Keys and their new values; none for what is gone.
pub(crate) type Changes = Vec<(String, Option<Vec<u8>>)>;

impl Store {
    /// Remembers a small value beside history, or that there is none any more. Fails, and leaves what is known, when the
    /// value is too large for a file.
    pub fn note(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), TooLarge> {
        archive::fits(key, value.as_deref().unwrap_or_default())?;
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.values.get(key);
        if known != value.as_ref() {
            match &value {
                Some(value) => kept.values.insert(key.to_owned(), value.clone()),
                None => kept.values.remove(key),
            };
            if self.0.shared.archived {
                kept.changes.push((key.to_owned(), value));
            }
        }
        Ok(())
    }

    /// Returns the notes whose keys begin so.
    pub fn notes(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let from = kept.values.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        from.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Takes over the content of a folder. Of two notes with the same key that of this process counts, except for notes
    /// about the clock.
    pub(crate) fn adopt(&self, frames: Vec<Arc<Frame>>, next_born: u64, values: Values, restored: Restored) {
        const OF_CLOCK: &str = "clock/";
        self.0.next_born.fetch_max(next_born, Ordering::Relaxed);
        let mut instances = self.0.instances.write().unwrap_or_else(PoisonError::into_inner);
        for frame in frames {
            let all = instances.entry(frame.key().instance.clone()).or_default();
            let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
            all.push(frame);
            all.sort_by_key(|frame| (frame.schema().sampler().clone(), frame.key().born));
        }
        drop(instances);
        self.0.revision.fetch_add(1, Ordering::Release);
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in &values {
            if key.starts_with(OF_CLOCK) || !kept.values.contains_key(key) {
                kept.values.insert(key.clone(), value.clone());
            }
        }
        kept.opened = Some(Opened { notes: values.into_iter().collect(), restored });
    }

    /// Returns once the content of a folder that could not be opened at first: see [`Store::open_later`].
    pub fn take_opened(&self) -> Option<Opened> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).opened.take()
    }

    /// Takes the notes that are yet to be written, with those about removed frames, which files up to `last_file` may have.
    pub(crate) fn take_changes(&self, last_file: u64) -> Changes {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let ToKeep { values, changes, removed, .. } = &mut *kept;
        if !removed.is_empty() {
            let noted = dead::note(values, std::mem::take(removed), last_file);
            changes.extend(noted.into_iter().map(|key| (key.clone(), values.get(&key).cloned())));
        }
        std::mem::take(changes)
    }

    /// Keys of notes about removed frames of which no file is left.
    pub(crate) fn over_dead(&self, oldest_file: u64) -> Vec<String> {
        dead::over(&self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).values, oldest_file)
    }

    /// Shows all that is noted. Nothing can be noted meanwhile.
    pub(crate) fn show_notes(&self, show: &mut dyn FnMut(&Values)) {
        show(&self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).values);
    }
}
