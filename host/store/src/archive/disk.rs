//! The disk as the archive uses it: append-only files in one folder that can be read at any offset.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait for the lock of a host that was killed. A process that the host started last also holds the lock
/// until it has executed its program.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) trait Disk: Debug + Send + Sync {
    /// Returns the names of the files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file. The file is durable after [`Disk::sync`].
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendOnlyFile>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadableFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed files durable.
    fn sync(&self) -> io::Result<()>;
    /// Checks that the folder is still the one that was opened. If another folder has its place, the disk locks and
    /// uses that one. If the folder is gone, it is created, unless its parent is gone too.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) trait AppendOnlyFile: Debug + Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes appended bytes durable.
    fn sync(&mut self) -> io::Result<()>;
}

pub(crate) trait ReadableFile: Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Deletes a file. Returns whether the file is gone.
pub(crate) fn removed(disk: &dyn Disk, name: &str) -> bool {
    disk.remove(name).is_ok() || disk.open(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// A folder of the file system with mode 0700. Its files have mode 0600.
#[derive(Debug)]
pub(crate) struct HistoryFolder {
    path: PathBuf,
    /// The open folder. It is locked as long as it is open, if [`HistoryFolder::locked`] opened it.
    folder: Mutex<File>,
}

impl HistoryFolder {
    /// Creates the folder if it does not exist, and locks it. Fails with [`io::ErrorKind::WouldBlock`] if another
    /// process keeps the lock.
    pub(crate) fn locked(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = File::open(path)?;
        // The lock is on the folder, not on a file in it, so that it works on a full or read-only disk too.
        let began = Instant::now();
        while let Err(error) = flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK || began.elapsed() > PATIENCE {
                return Err(error.into());
            }
            std::thread::sleep(PATIENCE / 100);
        }
        Ok(Self { path: path.to_owned(), folder: Mutex::new(folder) })
    }

    /// Opens the folder without a lock, to read files that another process may be writing.
    pub(crate) fn unlocked(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), folder: Mutex::new(File::open(path)?) })
    }

    /// Returns whether another process has the folder locked.
    pub(crate) fn is_in_use(&self) -> bool {
        let folder = self.folder();
        let locked = flock(&*folder, FlockOperation::NonBlockingLockShared);
        if locked.is_ok() {
            let _ = flock(&*folder, FlockOperation::Unlock);
        }
        locked == Err(Errno::WOULDBLOCK)
    }

    fn folder(&self) -> MutexGuard<'_, File> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often to read a folder again if its files are deleted meanwhile.
const TRIES: usize = 10;

/// The files of a folder at one time. They stay readable whatever the folder's host does later. Nothing can be written.
#[derive(Debug)]
pub(crate) struct FolderSnapshot {
    folder: HistoryFolder,
    files: SnapshotFiles,
}

/// Files by name; `None` if a file cannot be opened.
type SnapshotFiles = BTreeMap<String, Option<SnapshotFile>>;

/// A file up to the size it had.
#[derive(Debug, Clone)]
struct SnapshotFile {
    file: Arc<File>,
    size: u64,
}

impl FolderSnapshot {
    /// Opens the files whose names are `wanted`, those that are `first` before all others.
    pub(crate) fn take(
        folder: HistoryFolder,
        wanted: impl Fn(&str) -> bool,
        first: impl Fn(&str) -> bool,
    ) -> io::Result<Self> {
        let mut files = None;
        for _ in 0..TRIES {
            files = Self::files(&folder, &wanted, &first)?;
            if files.is_some() {
                break;
            }
        }
        let files =
            files.ok_or_else(|| io::Error::other("files are deleted faster than they can be opened; try again"))?;
        Ok(Self { folder, files })
    }

    /// Returns `None` if one of the files is deleted meanwhile.
    fn files(
        folder: &HistoryFolder,
        wanted: &dyn Fn(&str) -> bool,
        first: &dyn Fn(&str) -> bool,
    ) -> io::Result<Option<SnapshotFiles>> {
        let mut files = SnapshotFiles::new();
        for turn in [true, false] {
            for name in folder.list()?.into_iter().filter(|name| wanted(name) && first(name) == turn) {
                let part = match File::open(folder.path.join(&name)) {
                    Ok(file) => Some(SnapshotFile { size: file.metadata()?.len(), file: Arc::new(file) }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(_) => None,
                };
                files.insert(name, part);
            }
        }
        Ok(Some(files))
    }
}

impl Disk for HistoryFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendOnlyFile>> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadableFile>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.folder().sync_all()
    }

    fn check(&self) -> io::Result<()> {
        let mut folder = self.folder();
        let now = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Do not create the parent: it may be on a disk that is not mounted now.
                DirBuilder::new().mode(0o700).create(&self.path)?;
                fs::metadata(&self.path)?
            }
            found => found?,
        };
        let known = folder.metadata()?;
        if (now.dev(), now.ino()) != (known.dev(), known.ino()) {
            let other = File::open(&self.path)?;
            flock(&other, FlockOperation::NonBlockingLockExclusive)?;
            *folder = other;
        }
        Ok(())
    }
}

impl Disk for FolderSnapshot {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn AppendOnlyFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadableFile>> {
        match self.files.get(name).ok_or(io::ErrorKind::NotFound)? {
            Some(part) => Ok(Box::new(part.clone())),
            None => self.folder.open(name),
        }
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadableFile for SnapshotFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }
}

impl AppendOnlyFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl ReadableFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locking_a_folder_waits_for_a_lock_that_is_released_soon() {
        let folder = tempfile::tempdir().unwrap();
        let held = HistoryFolder::locked(folder.path()).unwrap();
        let path = folder.path().to_owned();
        let next = std::thread::spawn(move || HistoryFolder::locked(&path));
        std::thread::park_timeout(PATIENCE / 20);
        assert!(!next.is_finished());
        drop(held);
        assert!(next.join().unwrap().is_ok());
    }
}
