//! `files`: what the operator's globs allow, read-only.
//!
//! A path is judged twice. As written, it must match a grant before the file system is touched, so that a plugin learns
//! nothing about what it may not see. Then it is opened as a bare handle (`O_PATH`; the kernel's magic links refused),
//! and what the handle turns out to be must match too. The file is read through that handle, so nothing can be swapped
//! between the look and the read.

mod resolve;

pub(crate) use resolve::Resolver;

use glob::{MatchOptions, Pattern};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Bytes of one file: kernel files and logs fit, disks do not.
pub(crate) const LARGEST_FILE: u64 = 1 << 20;

/// Names in one directory: /proc on a busy machine has some thousands.
const MOST_ENTRIES: usize = 65_536;

const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// What a plugin may read: globs of absolute paths. `*` and `?` stay within a segment, `**` crosses segments.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    globs: Vec<Glob>,
    resolver: Resolver,
}

#[derive(Debug, Clone)]
struct Glob {
    as_written: Pattern,
    /// The folder before the first wildcard, as it was resolved: a grant may name a symbolic link.
    resolved: Option<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileError {
    /// No grant covers the path, or what it leads to.
    Denied,
    /// The operating system refused what is granted: the host's user may not read it.
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
    /// As `df` counts: what is reserved for root is neither used nor available.
    pub(crate) used_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// Some names of a directory, and where the next ones begin.
pub(crate) type Page = (Vec<(String, EntryKind)>, Option<u64>);

// === impl Files ===

impl Default for Files {
    fn default() -> Self {
        Self { globs: Vec::new(), resolver: Resolver::of_this_process() }
    }
}

impl Files {
    pub(crate) fn grant(&mut self, glob: &str) -> Result<(), String> {
        self.globs.push(Glob::new(glob)?);
        Ok(())
    }

    /// Whether everything the wanted glob matches is granted: it is granted itself, word for word, or as a path.
    pub(crate) fn cover(&self, wanted: &str) -> bool {
        self.globs.iter().any(|glob| glob.as_written.as_str() == wanted)
            || (!is_wild(wanted) && self.allow(Path::new(wanted)))
    }

    /// A file of so many bytes at most.
    pub(crate) fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
        let most = (most as u64).min(LARGEST_FILE);
        let handle = self.open(path)?;
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) != FileType::RegularFile {
            return Err(FileError::NotAFile);
        }
        let file = reopen(&handle, OFlags::RDONLY)?;
        // A kernel file says it is empty until it is read, so its size is only known by reading.
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
        let handle = self.open(path)?;
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) != FileType::Directory {
            return Err(FileError::NotAFile);
        }
        let directory = reopen(&handle, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(directory)? {
            let entry = entry?;
            // A name that is not UTF-8 cannot be asked for, so it is not shown.
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

    /// Up to so many bytes of a file from there on; fewer where it ends.
    pub(crate) fn read_range(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, FileError> {
        let handle = self.open(path)?;
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) != FileType::RegularFile {
            return Err(FileError::NotAFile);
        }
        let file = reopen(&handle, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            let wanted = length.saturating_sub(bytes.len()).min(chunk.len());
            let Some(room) = chunk.get_mut(..wanted).filter(|room| !room.is_empty()) else { return Ok(bytes) };
            let read = match rustix::io::pread(&file, room, offset.saturating_add(bytes.len() as u64)) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                // Beyond the largest file there can be.
                Err(Errno::INVAL | Errno::OVERFLOW) if offset.saturating_add(length as u64) > i64::MAX as u64 => {
                    return Ok(bytes);
                }
                Err(error) => return Err(error.into()),
            };
            let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else { return Ok(bytes) };
            bytes.extend_from_slice(part);
        }
    }

    /// Up to `most` names of a directory, from where the last page ended.
    pub(crate) fn entries_from(&self, path: &str, start: u64, most: usize) -> Result<Page, FileError> {
        let handle = self.open(path)?;
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) != FileType::Directory {
            return Err(FileError::NotAFile);
        }
        page(&reopen(&handle, OFlags::RDONLY | OFlags::DIRECTORY)?, start, most)
    }

