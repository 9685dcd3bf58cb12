//! What plugins saved, on disk: one file each, put in place whole.

use crate::unwritable::is_denied;
use dropsonde_sandbox::SavedState;
use dropsonde_sandbox::replace::{PRIVATE, remove_abandoned, replace_file};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Where one plugin's saved bytes lie.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// There may be bytes that this user was not allowed to read: nothing is written over them.
    is_unread: Arc<AtomicBool>,
}

impl StateFile {
    pub(crate) fn of(plugin: &str, data_dir: &Path) -> Self {
        Self { path: data_dir.join("state").join(plugin), is_unread: Arc::default() }
    }

    /// What was saved before; nothing when there is no file. A file that cannot be read is reported and left alone.
    pub(crate) fn load(&self) -> SavedState {
        if let Err(error) = remove_abandoned(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove what was half written of a plugin's state");
        }
        match fs::read(&self.path) {
            Ok(bytes) => SavedState::restored(bytes),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %self.path.display(), %error, "cannot read a plugin's saved state");
                }
                self.is_unread.store(is_denied(&error), Relaxed);
                SavedState::default()
            }
        }
    }

    pub(crate) fn save(&self, bytes: &[u8]) -> io::Result<()> {
        if self.is_unread.load(Relaxed) && fs::metadata(&self.path)?.is_file() {
            return Err(io::Error::other("it holds what was saved before, which counts once the plugin is reloaded"));
        }
        self.path.parent().map_or(Ok(()), make_inside)?;
        replace_file(&self.path, bytes, PRIVATE)
    }
}

/// Makes a folder for this user alone. What it lies in is not made: it may be a disk that is not mounted now.
pub(super) fn make_inside(folder: &Path) -> io::Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_that_is_gone_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert_eq!(StateFile::of("p", &data).save(b"one").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!data.exists());
    }

    #[test]
    fn what_could_not_be_read_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::of("p", folder.path());
        file.save(b"one").unwrap();
        file.is_unread.store(true, Relaxed);
        assert!(file.save(b"two").unwrap_err().to_string().contains("reloaded"));
        let file = StateFile::of("p", folder.path());
        file.load();
        file.save(b"two").unwrap();
    }

    #[test]
    fn what_was_saved_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::of("p", folder.path());
        assert_eq!(file.load().unkept(), None);
        file.save(b"one").unwrap();
        file.save(b"two").unwrap();
        assert_eq!(fs::read(folder.path().join("state/p")).unwrap(), b"two");
    }
}
