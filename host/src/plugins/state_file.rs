//! What plugins saved, on disk: one file each, put in place whole.

use dropsonde_sandbox::SavedState;
use dropsonde_sandbox::replace::{PRIVATE, remove_abandoned, replace_file};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where one plugin's saved bytes lie.
#[derive(Debug, Clone)]
pub(crate) struct StateFile(PathBuf);

impl StateFile {
    pub(crate) fn of(plugin: &str, data_dir: &Path) -> Self {
        Self(data_dir.join("state").join(plugin))
    }

    /// What was saved before; nothing when there is no file. A file that cannot be read is reported and left alone.
    pub(crate) fn load(&self) -> SavedState {
        if let Err(error) = remove_abandoned(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "cannot remove what was half written of a plugin's state");
        }
        match fs::read(&self.0) {
            Ok(bytes) => SavedState::restored(bytes),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %self.0.display(), %error, "cannot read a plugin's saved state");
                }
                SavedState::default()
            }
        }
    }

    pub(crate) fn save(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        replace_file(&self.0, bytes, PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
