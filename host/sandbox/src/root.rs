use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder that plugins take for `/`: a host in a container sees the machine's files there. Grants name paths below it.
#[derive(Debug, Clone)]
pub struct Root(Arc<OpenRoot>);

#[derive(Debug)]
struct OpenRoot {
    /// The real path.
    path: PathBuf,
    folder: OwnedFd,
}

impl Root {
    /// Opens a folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        use rustix::fs::{CWD, Mode, OFlags, openat};
        let path = path.canonicalize()?;
        let folder = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(Arc::new(OpenRoot { path, folder })))
    }

    /// Returns a path of this process as plugins see it; none if it does not lie below the root.
    pub(crate) fn inside(&self, path: &Path) -> Option<PathBuf> {
        Some(Path::new("/").join(path.strip_prefix(&self.0.path).ok()?))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.folder.as_fd()
    }
}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.0.path == other.0.path
    }
}
