//! Records which frames were removed, so that their rows in files no longer count.
//!
//! Frames are numbered in the order they began, and removed frames are mostly neighbours. There is one note per run of
//! removed frames, so there are never many more notes than frames that stay.

use super::notes::NoteValues;
use crate::codec::{ByteReader, put_u64};
use std::collections::BTreeMap;

/// The prefix of the notes' keys. The number of a run's first frame follows.
const NOTES: &str = "dead/";

/// A run of removed frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RemovedRun {
    /// The number after the last removed frame.
    end: u64,
    /// The last file that can hold such frames.
    last_file: u64,
}

/// All removed frames, as the start and the end of each run.
#[derive(Debug, Default)]
pub(crate) struct RemovedFrames(BTreeMap<u64, u64>);

impl RemovedRun {
    fn read(value: &[u8]) -> Option<Self> {
        let mut reader = ByteReader(value);
        Some(Self { end: reader.u64().ok()?, last_file: reader.u64().ok()? })
    }

    fn write(self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, self.end);
        put_u64(&mut out, self.last_file);
        out
    }
}

impl RemovedFrames {
    pub(crate) fn of(values: &NoteValues) -> Self {
        let notes = values.range(NOTES.to_owned()..).map_while(|(key, value)| Some((key.strip_prefix(NOTES)?, value)));
        let runs = notes.filter_map(|(start, value)| Some((start.parse::<u64>().ok()?, RemovedRun::read(value)?.end)));
        let mut all = BTreeMap::new();
        // After a crash there may be a note of a run that another run has absorbed.
        let mut last: Option<(u64, u64)> = None;
        for (start, end) in runs {
            let run = last
                .filter(|(_, before)| *before >= start)
                .map_or((start, end), |(first, before)| (first, before.max(end)));
            all.insert(run.0, run.1);
            last = Some(run);
        }
        Self(all)
    }

    pub(crate) fn has(&self, born: u64) -> bool {
        self.0.range(..=born).next_back().is_some_and(|(_, end)| born < *end)
    }

    /// Returns the first number after all removed frames.
    pub(crate) fn end(&self) -> u64 {
        self.0.values().max().copied().unwrap_or(0)
    }
}

/// Notes that frames were removed. Returns the keys of the notes that changed.
pub(crate) fn note_removed(values: &mut NoteValues, mut removed: Vec<u64>, last_file: u64) -> Vec<String> {
    removed.sort_unstable();
    let mut changed = Vec::new();
    for run in removed.chunk_by(|a, b| a.saturating_add(1) == *b || a == b) {
        let (Some(&first), Some(&last)) = (run.first(), run.last()) else { continue };
        let (mut start, mut end) = (first, last.saturating_add(1));
        let before = values.range(..=key(start)).next_back().and_then(|(key, value)| {
            Some((key.strip_prefix(NOTES)?.parse::<u64>().ok()?, RemovedRun::read(value)?.end))
        });
        if let Some((before, before_end)) = before.filter(|(_, before_end)| *before_end >= start) {
            (start, end) = (before, end.max(before_end));
        }
        // Absorb the runs that this one overlaps or touches.
        let over: Vec<(String, u64)> = values
            .range(key(start)..=key(end))
            .filter_map(|(key, value)| Some((key.clone(), RemovedRun::read(value)?.end)))
            .collect();
        for (key, over_end) in over {
            end = end.max(over_end);
            values.remove(&key);
            changed.push(key);
        }
        values.insert(key(start), RemovedRun { end, last_file }.write());
        changed.push(key(start));
    }
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// Returns the keys of notes about frames that no file can hold any more: all files have numbers from `oldest_file` on.
pub(crate) fn obsolete_notes(values: &NoteValues, oldest_file: u64) -> Vec<String> {
    let notes = values.range(NOTES.to_owned()..).take_while(|(key, _)| key.starts_with(NOTES));
    let over = notes.filter(|(_, value)| RemovedRun::read(value).is_none_or(|run| run.last_file < oldest_file));
    over.map(|(key, _)| key.clone()).collect()
}

/// Returns the key of a run's note. Keys sort in the order of numbers.
fn key(start: u64) -> String {
    format!("{NOTES}{start:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbouring_runs_of_removed_frames_become_one_note() {
        let mut values = NoteValues::from([("clock/trust".to_owned(), vec![1]), ("tracked/x".to_owned(), vec![2])]);
        assert_eq!(note_removed(&mut values, vec![5, 3], 7), [key(3), key(5)]);
        assert_eq!(note_removed(&mut values, vec![4], 8), [key(3), key(5)]);
        assert_eq!(values.len(), 3);
        let removed = RemovedFrames::of(&values);
        assert_eq!((2..7).map(|born| removed.has(born)).collect::<Vec<_>>(), [false, true, true, true, false]);
        assert_eq!(removed.end(), 6);
        assert_eq!((obsolete_notes(&values, 8), obsolete_notes(&values, 9)), (vec![], vec![key(3)]));
    }

    #[test]
    fn a_note_that_a_crash_left_inside_another_run_hides_no_removed_frame() {
        let run = |end| RemovedRun { end, last_file: 1 }.write();
        let removed = RemovedFrames::of(&NoteValues::from([(key(0), run(3)), (key(1), run(2)), (key(3), run(5))]));
        assert_eq!((0..6).map(|born| removed.has(born)).collect::<Vec<_>>(), [true, true, true, true, true, false]);
    }

    proptest! {
        #[test]
        fn removed_frames_take_one_note_per_run(
            batches in prop::collection::vec(prop::collection::vec(0_u64..300, 0..40), 0..20),
        ) {
            let (mut values, mut expected) = (NoteValues::new(), BTreeSet::new());
            for batch in batches {
                expected.extend(batch.iter().copied());
                note_removed(&mut values, batch, 1);
            }
            let removed = RemovedFrames::of(&values);
            prop_assert!((0..301).all(|born| removed.has(born) == expected.contains(&born)));
            let runs = expected.iter().filter(|born| !expected.contains(&(**born + 1))).count();
            prop_assert_eq!(values.len(), runs);
        }
    }
}
