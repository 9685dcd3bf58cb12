//! Notes: small values by key that survive a restart.
//!
//! ```text
//! notes:  file head · (note records: all notes when the file was begun)… · end · (note records: later changes)…
//! ```

use super::disk::{AppendOnlyFile, Disk, removed};
use super::record::{self, FileHead, FileKind, FilePart, RecordKind, RecordTooLarge, Records};
use crate::codec::{ByteReader, CorruptData, put_bytes};
use std::collections::{BTreeMap, HashSet};
use std::io;

/// Bytes of outdated notes that a file may have before it is rewritten, beside as many bytes as it began with.
const SLACK: u64 = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Notes {
    file: Option<NotesFile>,
    /// Files that the current one replaces once it is durable.
    old: Vec<String>,
}

#[derive(Debug)]
struct NotesFile {
    name: String,
    file: Box<dyn AppendOnlyFile>,
    size: u64,
    /// The size of the file when it was begun.
    live: u64,
}

pub(crate) type NoteValues = BTreeMap<String, Vec<u8>>;

/// Shows all values, without a copy.
pub(crate) type ShowNotes<'a> = &'a dyn Fn(&mut dyn FnMut(&NoteValues));

pub(crate) fn name(number: u64) -> String {
    format!("notes-{number:010}")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix("notes-")?.parse().ok()
}

/// Applies the notes of a file to `values`. Returns the number of corrupt places, and whether a later version wrote the
/// file.
pub(crate) fn read(disk: &dyn Disk, name: &str, values: &mut NoteValues) -> io::Result<(u64, bool)> {
    let bytes = record::read_all(&*disk.open(name)?)?;
    let mut damaged = 0;
    // The notes before the end record replace all values. Without an end record the file was never finished.
    let mut all = NoteValues::new();
    let mut ended = false;
    for item in Records::of(&bytes) {
        let read = match item {
            FilePart::Record { kind: RecordKind::File, payload, .. } => {
                match record::file_head(payload, FileKind::Notes) {
                    Ok(FileHead::Newer) => return Ok((0, true)),
                    Ok(FileHead::Known { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            FilePart::Record { kind: RecordKind::Note, payload, .. } => {
                note(payload, if ended { values } else { &mut all })
            }
            FilePart::Record { kind: RecordKind::End, .. } => {
                *values = std::mem::take(&mut all);
                ended = true;
                Ok(())
            }
            FilePart::Record { .. } | FilePart::Torn { .. } => Ok(()),
            FilePart::Corrupt { .. } => Err(CorruptData),
        };
        damaged += u64::from(read.is_err());
    }
    values.extend(all);
    Ok((damaged, false))
}

impl Notes {
    pub(crate) fn replacing(old: Vec<String>) -> Self {
        Self { file: None, old }
    }

    pub(crate) fn size(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.size)
    }

    /// Writes changes; `None` is a removed value. `show_all` shows all values, with the changes applied.
    pub(crate) fn write(
        &mut self,
        disk: &dyn Disk,
        next_number: &mut u64,
        changes: &[(String, Option<Vec<u8>>)],
        show_all: ShowNotes<'_>,
    ) -> io::Result<()> {
        let is_slack = |file: &NotesFile| file.size > 2 * file.live + SLACK;
        if let Some(full) = self.file.take_if(|file| is_slack(file)) {
            self.old.push(full.name);
        }
        let mut out = Vec::new();
        if let Some(file) = &mut self.file {
            if changes.is_empty() {
                return Ok(());
            }
            changes.iter().try_for_each(|(key, value)| put(&mut out, key, value.as_deref()))?;
            file.file.append(&out)?;
            file.size += out.len() as u64;
            return file.file.sync();
        }
        record::put_file_head(&mut out, FileKind::Notes, &[])?;
        let (mut is_empty, mut shown) = (true, Ok(()));
        show_all(&mut |values| {
            is_empty = values.is_empty();
            shown = values.iter().try_for_each(|(key, value)| put(&mut out, key, Some(value)));
        });
        shown?;
        if is_empty && changes.is_empty() && self.old.is_empty() {
            return Ok(());
        }
        record::put(&mut out, RecordKind::End, |_| {})?;
        *next_number += 1;
        let name = name(*next_number);
        let mut file = disk.create(&name)?;
        if let Err(error) = file.append(&out).and_then(|()| file.sync()).and_then(|()| disk.sync()) {
            if !removed(disk, &name) {
                self.old.push(name);
            }
            return Err(error);
        }
        let size = out.len() as u64;
        self.file = Some(NotesFile { name, file, size, live: size });
        // The current file overrides files that cannot be deleted.
        self.old.retain(|old| !removed(disk, old));
        Ok(())
    }

    /// Forgets the current file if it is not in `there`, so that all notes are written again. Returns whether it did.
    pub(crate) fn forget_vanished(&mut self, there: &HashSet<String>) -> bool {
        self.file.take_if(|file| !there.contains(&file.name)).is_some()
    }

    /// Gives up the current file after a failed write, because its contents are unknown.
    pub(crate) fn abandon(&mut self) {
        self.old.extend(self.file.take().map(|file| file.name));
    }
}

/// Returns an error if a note is too large for a file.
pub(crate) fn fits(key: &str, value: &[u8]) -> Result<(), RecordTooLarge> {
    // The key's length takes a few bytes, and one says whether there is a value.
    const BESIDE: usize = 16;
    let length = key.len().saturating_add(value.len()).saturating_add(BESIDE);
    if length > record::MOST { Err(RecordTooLarge(length)) } else { Ok(()) }
}

fn put(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) -> Result<(), RecordTooLarge> {
    record::put(out, RecordKind::Note, |out| {
        put_bytes(out, key.as_bytes());
        out.push(u8::from(value.is_some()));
        out.extend_from_slice(value.unwrap_or_default());
    })
}

pub(crate) fn note(payload: &[u8], values: &mut NoteValues) -> Result<(), CorruptData> {
    let mut reader = ByteReader(payload);
    let key = reader.text()?.to_owned();
    match reader.u8()? {
        0 => values.remove(&key),
        _ => values.insert(key, reader.0.to_vec()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreLimits};

    #[test]
    fn a_note_too_large_for_a_file_is_refused_and_the_known_value_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (store, keeper, _) = Store::open(folder.path(), &StoreLimits::default()).unwrap();
        let (key, longest) = ("a", record::MOST - 17);
        store.note(key, Some(b"known".to_vec())).unwrap();
        assert!(store.note(key, Some(vec![1; record::MOST])).is_err());
        assert_eq!(store.notes(key), [(key.to_owned(), b"known".to_vec())]);
        store.note("b", Some(vec![1; longest])).unwrap();
        assert!(store.note("b", Some(vec![2; longest + 1])).is_err());
        drop(store);
        keeper.close(0);
        let (store, _keeper, restored) = Store::open(folder.path(), &StoreLimits::default()).unwrap();
        assert_eq!(restored.damaged, 0);
        assert_eq!(store.notes(key), [(key.to_owned(), b"known".to_vec())]);
        assert_eq!(store.notes("b"), [("b".to_owned(), vec![1; longest])]);
    }
}
