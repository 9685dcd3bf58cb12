//! Records what a plugin reads.

use super::{HTTP, SPACE, beside, inside};
use crate::capability::files::{EntryKind, Space};
use crate::capability::http::exchange::RecordedExchange;
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Saves what a plugin reads.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<RecorderState>);

#[derive(Debug, Default)]
struct RecorderState {
    folder: PathBuf,
    failed: Option<io::Error>,
}

// === impl Recorder ===

impl Recorder {
    /// Saves to that folder from now on.
    pub fn go_to(&self, folder: PathBuf) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).folder = folder;
    }

    /// Returns the first error of saving, if there was one.
    pub fn failed(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed.take()
    }

    pub(super) fn write(&self, path: &str, bytes: Option<&[u8]>) {
        self.put(|folder| {
            let file = inside(folder, path);
            // The name was only listed, and there is already a file for it.
            if bytes.is_none() && file.exists() {
                return Ok(());
            }
            make_folder(file.parent().unwrap_or(folder))?;
            fs::write(file, bytes.unwrap_or_default())
        });
    }

    pub(super) fn write_range(&self, path: &str, offset: u64, bytes: &[u8]) {
        self.put(|folder| {
            let file = inside(folder, path);
            make_folder(file.parent().unwrap_or(folder))?;
            let mut file = File::options().write(true).create(true).truncate(offset == 0).open(file)?;
            // A read beyond the end must not make the recorded file longer.
            if bytes.is_empty() {
                return Ok(());
            }
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        });
    }

    pub(super) fn list(&self, path: &str, entries: &[(String, EntryKind)]) {
        self.put(|folder| make_folder(&inside(folder, path)));
        for (name, kind) in entries {
            let path = format!("{path}/{name}");
            match kind {
                EntryKind::Directory => self.put(|folder| make_folder(&inside(folder, &path))),
                EntryKind::File | EntryKind::Other => self.write(&path, None),
            }
        }
    }

    pub(super) fn measure(&self, path: &str, space: &Space) {
        let Space { total_bytes, available_bytes, used_bytes, inodes, inodes_free } = space;
        self.note(SPACE, path, format_args!("{total_bytes}\t{available_bytes}\t{inodes}\t{inodes_free}\t{used_bytes}"));
    }

    pub(crate) fn exchange(&self, exchange: &RecordedExchange) {
        self.put(|folder| {
            fs::create_dir_all(folder)?;
            let mut file = File::options().append(true).create(true).open(beside(folder, HTTP))?;
            writeln!(file, "{}", serde_json::to_string(exchange)?)
        });
    }

    /// Notes something of a path, in a file beside the tick's folder.
    pub(super) fn note(&self, kind: &str, path: &str, columns: std::fmt::Arguments<'_>) {
        self.put(|folder| {
            fs::create_dir_all(folder)?;
            let mut file = File::options().append(true).create(true).open(beside(folder, kind))?;
            writeln!(file, "{path}\t{columns}")
        });
    }

    fn put(&self, put: impl FnOnce(&Path) -> io::Result<()>) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = put(&recorded.folder) {
            recorded.failed.get_or_insert(error);
        }
    }
}

/// Creates a folder and its parents. A symlink that was only listed has been recorded as a file; if it turns out to
/// lead to a folder, that file is removed.
fn make_folder(folder: &Path) -> io::Result<()> {
    for above in folder.ancestors() {
        if above.is_file() {
            fs::remove_file(above)?;
        }
    }
    fs::create_dir_all(folder)
}
