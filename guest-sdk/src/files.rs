//! Read-only access to the files that the operator granted. Natively, all files.

use crate::Failure;

/// Why a file could not be read. `?` turns it into a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileError {
    /// No grant covers the path, or the place that its symlinks lead to.
    Denied(String),
    NotFound(String),
    NotAFile(String),
    /// The file or directory is too large for one call. The number is the limit.
    TooLarge(String, u64),
    Other(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    Other,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
}

/// The size of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    /// Bytes that an unprivileged user can still write.
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The size of a file system in bytes, as `df` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    pub total_bytes: u64,
    /// Used bytes, without the space reserved for root, which is not available either.
    pub used_bytes: u64,
    /// Bytes that an unprivileged user can still write.
    pub available_bytes: u64,
}

/// One page of a directory's names, in no particular order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntriesPage {
    pub entries: Vec<Entry>,
    /// The start of the next page; none after the last page.
    pub next: Option<u64>,
}

/// Most bytes that the host returns in one piece.
const LARGEST_PIECE: u32 = 1 << 20;

/// Reads the whole file.
pub fn read(path: &str) -> Result<Vec<u8>, FileError> {
    imp::read(path)
}

/// Reads the whole file as text. Bytes that are not UTF-8 are replaced.
pub fn read_to_string(path: &str) -> Result<String, FileError> {
    read(path).map(|bytes| match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Reads up to `length` bytes from `offset` on, at most 1 MiB. Fewer bytes than `length` mean that the file ends there.
pub fn read_range(path: &str, offset: u64, length: u32) -> Result<Vec<u8>, FileError> {
    imp::read_range(path, offset, length.min(LARGEST_PIECE))
}

/// Reads a file in pieces, up to `most` bytes: for files that are too large for [`read`].
///
/// If the file changes meanwhile, the result may repeat or miss something where two pieces meet.
pub fn read_large(path: &str, most: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = read_range(path, 0, LARGEST_PIECE)?;
    let mut piece = bytes.len();
    // The kernel may return less than was asked for before the file ends.
    while piece > 0 && bytes.len() <= most {
        let more = read_range(path, bytes.len() as u64, LARGEST_PIECE)?;
        piece = more.len();
        bytes.extend(more);
    }
    if bytes.len() > most { Err(FileError::TooLarge(path.to_owned(), most as u64)) } else { Ok(bytes) }
}

/// Lists up to `most` names of a directory: for directories that are too large for [`entries`]. `start` is 0 for the
/// first page, then `next` of the page before. A name that is added or removed meanwhile may be listed or not.
pub fn entries_from(path: &str, start: u64, most: u32) -> Result<EntriesPage, FileError> {
    imp::entries_from(path, start, most)
}

/// Returns how full the file system is that holds the path. Not available natively.
pub fn usage(path: &str) -> Result<DiskUsage, FileError> {
    imp::usage(path)
}

/// Lists the names in a directory, sorted.
pub fn entries(path: &str) -> Result<Vec<Entry>, FileError> {
    imp::entries(path)
}

/// Returns the size of the file system that holds the path. Not available natively.
pub fn space(path: &str) -> Result<DiskSpace, FileError> {
    imp::space(path)
}

/// Returns when the file or directory was last modified, in milliseconds since 1970 UTC.
pub fn modified_ms(path: &str) -> Result<u64, FileError> {
    imp::modified_ms(path)
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(path) => write!(f, "{path}: not granted"),
            Self::NotFound(path) => write!(f, "{path}: not found"),
            Self::NotAFile(path) => write!(f, "{path}: not of the kind asked for"),
            Self::TooLarge(path, limit) => write!(f, "{path}: larger than {limit} bytes"),
            // The host's text may contain the path already.
            Self::Other(path, why) if why.contains(path.as_str()) => f.write_str(why),
            Self::Other(path, why) => write!(f, "{path}: {why}"),
        }
    }
}

// This type does not implement `std::error::Error`: then `?` would turn a denial into `Failure::Unavailable`.
impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Denied(_) => Self::Denied(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(target_family = "wasm")]
mod imp {
    use super::{DiskSpace, DiskUsage, EntriesPage, Entry, EntryKind, FileError};
    use crate::glue::dropsonde::plugin::files as host;

    fn error(path: &str, error: host::FileError) -> FileError {
        let path = path.to_owned();
        match error {
            host::FileError::Denied => FileError::Denied(path),
            host::FileError::NotFound => FileError::NotFound(path),
            host::FileError::NotAFile => FileError::NotAFile(path),
            host::FileError::TooLarge(limit) => FileError::TooLarge(path, limit),
            host::FileError::Other(why) => FileError::Other(path, why),
        }
    }

    pub(super) fn read(path: &str) -> Result<Vec<u8>, FileError> {
        host::read(path).map_err(|e| error(path, e))
    }

    pub(super) fn read_range(path: &str, offset: u64, length: u32) -> Result<Vec<u8>, FileError> {
        host::read_range(path, offset, length).map_err(|e| error(path, e))
    }

    pub(super) fn entries(path: &str) -> Result<Vec<Entry>, FileError> {
        Ok(host::entries(path).map_err(|e| error(path, e))?.into_iter().map(Entry::from).collect())
    }

    pub(super) fn entries_from(path: &str, start: u64, most: u32) -> Result<EntriesPage, FileError> {
        let page = host::entries_from(path, start, most).map_err(|e| error(path, e))?;
        Ok(EntriesPage { entries: page.entries.into_iter().map(Entry::from).collect(), next: page.next })
    }

