//! What the archive needs of a disk: files that only grow, read at any place, in one folder.

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

/// How long a host that was killed may take to let go: a process it began last has the lock, too, until it is another
/// program.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) trait Disk: Debug + Send + Sync {
    /// The names of the files there are.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file. It is certain to be there after [`Disk::sync`].
    fn create(&self, name: &str) -> io::Result<Box<dyn Growing>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn Readable>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes files created, renamed and removed stay so.
    fn sync(&self) -> io::Result<()>;
    /// Goes on where the folder is another than it was; makes it where it is gone, and what it lies in is there.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) trait Growing: Debug + Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended stay.
    fn sync(&mut self) -> io::Result<()>;
}

pub(crate) trait Readable: Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Deletes a file; whether it is not there now.
pub(crate) fn removed(disk: &dyn Disk, name: &str) -> bool {
    disk.remove(name).is_ok() || disk.open(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// A folder of the real file system, 0700, its files 0600.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked as long as it is open, when it is to be.
    folder: Mutex<File>,
}

impl Folder {
    /// Makes the folder if need be, and locks it; [`io::ErrorKind::WouldBlock`] when someone else has, and keeps it.
    pub(crate) fn locked(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = File::open(path)?;
        // On the folder, not on a file in it: that works on a disk that is full or read-only too.
        let began = Instant::now();
        while let Err(error) = flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK || began.elapsed() > PATIENCE {
                return Err(error.into());
            }
            std::thread::sleep(PATIENCE / 100);
        }
        Ok(Self { path: path.to_owned(), folder: Mutex::new(folder) })
    }

    /// To read what someone else may be writing.
    pub(crate) fn unlocked(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), folder: Mutex::new(File::open(path)?) })
    }

    /// Whether someone else has it locked.
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

/// How often a folder is read anew whose files go away meanwhile.
const TRIES: usize = 10;

/// The files of a folder as they are at one time, whatever its owner does to them later. Nothing can be written.
#[derive(Debug)]
pub(crate) struct Snapshot {
    folder: Folder,
    files: Parts,
}

/// By name; none for what cannot be opened.
type Parts = BTreeMap<String, Option<Part>>;

/// A file as far as it went.
#[derive(Debug, Clone)]
struct Part {
    file: Arc<File>,
    size: u64,
}

impl Snapshot {
    /// Of the files whose names are as `wanted`, those that are `first` before all others.
    pub(crate) fn take(
        folder: Folder,
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
        let files = files.ok_or_else(|| io::Error::other("its files change faster than they can be opened"))?;
        Ok(Self { folder, files })
    }

    /// None: one of them is gone.
    fn files(
        folder: &Folder,
        wanted: &dyn Fn(&str) -> bool,
        first: &dyn Fn(&str) -> bool,
    ) -> io::Result<Option<Parts>> {
        let mut files = Parts::new();
        for turn in [true, false] {
            for name in folder.list()?.into_iter().filter(|name| wanted(name) && first(name) == turn) {
                let part = match File::open(folder.path.join(&name)) {
                    Ok(file) => Some(Part { size: file.metadata()?.len(), file: Arc::new(file) }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(_) => None,
                };
                files.insert(name, part);
            }
        }
        Ok(Some(files))
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Growing>> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Readable>> {
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
                // What it lies in may be a disk that is not mounted now: that is not made.
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

impl Disk for Snapshot {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn Growing>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Readable>> {
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

impl Readable for Part {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }
}

impl Growing for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Readable for File {
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
    fn who_lets_go_soon_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let held = Folder::locked(folder.path()).unwrap();
        let path = folder.path().to_owned();
        let next = std::thread::spawn(move || Folder::locked(&path));
        std::thread::park_timeout(PATIENCE / 20);
        assert!(!next.is_finished());
        drop(held);
        assert!(next.join().unwrap().is_ok());
    }
}
