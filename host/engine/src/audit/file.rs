use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// In the data directory.
pub(super) const NAME: &str = "audit.log";

/// Bytes after which a new file begins; one older is kept, with `.1` behind.
pub(super) const LARGEST: u64 = 8 << 20;

/// Where lines go.
#[derive(Debug)]
pub(super) struct Appended {
    path: PathBuf,
    file: File,
    size: u64,
    /// The last line may not be whole.
    is_cut: bool,
}

impl Appended {
    pub(super) fn open(data: &Path) -> io::Result<Self> {
        Self::at(data.join(NAME))
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, is_cut: false })
    }

    /// Whether its name still leads to it.
    pub(super) fn is_there(&self) -> bool {
        let place = |about: fs::Metadata| (about.dev(), about.ino());
        fs::metadata(&self.path).is_ok_and(|now| self.file.metadata().is_ok_and(|own| place(own) == place(now)))
    }

    /// Whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size + lines.len() as u64 > LARGEST {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            // It may have been moved before, and the next one not opened.
            fs::rename(&self.path, older).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            *self = Self::at(self.path.clone())?;
        }
        // A line that was cut, as on a full disk, must not take the next one with it.
        if std::mem::replace(&mut self.is_cut, true) {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(lines)?;
        self.is_cut = false;
        self.size += lines.len() as u64;
        Ok(())
    }
}