    pub(super) fn usage(path: &str) -> Result<DiskUsage, FileError> {
        let host::DiskUsage { total_bytes, used_bytes, available_bytes } =
            host::usage(path).map_err(|e| error(path, e))?;
        Ok(DiskUsage { total_bytes, used_bytes, available_bytes })
    }

    pub(super) fn modified_ms(path: &str) -> Result<u64, FileError> {
        host::modified_ms(path).map_err(|e| error(path, e))
    }

    impl From<host::Entry> for Entry {
        fn from(entry: host::Entry) -> Self {
            let kind = match entry.kind {
                host::EntryKind::File => EntryKind::File,
                host::EntryKind::Directory => EntryKind::Directory,
                host::EntryKind::Other => EntryKind::Other,
            };
            Self { name: entry.name, kind }
        }
    }

    pub(super) fn space(path: &str) -> Result<DiskSpace, FileError> {
        let space = host::space(path).map_err(|e| error(path, e))?;
        Ok(DiskSpace {
            total_bytes: space.total_bytes,
            available_bytes: space.available_bytes,
            inodes: space.inodes,
            inodes_free: space.inodes_free,
        })
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use super::{DiskSpace, DiskUsage, EntriesPage, Entry, EntryKind, FileError};
    use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};

    fn error(path: &str, error: &std::io::Error) -> FileError {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::NotFound => FileError::NotFound(path),
            ErrorKind::IsADirectory | ErrorKind::NotADirectory => FileError::NotAFile(path),
            _ => FileError::Other(path, error.to_string()),
        }
    }

    pub(super) fn read(path: &str) -> Result<Vec<u8>, FileError> {
        std::fs::read(path).map_err(|e| error(path, &e))
    }

    pub(super) fn entries(path: &str) -> Result<Vec<Entry>, FileError> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|e| error(path, &e))? {
            let entry = entry.map_err(|e| error(path, &e))?;
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_file() => EntryKind::File,
                Ok(kind) if kind.is_dir() => EntryKind::Directory,
                _ => EntryKind::Other,
            };
            entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), kind });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn read_range(path: &str, offset: u64, length: u32) -> Result<Vec<u8>, FileError> {
        let mut file = std::fs::File::open(path).map_err(|e| error(path, &e))?;
        let mut bytes = Vec::new();
        // Beyond the largest possible file, there is nothing to read.
        if offset <= i64::MAX as u64 {
            let read =
                file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(length.into()).read_to_end(&mut bytes));
            read.map_err(|e| error(path, &e))?;
        }
        Ok(bytes)
    }

    /// Here the start of a page is the index of its first name.
    pub(super) fn entries_from(path: &str, start: u64, most: u32) -> Result<EntriesPage, FileError> {
        let entries = entries(path)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let page: Vec<Entry> = entries.iter().skip(start).take(most as usize).cloned().collect();
        let next = start.saturating_add(page.len());
        Ok(EntriesPage { entries: page, next: (next < entries.len()).then_some(next as u64) })
    }

    pub(super) fn modified_ms(path: &str) -> Result<u64, FileError> {
        let modified = std::fs::metadata(path).and_then(|about| about.modified()).map_err(|e| error(path, &e))?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn usage(path: &str) -> Result<DiskUsage, FileError> {
        Err(FileError::Other(path.to_owned(), "disk usage is only available inside the host".to_owned()))
    }

    pub(super) fn space(path: &str) -> Result<DiskSpace, FileError> {
        Err(FileError::Other(path.to_owned(), "disk space is only available inside the host".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_one_piece_is_read_whole_up_to_a_bound() {
        let path = std::env::temp_dir().join(format!("dropsonde-guest-large-{}", std::process::id()));
        let path = path.to_str().unwrap();
        let content: Vec<u8> = (0..LARGEST_PIECE + 7).map(|nth| nth as u8).collect();
        std::fs::write(path, &content).unwrap();
        let (whole, bounded) = (read_large(path, 2 << 20), read_large(path, 1 << 20));
        let (start, end) = (read_range(path, 0, 4), read_range(path, u64::from(LARGEST_PIECE) + 5, 99));
        std::fs::remove_file(path).unwrap();
        assert_eq!(whole, Ok(content));
        assert_eq!(bounded, Err(FileError::TooLarge(path.to_owned(), 1 << 20)));
        assert_eq!((start, end), (Ok(vec![0, 1, 2, 3]), Ok(vec![5, 6])));
        assert_eq!(read_large(path, 9), Err(FileError::NotFound(path.to_owned())));
    }

    #[test]
    fn a_directory_listed_in_pages_has_the_names_it_has_at_once() {
        let whole = entries("/proc/self").unwrap();
        let mut names = Vec::new();
        let mut start = Some(0);
        while let Some(at) = start {
            let page = entries_from("/proc/self", at, 7).unwrap();
            assert!(page.entries.len() <= 7);
            names.extend(page.entries);
            start = page.next;
        }
        assert_eq!(names, whole);
    }

    #[test]
    fn what_the_system_refused_is_unavailable_and_names_its_path_once() {
        let why = "permission denied by the operating system: /a; run the host as a user that may read it";
        let refused = FileError::Other("/a".to_owned(), why.to_owned());
        assert_eq!(Failure::from(refused), Failure::Unavailable(why.to_owned()));
        let other = FileError::Other("/a".to_owned(), "Input/output error (os error 5)".to_owned());
        assert_eq!(other.to_string(), "/a: Input/output error (os error 5)");
    }
}
