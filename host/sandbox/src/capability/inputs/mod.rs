//! The source of a plugin's inputs: this machine, or a recording of a machine, with which a test gives the same samples
//! anywhere.
//!
//! A recording has a folder for each tick. The folder contains the files that were read, each under its own path. A
//! file that is missing there is as it was in the tick before. A directory that was listed has at least an empty file
//! or folder for each name. Next to the folder, `FOLDER.space` has a line for each file system whose size was read:
//! `PATH<tab>total bytes<tab>available bytes<tab>inodes<tab>free inodes<tab>used bytes`. Without the last column, all
//! bytes that are not available count as used. `FOLDER.times` has a line for each file whose time was read:
//! `PATH<tab>milliseconds since 1970`. `FOLDER.http` has a line of JSON for each exchange of HTTP, without credentials.

mod recorder;
mod recording;
#[cfg(test)]
mod tests;

use super::files::{EntryKind, FileError, Files, Page, Space};
pub use recorder::Recorder;
pub use recording::Recording;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The source of a plugin's files, clocks, environment and random numbers.
#[derive(Debug, Clone, Default)]
pub enum Inputs {
    /// This machine.
    #[default]
    Live,
    /// This machine. The recorder saves what the plugin reads from files.
    RecordedBy(Arc<Recorder>),
    /// A recording. Random numbers are always the same, and granted directories are absent. A request that was not
    /// recorded finds no server.
    Recorded(Arc<Recording>),
}

/// The suffixes of files of notes.
const SPACE: &str = ".space";
const TIMES: &str = ".times";
const HTTP: &str = ".http";

// === impl Inputs ===

impl Inputs {
    pub(crate) fn read(&self, granted: &Files, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
        let live = || granted.read(path, most);
        let record = |recorder: &Recorder, read: &Vec<u8>| recorder.write(path, Some(read));
        self.take(granted, path, live, record, |recording| recording.read(path, most))
    }

    pub(crate) fn entries(&self, granted: &Files, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
        let record = |recorder: &Recorder, entries: &Vec<_>| recorder.list(path, entries);
        self.take(granted, path, || granted.entries(path), record, |recording| recording.entries(path))
    }

    pub(crate) fn read_range(
        &self,
        granted: &Files,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, FileError> {
        let live = || granted.read_range(path, offset, length);
        let record = |recorder: &Recorder, read: &Vec<u8>| recorder.write_range(path, offset, read);
        self.take(granted, path, live, record, |recording| recording.read_range(path, offset, length))
    }

    pub(crate) fn entries_from(&self, granted: &Files, path: &str, start: u64, most: usize) -> Result<Page, FileError> {
        let live = || granted.entries_from(path, start, most);
        let record = |recorder: &Recorder, page: &Page| recorder.list(path, &page.0);
        self.take(granted, path, live, record, |recording| recording.entries_from(path, start, most))
    }

    pub(crate) fn space(&self, granted: &Files, path: &str) -> Result<Space, FileError> {
        let record = |recorder: &Recorder, space: &Space| recorder.measure(path, space);
        self.take(granted, path, || granted.space(path), record, |recording| recording.space(path))
    }

    pub(crate) fn modified_ms(&self, granted: &Files, path: &str) -> Result<u64, FileError> {
        let record = |recorder: &Recorder, ms: &u64| recorder.note(TIMES, path, format_args!("{ms}"));
        self.take(granted, path, || granted.modified_ms(path), record, |recording| recording.modified_ms(path))
    }

    /// Takes something from its source: from this machine, perhaps recording it, or from a recording.
    fn take<T>(
        &self,
        granted: &Files,
        path: &str,
        live: impl FnOnce() -> Result<T, FileError>,
        record: impl FnOnce(&Recorder, &T),
        replay: impl FnOnce(&Recording) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        match self {
            Self::Live => live(),
            Self::RecordedBy(recorder) => live().inspect(|taken| record(recorder, taken)),
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => replay(recording),
        }
    }
}

/// Returns the place of a machine's path in a recording. The path is absolute and has no `..`, because it matched a
/// grant.
fn inside(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

/// Returns the file of notes beside the folder of a tick.
fn beside(folder: &Path, kind: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(kind);
    PathBuf::from(name)
}
