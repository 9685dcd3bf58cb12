//! `files`: read-only access to the files that the operator's globs grant.
//!
//! A path is checked twice. First, the path as written must match a grant before the host touches the file system, so
//! that a plugin learns nothing about files that it may not see. Then the host opens it as a bare handle (`O_PATH`,
//! without following the kernel's magic links), and the real path of the handle must match a grant too. The file is
//! read through that handle, so nothing can be swapped between the check and the read.

mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use resolve::Resolver;

use crate::root::Root;
use glob::{MatchOptions, Pattern};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Most bytes of one file: kernel files and logs fit, disks do not.
pub(crate) const LARGEST_FILE: u64 = 1 << 20;

/// Most names in one directory: /proc on a busy machine has some thousands.
const MOST_ENTRIES: usize = 65_536;

const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// The files that a plugin may read, as globs of absolute paths. `*` and `?` stay within a segment, `**` crosses
/// segments.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    globs: Vec<Glob>,
    resolver: Resolver,
    root: Option<Root>,
}

#[derive(Debug, Clone)]
struct Glob {
    as_written: Pattern,
    /// The glob with symlinks before the first wildcard resolved: a grant may name a symlink.
    resolved: Option<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileError {
    /// No grant covers the path, or the place that its symlinks lead to.
    Denied,
    /// The path is granted, but the operating system refused: the host's user may not read it.
    Refused,
    NotFound,
    NotAFile,
    TooLarge(u64),
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total_bytes: u64,
    pub(crate) available_bytes: u64,
    /// Used bytes as `df` counts them. Space reserved for root counts neither as used nor as available.
    pub(crate) used_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// One page of a directory's names, and the start of the next page.
pub(crate) type Page = (Vec<(String, EntryKind)>, Option<u64>);

// === impl Files ===

impl Default for Files {
    fn default() -> Self {
        Self { globs: Vec::new(), resolver: Resolver::of_this_process(), root: None }
    }
}

impl Files {
    pub(crate) fn grant(&mut self, glob: &str) -> Result<(), String> {
        let resolved = |literal: &Path| self.real_path(literal);
        self.globs.push(Glob::new(glob, resolved)?);
        Ok(())
    }

    /// Makes all paths those below a root. Call it before anything is granted.
    pub(crate) fn begin_at(&mut self, root: Root) {
        self.root = Some(root);
    }

    /// Returns where this process finds a path of the operator's; none if it is not there below the root.
    pub(crate) fn leads_to(&self, path: &Path) -> Option<PathBuf> {
        if self.root.is_none() { Some(path.to_owned()) } else { self.outside(path) }
    }

    /// Returns where a path leads, as this process sees it.
    fn outside(&self, path: &Path) -> Option<PathBuf> {
        let handle = self.resolver.open(path, self.root.as_ref()).ok()?;
        real_path(&handle).ok()
    }

    /// Returns where a path leads, as plugins see it.
    fn real_path(&self, path: &Path) -> Option<PathBuf> {
        let real = self.outside(path)?;
        self.root.as_ref().map_or_else(|| Some(real.clone()), |root| root.inside(&real))
    }

    /// Returns whether everything that the wanted glob matches is granted: there is a grant with the same text, or the
    /// glob is a plain path that a grant covers.
    pub(crate) fn cover(&self, wanted: &str) -> bool {
        self.globs.iter().any(|glob| glob.as_written.as_str() == wanted)
            || (!is_wild(wanted) && self.allow(Path::new(wanted)))
    }

    /// Reads a file of at most `most` bytes.
    pub(crate) fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
        let most = (most as u64).min(LARGEST_FILE);
        let file = self.open_file(path)?;
        // The size of a kernel file reads as 0, so the real size is only known after reading.
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            let read = match rustix::io::read(&file, &mut chunk) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else { return Ok(bytes) };
            if (bytes.len() + part.len()) as u64 > most {
                return Err(FileError::TooLarge(most));
            }
            bytes.extend_from_slice(part);
        }
    }