    /// A handle to what the path leads to, if it and what it leads to are granted.
    fn open(&self, path: &str) -> Result<OwnedFd, FileError> {
        if !self.may_ask(path) {
            return Err(FileError::Denied);
        }
        let handle = self.resolver.open(Path::new(path))?;
        if self.allow(&real_path(&handle)?) { Ok(handle) } else { Err(FileError::Denied) }
    }

    /// Whether a path may be asked for, whatever it leads to.
    pub(crate) fn may_ask(&self, path: &str) -> bool {
        is_plain(Path::new(path)) && self.allow(Path::new(path))
    }

    fn allow(&self, path: &Path) -> bool {
        self.globs.iter().any(|glob| glob.matches(path))
    }
}

// === impl Glob ===

impl Glob {
    fn new(glob: &str) -> Result<Self, String> {
        if !is_plain(Path::new(glob)) {
            return Err("it is not an absolute path without `..`".to_owned());
        }
        let as_written = Pattern::new(glob).map_err(|error| error.msg.to_owned())?;
        Ok(Self { as_written, resolved: resolve(Path::new(glob)) })
    }

    fn matches(&self, path: &Path) -> bool {
        self.as_written.matches_path_with(path, MATCHING)
            || self.resolved.as_ref().is_some_and(|resolved| resolved.matches_path_with(path, MATCHING))
    }
}

/// The glob with the links of its literal beginning followed; none when that changes nothing or leads nowhere.
fn resolve(glob: &Path) -> Option<Pattern> {
    let literal: PathBuf = glob.components().take_while(|part| !is_wild(&part.as_os_str().to_string_lossy())).collect();
    let real = literal.canonicalize().ok().filter(|real| *real != literal)?;
    let rest = glob.strip_prefix(&literal).ok()?;
    let mut resolved = Pattern::escape(real.to_str()?);
    if !rest.as_os_str().is_empty() {
        resolved.push('/');
        resolved.push_str(rest.to_str()?);
    }
    Pattern::new(&resolved).ok()
}

/// Up to `most` names of an open directory, from where the last page ended.
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
        // A name that is not UTF-8 cannot be asked for, so it is not shown.
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

/// Absolute, and nothing in it that means another place than it says.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Where a handle lies, links followed. A deleted file's path ends in " (deleted)" and matches no grant by accident.
fn real_path(handle: &OwnedFd) -> Result<PathBuf, FileError> {
    let link = fs::readlink(own_link(handle), Vec::new())?;
    let path = link.into_string().map_err(|_| FileError::Denied)?;
    Ok(PathBuf::from(path))
}

