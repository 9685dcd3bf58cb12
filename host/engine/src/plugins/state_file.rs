//! The saved state of plugins on disk: one file each, which is replaced as a whole.

use crate::disk_errors::is_denied;
use dropsonde_sandbox::SavedState;
use dropsonde_sandbox::replace::{PRIVATE, make_inside, remove_abandoned, replace_file};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The file with one plugin's saved bytes.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// Whether this user was not allowed to read the file. Then saved bytes do not overwrite it.
    is_unread: Arc<AtomicBool>,
}

impl StateFile {
    pub(crate) fn of(plugin: &str, data_dir: &Path) -> Self {
        Self { path: data_dir.join("state").join(plugin), is_unread: Arc::default() }
    }

    /// Loads the saved state, which is empty if there is no file. A file that cannot be read is logged and stays as it
    /// is.
    pub(crate) fn load(&self) -> SavedState {
        if let Err(error) = remove_abandoned(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove an incomplete file of a plugin's state");
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
            return Err(io::Error::other("the file holds an earlier state, which is used once the plugin is reloaded"));
        }
        self.path.parent().map_or(Ok(()), make_inside)?;
        replace_file(&self.path, bytes, PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saving_state_does_not_create_a_missing_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert_eq!(StateFile::of("p", &data).save(b"one").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!data.exists());
    }

    #[test]
    fn a_state_file_that_could_not_be_read_is_not_overwritten() {
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
    fn saved_state_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::of("p", folder.path());
        assert_eq!(file.load().unkept(), None);
        file.save(b"one").unwrap();
        file.save(b"two").unwrap();
        assert_eq!(fs::read(folder.path().join("state/p")).unwrap(), b"two");
    }
}
