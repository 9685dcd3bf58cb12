//! Debounces changes of the plugins folder: a file that changed is loaded once it is no longer being written.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The time without a change after which a file is most likely complete. An incomplete file is refused, and loaded
/// again when it changes.
const QUIET: Duration = Duration::from_millis(50);

/// The time after which a file that was renamed into place is loaded although it keeps changing: it is complete at
/// once.
const RENAMED: Duration = Duration::from_millis(250);

/// The time after which a file that does not grow is loaded although it keeps changing: it is touched or rewritten, and
/// not being copied.
const LONGEST: Duration = Duration::from_secs(2);

/// The metadata that tells whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSignature {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileSignature {
    pub(crate) fn of(about: &Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The component files of a folder, by plugin.
pub(super) type ComponentFiles = BTreeMap<String, (PathBuf, FileSignature)>;

/// A change of a plugin's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileChange {
    Written(PathBuf),
    Removed,
}

#[derive(Debug, Clone, Copy)]
struct UnsettledFile {
    now: Option<FileSignature>,
    first: Instant,
    last: Instant,
    /// Whether the last change put another file in its place.
    renamed: bool,
    /// Whether the last change made the file longer.
    grew: bool,
}

/// The files of the folder as they last settled, and the changes since then.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    settled: BTreeMap<String, FileSignature>,
    unsettled: BTreeMap<String, UnsettledFile>,
}

impl Debounce {
    /// Begins with the files that are there, which count as known.
    pub(super) fn with(files: &ComponentFiles) -> Self {
        let settled = files.iter().map(|(name, (_, signature))| (name.clone(), *signature)).collect();
        Self { settled, unsettled: BTreeMap::new() }
    }

    /// Compares with the files that are there now. Returns the changes that have settled, by plugin.
    pub(super) fn look(&mut self, files: &ComponentFiles, now: Instant) -> Vec<(String, FileChange)> {
        let found = |name: &str| files.get(name).map(|(_, signature)| *signature);
        let names = files.keys().chain(self.settled.keys()).chain(self.unsettled.keys());
        let names: std::collections::BTreeSet<String> = names.cloned().collect();
        let mut changes = Vec::new();
        for name in names {
            let (found, settled) = (found(&name), self.settled.get(&name).copied());
            let before = self.unsettled.get(&name).copied();
            if found == before.map_or(settled, |before| before.now) {
                let Some(unsettled) = before.filter(|unsettled| unsettled.has_settled(now)) else { continue };
                self.unsettled.remove(&name);
                changes.extend(self.settle(&name, unsettled.now, files));
                continue;
            }
            let seen = before.map_or(settled, |before| before.now);
            let renamed = found.is_some() && found.map(|found| found.file) != seen.map(|seen| seen.file);
            let grew = !renamed && found.map(|found| found.size) > seen.map(|seen| seen.size);
            let first = before.map_or(now, |before| before.first);
            let unsettled = UnsettledFile { now: found, first, last: now, renamed, grew };
            if unsettled.has_settled(now) {
                self.unsettled.remove(&name);
                changes.extend(self.settle(&name, found, files));
            } else {
                self.unsettled.insert(name, unsettled);
            }
        }
        changes
    }

    /// Forgets a plugin's file. If the file is there at the next look, it counts as new.
    pub(super) fn forget(&mut self, name: &str) {
        self.settled.remove(name);
        self.unsettled.remove(name);
    }

    /// Drops the changes that have not settled, because the folder cannot be read. They begin again when it can.
    pub(super) fn pause(&mut self) {
        self.unsettled.clear();
    }

    /// Returns when to look again, if nothing changes before.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.unsettled.values().map(|unsettled| unsettled.last + QUIET).min()
    }

    fn settle(
        &mut self,
        name: &str,
        now: Option<FileSignature>,
        files: &ComponentFiles,
    ) -> Option<(String, FileChange)> {
        let before = match now {
            Some(signature) => self.settled.insert(name.to_owned(), signature),
            None => self.settled.remove(name),
        };
        if before == now {
            return None;
        }
        let path = files.get(name).map(|(path, _)| path.clone());
        Some((name.to_owned(), path.map_or(FileChange::Removed, FileChange::Written)))
    }
}

impl UnsettledFile {
    fn has_settled(&self, now: Instant) -> bool {
        let changing = now.duration_since(self.first);
        now.duration_since(self.last) >= QUIET
            || (self.renamed && changing >= RENAMED)
            || (!self.grew && changing >= LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A file `a` with the inode `nth`, last written at `written`.
    fn file(nth: u64, written: i64) -> ComponentFiles {
        sized(nth, written, 1)
    }

    fn sized(nth: u64, written: i64, size: u64) -> ComponentFiles {
        let signature = FileSignature { file: (1, nth), size, modified: (written, 0), changed: (written, 0) };
        ComponentFiles::from([("a".to_owned(), (PathBuf::from("/p/a.wasm"), signature))])
    }

    fn written() -> Vec<(String, FileChange)> {
        vec![("a".to_owned(), FileChange::Written(PathBuf::from("/p/a.wasm")))]
    }

    #[test]
    fn a_file_that_keeps_growing_is_loaded_once_it_stops_changing() {
        let (mut settling, start) = (Debounce::default(), Instant::now());
        let at = |step: i64| sized(1, step, step as u64);
        for step in 0..1000 {
            assert_eq!(settling.look(&at(step), start + 10 * MS * step as u32), []);
        }
        let last = start + 9990 * MS;
        assert_eq!(settling.next_look(), Some(last + QUIET));
        assert_eq!(settling.look(&at(999), last + QUIET), written());
        assert_eq!(settling.look(&at(999), last + 2 * QUIET), [], "once");
        assert_eq!(settling.next_look(), None);
    }

    #[test]
    fn a_file_that_is_replaced_continually_is_loaded_from_time_to_time() {
        let (mut settling, start) = (Debounce::default(), Instant::now());
        let taken: usize =
            (0..100).map(|step| settling.look(&file(step, 0), start + 20 * MS * step as u32).len()).sum();
        assert!((5..9).contains(&taken), "in 2 s: {taken}");
    }

    #[test]
    fn a_file_that_is_touched_continually_is_loaded_every_two_seconds() {
        let (mut settling, start) = (Debounce::default(), Instant::now());
        let taken: usize =
            (0..500).map(|step| settling.look(&file(1, step), start + 20 * MS * step as u32).len()).sum();
        assert!((4..6).contains(&taken), "in 10 s: {taken}");
    }

    #[test]
    fn files_known_from_the_start_cause_no_change() {
        let mut settling = Debounce::with(&file(1, 0));
        assert_eq!(settling.look(&file(1, 0), Instant::now() + QUIET), []);
    }

    #[test]
    fn a_file_missing_for_a_moment_does_not_count_as_removed() {
        let (mut settling, start) = (Debounce::with(&file(1, 0)), Instant::now());
        assert_eq!(settling.look(&ComponentFiles::new(), start), []);
        assert_eq!(settling.look(&file(2, 0), start + 20 * MS), []);
        assert_eq!(settling.look(&file(2, 0), start + 20 * MS + QUIET), written());
        assert_eq!(settling.look(&ComponentFiles::new(), start + 200 * MS), []);
        let removed = vec![("a".to_owned(), FileChange::Removed)];
        assert_eq!(settling.look(&ComponentFiles::new(), start + 200 * MS + QUIET), removed);
    }
}