/// The same file, opened for reading. Non-blocking, so that no pipe or device can hold the call.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    struct Folder {
        _guard: tempfile::TempDir,
        path: String,
    }

    /// granted/{a.txt,sub/deep.txt}, secret.txt beside it.
    fn folder() -> Folder {
        let guard = tempfile::tempdir().unwrap();
        let root = guard.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("granted/sub")).unwrap();
        std::fs::write(root.join("granted/a.txt"), "a").unwrap();
        std::fs::write(root.join("granted/sub/deep.txt"), "deep").unwrap();
        std::fs::write(root.join("secret.txt"), "secret").unwrap();
        Folder { path: root.to_str().unwrap().to_owned(), _guard: guard }
    }

    fn grants(globs: &[impl AsRef<str>]) -> Files {
        let mut files = Files::default();
        globs.iter().for_each(|glob| files.grant(glob.as_ref()).unwrap());
        files
    }

    /// The same grants on either way to resolve a path.
    fn either(globs: &[impl AsRef<str>]) -> [Files; 2] {
        [Resolver::of_this_process(), Resolver::Stepwise].map(|resolver| Files { resolver, ..grants(globs) })
    }

    fn read(grants: &Files, path: &str) -> Result<Vec<u8>, FileError> {
        grants.read(path, usize::MAX)
    }

    #[test]
    fn a_star_stays_within_a_segment_and_two_cross_segments() {
        let Folder { path, _guard } = &folder();
        let one = grants(&[format!("{path}/granted/*")]);
        assert_eq!(read(&one, &format!("{path}/granted/a.txt")), Ok(b"a".to_vec()));
        assert_eq!(read(&one, &format!("{path}/granted/sub/deep.txt")), Err(FileError::Denied));
        let two = grants(&[format!("{path}/granted/**/*.txt")]);
        assert_eq!(read(&two, &format!("{path}/granted/sub/deep.txt")), Ok(b"deep".to_vec()));
    }

    #[test]
    fn what_is_not_granted_is_denied_whether_it_exists_or_not() {
        let Folder { path, _guard } = &folder();
        for grants in either(&[format!("{path}/granted/*")]) {
            for name in ["secret.txt", "no-such-file"] {
                assert_eq!(read(&grants, &format!("{path}/{name}")), Err(FileError::Denied));
            }
            assert_eq!(read(&grants, &format!("{path}/granted/no-such-file")), Err(FileError::NotFound));
        }
    }

    #[test]
    fn dot_dot_relative_paths_and_nul_are_denied() {
        let Folder { path, _guard } = &folder();
        let grants = grants(&[format!("{path}/**")]);
        for tricky in [
            format!("{path}/granted/../secret.txt"),
            "etc/passwd".to_owned(),
            String::new(),
            format!("{path}/granted/a.txt\0.png"),
        ] {
            assert_eq!(read(&grants, &tricky), Err(FileError::Denied), "{tricky:?}");
        }
    }

    #[test]
    fn a_link_out_of_the_grant_is_denied_and_one_within_is_followed() {
        let Folder { path, _guard } = &folder();
        symlink(format!("{path}/secret.txt"), format!("{path}/granted/out")).unwrap();
        symlink("a.txt", format!("{path}/granted/in")).unwrap();
        symlink(path, format!("{path}/granted/up")).unwrap();
        symlink("../granted/sub/../in", format!("{path}/granted/around")).unwrap();
        symlink("sub/", format!("{path}/granted/folder")).unwrap();
        for grants in either(&[format!("{path}/granted/**")]) {
            assert_eq!(read(&grants, &format!("{path}/granted/out")), Err(FileError::Denied));
            assert_eq!(read(&grants, &format!("{path}/granted/up/secret.txt")), Err(FileError::Denied));
            assert_eq!(read(&grants, &format!("{path}/granted/in")), Ok(b"a".to_vec()));
            assert_eq!(read(&grants, &format!("{path}/granted/in/")), Err(FileError::NotAFile));
            assert_eq!(read(&grants, &format!("{path}/granted/around")), Ok(b"a".to_vec()));
            assert_eq!(read(&grants, &format!("{path}/granted/folder/deep.txt")), Ok(b"deep".to_vec()));
        }
    }

    #[test]
    fn links_that_lead_to_each_other_end() {
        let Folder { path, _guard } = &folder();
        symlink("b", format!("{path}/granted/a")).unwrap();
        symlink("a", format!("{path}/granted/b")).unwrap();
        for nth in 0..41 {
            symlink(format!("{}", nth + 1), format!("{path}/granted/{nth}")).unwrap();
        }
        std::fs::write(format!("{path}/granted/41"), "far").unwrap();
        for grants in either(&[format!("{path}/granted/*")]) {
            for endless in ["a", "0"] {
                let error = read(&grants, &format!("{path}/granted/{endless}")).unwrap_err();
                assert!(matches!(&error, FileError::Other(why) if why.contains("symbolic links")), "{error:?}");
            }
            assert_eq!(read(&grants, &format!("{path}/granted/1")), Ok(b"far".to_vec()), "40 links");
        }
    }

    #[test]
    fn what_the_system_refuses_is_not_called_denied() {
        use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
        use std::os::unix::fs::PermissionsExt as _;
        let Folder { path, _guard } = &folder();
        let mode = |name: &str, mode| {
            std::fs::set_permissions(format!("{path}/{name}"), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("granted/a.txt", 0);
        mode("granted/sub", 0);
        // On a thread that may not do what root may.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let CapabilitySets { permitted, inheritable, .. } = capabilities(None).unwrap();
                let none = CapabilitySets { effective: CapabilitySet::empty(), permitted, inheritable };
                set_capabilities(None, none).unwrap();
                for grants in either(&[format!("{path}/granted/**")]) {
                    for name in ["a.txt", "sub/deep.txt"] {
                        assert_eq!(read(&grants, &format!("{path}/granted/{name}")), Err(FileError::Refused), "{name}");
                    }
                    assert_eq!(grants.entries(&format!("{path}/granted/sub")), Err(FileError::Refused));
                    assert_eq!(read(&grants, &format!("{path}/secret.txt")), Err(FileError::Denied));
                }
            });
        });
        mode("granted/sub", 0o700);
    }

    /// Puts one thing after the other in the same place, as long as `read` reads.
    fn swapped(path: &str, put: impl Fn(u64, &str) + Sync, read: impl FnOnce()) {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for nth in 0.. {
                    put(nth, &format!("{path}/granted/next"));
                    std::fs::rename(format!("{path}/granted/next"), format!("{path}/granted/swapped")).unwrap();
                    if done.load(Relaxed) {
                        break;
                    }
                }
            });
            read();
            done.store(true, Relaxed);
        });
    }

    #[test]
    fn a_link_that_is_swapped_all_the_while_never_gives_what_is_not_granted() {
        let Folder { path, _guard } = &folder();
        for grants in either(&[format!("{path}/granted/**")]) {
            let put = |nth: u64, next: &str| {
                symlink(if nth.is_multiple_of(2) { "a.txt" } else { "../secret.txt" }, next).unwrap();
            };
            swapped(path, put, || {
                let (mut read_well, mut denied) = (0, 0);
                while read_well < 500 || denied < 500 {
                    match read(&grants, &format!("{path}/granted/swapped")) {
                        Ok(bytes) => {
                            assert_eq!(bytes, b"a");
                            read_well += 1;
                        }
                        Err(FileError::Denied) => denied += 1,
                        Err(_) => {}
                    }
                }
            });
        }
    }

    #[test]
    fn a_folder_that_is_swapped_for_a_link_never_gives_what_is_not_granted() {
        let Folder { path, _guard } = &folder();
        std::fs::create_dir(format!("{path}/elsewhere")).unwrap();
        std::fs::write(format!("{path}/elsewhere/deep.txt"), "secret").unwrap();
        for grants in either(&[format!("{path}/granted/**")]) {
            let put = |nth: u64, next: &str| {
                let targets = ["sub", "../elsewhere", "/proc/self/root", "../granted/sub"];
                symlink(targets[nth as usize % targets.len()], next).unwrap();
            };
            swapped(path, put, || {
                let (mut read_well, mut denied) = (0, 0);
                while read_well < 300 || denied < 300 {
                    match read(&grants, &format!("{path}/granted/swapped/deep.txt")) {
                        Ok(bytes) => {
                            assert_eq!(bytes, b"deep");
                            read_well += 1;
                        }
                        Err(FileError::Denied) => denied += 1,
                        Err(_) => {}
                    }
                }
            });
        }
    }

    #[test]
    fn a_grant_may_name_a_link_itself() {
        let Folder { path, _guard } = &folder();
        symlink("granted", format!("{path}/alias")).unwrap();
        for grants in either(&[format!("{path}/alias/*.txt")]) {
            assert_eq!(read(&grants, &format!("{path}/alias/a.txt")), Ok(b"a".to_vec()));
        }
    }

    #[test]
    fn the_kernels_own_links_are_never_followed() {
        let Folder { path, _guard } = &folder();
        symlink("/proc/self/root/etc/passwd", format!("{path}/granted/root")).unwrap();
        let mapped = std::fs::read_dir("/proc/self/map_files").unwrap().next().unwrap().unwrap().path();
        let mapped = mapped.to_str().unwrap();
        let own = format!("/proc/{}/cwd/Cargo.toml", std::process::id());
        for grants in either(&["/proc/**".to_owned(), "/etc/**".to_owned(), format!("{path}/**")]) {
            for link in [
                "/proc/self/root/etc/passwd",
                "/proc/self/root",
                "/proc/self/cwd",
                "/proc/self/exe",
                "/proc/self/fd/0",
                "/proc/self/ns/net",
                "/proc/self/ns/mnt",
                "/proc/self/task/../cwd",
                "/proc/thread-self/cwd",
                "/proc/thread-self/root/etc/passwd",
                "/proc/1/root/etc/passwd",
                mapped,
                &own,
                &format!("{path}/granted/root"),
            ] {
                assert_eq!(read(&grants, link), Err(FileError::Denied), "{link}");
            }
            for plain in ["/proc/self/status", "/proc/thread-self/status", "/proc/mounts", "/proc/net/dev"] {
                assert!(read(&grants, plain).is_ok(), "{plain}: {:?}", read(&grants, plain));
            }
            assert_eq!(read(&grants, "/proc/self"), Err(FileError::NotAFile));
        }
        for narrow in either(&["/proc/self/mounts", "/proc/net/dev"]) {
            assert!(read(&narrow, "/proc/self/mounts").is_ok());
            assert!(read(&narrow, "/proc/net/dev").is_ok());
            assert_eq!(read(&narrow, "/proc/mounts"), Err(FileError::Denied));
        }
    }

    #[test]
    fn only_regular_files_are_read_and_only_directories_listed() {
        let Folder { path, _guard } = &folder();
        for grants in either(&[format!("{path}/granted"), format!("{path}/granted/*"), "/dev/zero".to_owned()]) {
            assert_eq!(read(&grants, &format!("{path}/granted/sub")), Err(FileError::NotAFile));
            assert_eq!(read(&grants, "/dev/zero"), Err(FileError::NotAFile));
            assert_eq!(grants.entries(&format!("{path}/granted/a.txt")), Err(FileError::NotAFile));
            assert_eq!(
                grants.entries(&format!("{path}/granted")),
                Ok(vec![("a.txt".to_owned(), EntryKind::File), ("sub".to_owned(), EntryKind::Directory)])
            );
        }
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused_with_the_limit() {
        let Folder { path, _guard } = &folder();
        std::fs::write(format!("{path}/granted/big"), vec![0; LARGEST_FILE as usize + 1]).unwrap();
        let grants = grants(&[format!("{path}/granted/*")]);
        assert_eq!(read(&grants, &format!("{path}/granted/big")), Err(FileError::TooLarge(LARGEST_FILE)));
        assert_eq!(grants.read(&format!("{path}/granted/a.txt"), 0), Err(FileError::TooLarge(0)), "of the call's");
    }

    #[test]
    fn a_file_beyond_the_limit_is_read_in_pieces() {
        let Folder { path, _guard } = &folder();
        let (large, file) = (vec![7; LARGEST_FILE as usize + 5], format!("{path}/granted/large"));
        std::fs::write(&file, &large).unwrap();
        let grants = grants(&[format!("{path}/granted/*")]);
        let whole = LARGEST_FILE as usize;
        assert_eq!(grants.read_range(&file, 0, whole).map(|part| part.len()), Ok(whole));
        assert_eq!(grants.read_range(&file, LARGEST_FILE, whole), Ok(vec![7; 5]));
        for beyond in [LARGEST_FILE + 5, i64::MAX as u64, u64::MAX] {
            assert_eq!(grants.read_range(&file, beyond, 10), Ok(Vec::new()), "{beyond}");
        }
        assert_eq!(grants.read_range(&file, 0, 0), Ok(Vec::new()));
        assert_eq!(grants.read_range(&format!("{path}/granted/sub"), 0, 10), Err(FileError::NotAFile));
        assert_eq!(grants.read_range(&format!("{path}/secret.txt"), 0, 10), Err(FileError::Denied));
    }

    #[test]
    fn a_file_of_the_kernel_reads_the_same_in_pieces() {
        let grants = self::grants(&["/proc/cpuinfo"]);
        let whole = String::from_utf8(read(&grants, "/proc/cpuinfo").unwrap()).unwrap();
        let mut pieces = Vec::new();
        loop {
            let piece = grants.read_range("/proc/cpuinfo", pieces.len() as u64, 100).unwrap();
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        // The frequency changes from one reading to the next.
        let names =
            |text: &str| text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect::<Vec<_>>();
        assert_eq!(names(&String::from_utf8(pieces).unwrap()), names(&whole));
    }

    #[test]
    fn a_large_directory_is_listed_in_pages_each_name_once() {
        let Folder { path, _guard } = &folder();
        let folder = format!("{path}/granted/sub");
        (0..2500).for_each(|nth| std::fs::write(format!("{folder}/{nth}"), "").unwrap());
        let grants = grants(&[format!("{path}/granted/*")]);
        let (mut names, mut start, mut pages) = (Vec::new(), 0, 0);
        loop {
            let (entries, next) = grants.entries_from(&folder, start, 100).unwrap();
            assert!(entries.len() <= 100);
            names.extend(entries);
            pages += 1;
            match next {
                Some(next) => start = next,
                None => break,
            }
        }
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(Ok(names), grants.entries(&folder));
        assert!(pages > 25, "{pages}");
        assert_eq!(grants.entries_from(&format!("{path}/granted/a.txt"), 0, 9), Err(FileError::NotAFile));
        assert_eq!(grants.entries_from(path, 0, 9), Err(FileError::Denied));
    }

    #[test]
    fn disk_usage_is_what_df_says() {
        let df = std::process::Command::new("df").args(["-B1", "--output=size,used,avail", "/"]).output().unwrap();
        let text = String::from_utf8(df.stdout).unwrap();
        let columns: Vec<f64> =
            text.lines().nth(1).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
        let space = self::grants(&["/"]).space("/").unwrap();
        let ours = [space.total_bytes, space.used_bytes, space.available_bytes];
        for (ours, theirs) in ours.into_iter().zip(columns) {
            // Others write meanwhile.
            assert!((ours as f64 - theirs).abs() < 1e9, "{space:?}");
        }
        assert!(space.used_bytes + space.available_bytes <= space.total_bytes);
    }

    #[test]
    fn disk_space_needs_the_path_itself_granted() {
        for grants in either(&["/"]) {
            assert!(grants.space("/").unwrap().total_bytes > 0);
        }
        for grants in either(&["/proc/*"]) {
            assert_eq!(grants.space("/"), Err(FileError::Denied));
        }
    }

    #[test]
    fn a_glob_that_cannot_mean_a_place_is_named() {
        for bad in ["proc/stat", "/proc/../etc", "", "/a/[", "/a/***"] {
            assert!(Files::default().grant(bad).is_err());
        }
    }

    /// Mostly names that exist and lead somewhere.
    fn segment() -> impl Strategy<Value = String> {
        let known =
            ["up", "root", "..", ".", "", "a.txt", "sub", "deep.txt", "secret.txt", "granted", "etc", "passwd", "*"];
        prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,6}"]
    }

    proptest! {
        #[test]
        fn no_path_escapes_the_granted_folder(parts in prop::collection::vec(segment(), 0..6)) {
            let Folder { path, _guard } = &folder();
            symlink("..", format!("{path}/granted/up")).unwrap();
            symlink("/", format!("{path}/granted/root")).unwrap();
            let [by_kernel, stepwise] = either(&[format!("{path}/granted/**")]);
            let asked = format!("{path}/granted/{}", parts.join("/"));
            let answer = read(&stepwise, &asked);
            if let Ok(bytes) = &answer {
                prop_assert!([&b"a"[..], b"deep"].contains(&&bytes[..]), "{asked}");
            }
            prop_assert_eq!(read(&by_kernel, &asked), answer);
        }
    }
}
