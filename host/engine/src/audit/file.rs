use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The file's name in the data directory.
pub(super) const NAME: &str = "audit.log";

/// The largest size of the file, in bytes. Then a new file begins, and the old one is kept with `.1` appended to its
/// name.
pub(super) const LARGEST: u64 = 8 << 20;

/// The open file of the audit log.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    size: u64,
    /// The last line may be incomplete.
    is_cut: bool,
}

impl RotatingFile {
    pub(super) fn open(data: &Path) -> io::Result<Self> {
        Self::at(data.join(NAME))
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, is_cut: false })
    }

    /// Returns whether the file's name still leads to the open file.
    pub(super) fn is_there(&self) -> bool {
        let place = |about: fs::Metadata| (about.dev(), about.ino());
        fs::metadata(&self.path).is_ok_and(|now| self.file.metadata().is_ok_and(|own| place(own) == place(now)))
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size + lines.len() as u64 > LARGEST {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            // An earlier call may have renamed the file and then failed to open the next one.
            fs::rename(&self.path, older).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            *self = Self::at(self.path.clone())?;
        }
        // A line may have been cut, for example by a full disk. The next line must not be appended to it.
        if std::mem::replace(&mut self.is_cut, true) {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(lines)?;
        self.is_cut = false;
        self.size += lines.len() as u64;
        Ok(())
    }
}
