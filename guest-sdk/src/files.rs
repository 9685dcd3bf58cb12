//! Files the operator granted, read-only. Natively: any file.

use crate::Failure;

/// Why a file could not be read. Turns into a [`Failure`] with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileError {
    /// No grant covers the path, or what it leads to.
    Denied(String),
    NotFound(String),
    NotAFile(String),
    /// Larger than the host reads in one call.
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

/// A file system's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    /// What an unprivileged user can still write.
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The whole file.
pub fn read(path: &str) -> Result<Vec<u8>, FileError> {
    imp::read(path)
}

/// The whole file as text; bytes that are not UTF-8 are replaced.
pub fn read_to_string(path: &str) -> Result<String, FileError> {
    read(path).map(|bytes| match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// The names in a directory, sorted.
pub fn entries(path: &str) -> Result<Vec<Entry>, FileError> {
    imp::entries(path)
}

/// The file system the path lies on. Natively it is not available.
pub fn space(path: &str) -> Result<DiskSpace, FileError> {
    imp::space(path)
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(path) => write!(f, "{path}: not granted"),
            Self::NotFound(path) => write!(f, "{path}: not found"),
            Self::NotAFile(path) => write!(f, "{path}: not of the kind asked for"),
            Self::TooLarge(path, limit) => write!(f, "{path}: larger than {limit} bytes"),
            // The host names the path itself where that reads better.
            Self::Other(path, why) if why.contains(path.as_str()) => f.write_str(why),
            Self::Other(path, why) => write!(f, "{path}: {why}"),
        }
    }
}

// Not `std::error::Error`: that would make it an unavailable reading, where a refusal is something else.
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
    use super::{DiskSpace, Entry, EntryKind, FileError};
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

    pub(super) fn entries(path: &str) -> Result<Vec<Entry>, FileError> {
        let entries = host::entries(path).map_err(|e| error(path, e))?;
        let kind = |kind| match kind {
            host::EntryKind::File => EntryKind::File,
            host::EntryKind::Directory => EntryKind::Directory,
            host::EntryKind::Other => EntryKind::Other,
        };
        Ok(entries.into_iter().map(|entry| Entry { kind: kind(entry.kind), name: entry.name }).collect())
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
    use super::{DiskSpace, Entry, EntryKind, FileError};
    use std::io::ErrorKind;

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

    pub(super) fn space(path: &str) -> Result<DiskSpace, FileError> {
        Err(FileError::Other(path.to_owned(), "disk space is only known inside the host".to_owned()))
    }
}
