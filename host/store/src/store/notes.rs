//! Notes, which are small values by key that survive a restart; and history folders that are opened late.

use super::Store;
use crate::Frame;
use crate::archive::{self, NoteValues, RecordTooLarge, RestoreReport, removed_frames};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Notes, with the changes that are not written yet.
#[derive(Debug, Default)]
pub(super) struct StoredNotes {
    pub(super) values: NoteValues,
    /// Changes since the last write.
    pub(super) changes: NoteChanges,
    /// Numbers of removed frames that are not noted yet.
    pub(super) removed: Vec<u64>,
    /// The contents of a folder that was opened late, until [`Store::take_opened`] takes them.
    pub(super) opened: Option<OpenedFolder>,
}

/// The contents of a folder that was opened late. Its frames are already in the store.
#[derive(Debug)]
pub struct OpenedFolder {
    /// The notes in the folder.
    pub notes: Vec<(String, Vec<u8>)>,
    pub restored: RestoreReport,
}

/// Keys and their new values; `None` if the key is removed.
pub(crate) type NoteChanges = Vec<(String, Option<Vec<u8>>)>;

impl Store {
    /// Sets a note, or removes it if `value` is `None`. Fails, and keeps the known value, if the new value is too large
    /// for a file.
    pub fn note(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), RecordTooLarge> {
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

    /// Returns the notes whose keys begin with `prefix`.
    pub fn notes(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let from = kept.values.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        from.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Adds the contents of a folder to the store. If a key is noted in both, the value of this process wins, except
    /// for notes about the clock.
    pub(crate) fn adopt(&self, frames: Vec<Arc<Frame>>, next_born: u64, values: NoteValues, restored: RestoreReport) {
        const OF_CLOCK: &str = "clock/";
        self.0.next_born.fetch_max(next_born, Ordering::Relaxed);
        let (labelled, frames): (Vec<_>, Vec<_>) =
            frames.into_iter().partition(|frame| frame.schema().labels().is_some());
        self.adopt_series(labelled);
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
        kept.opened = Some(OpenedFolder { notes: values.into_iter().collect(), restored });
    }

    /// Takes the contents of a folder that could not be opened at first: see [`Store::open_later`]. Returns them once.
    pub fn take_opened(&self) -> Option<OpenedFolder> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).opened.take()
    }

    /// Takes the changes that are not written yet, with the notes about removed frames. Files up to number `last_file`
    /// may hold rows of those frames.
    pub(crate) fn take_changes(&self, last_file: u64) -> NoteChanges {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let StoredNotes { values, changes, removed, .. } = &mut *kept;
        if !removed.is_empty() {
            let noted = removed_frames::note_removed(values, std::mem::take(removed), last_file);
            changes.extend(noted.into_iter().map(|key| (key.clone(), values.get(&key).cloned())));
        }
        std::mem::take(changes)
    }

    /// Returns the keys of notes about removed frames that no file can hold any more: all files have numbers from
    /// `oldest_file` on.
    pub(crate) fn obsolete_removal_notes(&self, oldest_file: u64) -> Vec<String> {
        removed_frames::obsolete_notes(&self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).values, oldest_file)
    }

    /// Passes all notes to `show`. Notes cannot change meanwhile.
    pub(crate) fn show_notes(&self, show: &mut dyn FnMut(&NoteValues)) {
        show(&self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).values);
    }
}