    pub(crate) fn entries(&self, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
        let directory = self.open_directory(path)?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(directory)? {
            let entry = entry?;
            // A plugin cannot ask for a name that is not UTF-8, so it is not listed.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            if entries.len() == MOST_ENTRIES {
                return Err(FileError::TooLarge(MOST_ENTRIES as u64));
            }
            entries.push((name.to_owned(), kind(entry.file_type())));
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    pub(crate) fn space(&self, path: &str) -> Result<Space, FileError> {
        let space = fs::fstatvfs(self.open(path)?)?;
        Ok(Space {
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            used_bytes: space.f_blocks.saturating_sub(space.f_bfree).saturating_mul(space.f_frsize),
            inodes: space.f_files,
            inodes_free: space.f_ffree,
        })
    }

    /// Returns when a file or directory was last modified, in milliseconds since 1970.
    pub(crate) fn modified_ms(&self, path: &str) -> Result<u64, FileError> {
        let about = fs::fstat(self.open(path)?)?;
        let ms = i128::from(about.st_mtime) * 1000 + i128::from(about.st_mtime_nsec) / 1_000_000;
        Ok(u64::try_from(ms).unwrap_or(0))
    }

    /// Reads up to `length` bytes of a file from `offset` on; fewer if the file ends.
    pub(crate) fn read_range(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, FileError> {
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            let wanted = length.saturating_sub(bytes.len()).min(chunk.len());
            let Some(room) = chunk.get_mut(..wanted).filter(|room| !room.is_empty()) else { return Ok(bytes) };
            let read = match rustix::io::pread(&file, room, offset.saturating_add(bytes.len() as u64)) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                // The offset is beyond the largest possible file.
                Err(Errno::INVAL | Errno::OVERFLOW) if offset.saturating_add(length as u64) > i64::MAX as u64 => {
                    return Ok(bytes);
                }
                Err(error) => return Err(error.into()),
            };
            let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else { return Ok(bytes) };
            bytes.extend_from_slice(part);
        }
    }

    /// Lists up to `most` names of a directory, from `start` on.
    pub(crate) fn entries_from(&self, path: &str, start: u64, most: usize) -> Result<Page, FileError> {
        page(&self.open_directory(path)?, start, most)
    }

    /// Opens the regular file at a path, for reading.
    fn open_file(&self, path: &str) -> Result<OwnedFd, FileError> {
        let handle = self.open(path)?;
        match file_type(&handle)? {
            FileType::RegularFile => reopen(&handle, OFlags::RDONLY),
            _ => Err(FileError::NotAFile),
        }
    }

    /// Opens the directory at a path, for reading.
    fn open_directory(&self, path: &str) -> Result<OwnedFd, FileError> {
        let handle = self.open(path)?;
        match file_type(&handle)? {
            FileType::Directory => reopen(&handle, OFlags::RDONLY | OFlags::DIRECTORY),
            _ => Err(FileError::NotAFile),
        }
    }

    /// Opens a bare handle to a path, if grants cover both the path and the place that its symlinks lead to.
    fn open(&self, path: &str) -> Result<OwnedFd, FileError> {
        if !self.may_ask(path) {
            return Err(FileError::Denied);
        }
        let handle = self.resolver.open(Path::new(path), self.root.as_ref())?;
        let real = real_path(&handle)?;
        let real = self.root.as_ref().map_or_else(|| Some(real.clone()), |root| root.inside(&real));
        if real.is_some_and(|real| self.allow(&real)) { Ok(handle) } else { Err(FileError::Denied) }
    }

    /// Returns whether a grant covers the path as written.
    pub(crate) fn may_ask(&self, path: &str) -> bool {
        is_plain(Path::new(path)) && self.allow(Path::new(path))
    }

    fn allow(&self, path: &Path) -> bool {
        self.globs.iter().any(|glob| glob.matches(path))
    }
}

// === impl Glob ===

impl Glob {
    /// `real_path` returns where a path leads.
    fn new(glob: &str, real_path: impl Fn(&Path) -> Option<PathBuf>) -> Result<Self, String> {
        if !is_plain(Path::new(glob)) {
            return Err("it is not an absolute path without `..`".to_owned());
        }
        let as_written = Pattern::new(glob).map_err(|error| error.msg.to_owned())?;
        Ok(Self { as_written, resolved: resolve(Path::new(glob), real_path) })
    }

    fn matches(&self, path: &Path) -> bool {
        self.as_written.matches_path_with(path, MATCHING)
            || self.resolved.as_ref().is_some_and(|resolved| resolved.matches_path_with(path, MATCHING))
    }
}

/// Returns the glob with the symlinks of its literal beginning resolved. None if that changes nothing or the beginning
/// does not exist.
fn resolve(glob: &Path, real_path: impl Fn(&Path) -> Option<PathBuf>) -> Option<Pattern> {
    let literal: PathBuf = glob.components().take_while(|part| !is_wild(&part.as_os_str().to_string_lossy())).collect();
    let real = real_path(&literal).filter(|real| *real != literal)?;
    let rest = glob.strip_prefix(&literal).ok()?;
    let mut resolved = Pattern::escape(real.to_str()?);
    if !rest.as_os_str().is_empty() {
        resolved.push('/');
        resolved.push_str(rest.to_str()?);
    }
    Pattern::new(&resolved).ok()
}

/// Lists up to `most` names of an open directory, from `start` on.
pub(crate) fn page(directory: &OwnedFd, start: u64, most: usize) -> Result<Page, FileError> {
    let start = i64::try_from(start).map_err(|_| FileError::NotFound)?.unsigned_abs();
    fs::seek(directory, fs::SeekFrom::Start(start))?;
    let most = most.min(MOST_ENTRIES);
    let mut entries = Vec::new();
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut listing = fs::RawDir::new(directory, buffer.spare_capacity_mut());
    let mut next = start;
    while entries.len() < most {
        let Some(entry) = listing.next() else { return Ok((entries, None)) };
        let entry = entry?;
        next = entry.next_entry_cookie();
        // A plugin cannot ask for a name that is not UTF-8, so it is not listed.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        entries.push((name.to_owned(), kind(entry.file_type())));
    }
    Ok((entries, Some(next)))
}

fn kind(file_type: FileType) -> EntryKind {
    match file_type {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        _ => EntryKind::Other,
    }
}

fn is_wild(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Returns whether a path is absolute and contains neither `..` nor NUL.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn file_type(handle: &OwnedFd) -> Result<FileType, FileError> {
    Ok(FileType::from_raw_mode(fs::fstat(handle)?.st_mode))
}

/// Returns the real path of a handle. The path of a deleted file ends in " (deleted)" and matches no grant by accident.
fn real_path(handle: &OwnedFd) -> Result<PathBuf, FileError> {
    let link = fs::readlink(own_link(handle), Vec::new())?;
    let path = link.into_string().map_err(|_| FileError::Denied)?;
    Ok(PathBuf::from(path))
}

/// Opens the same file for reading. The flag `NONBLOCK` prevents a pipe or device from blocking the call.
fn reopen(handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, FileError> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(fs::open(own_link(handle), flags, Mode::empty())?)
}

fn own_link(handle: &OwnedFd) -> OsString {
    format!("/proc/self/fd/{}", handle.as_raw_fd()).into()
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(known) => known.into(),
            None => Self::Other(error.to_string()),
        }
    }
}

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::SRCH => Self::NotFound,
            Errno::ACCESS | Errno::PERM => Self::Refused,
            Errno::NOTDIR | Errno::ISDIR => Self::NotAFile,
            other => Self::Other(std::io::Error::from(other).to_string()),
        }
    }
}
