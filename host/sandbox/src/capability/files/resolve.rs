//! Opens a path as a bare handle (`O_PATH`), never through a magic link of the kernel (/proc/PID/root, cwd, exe, fd/*,
//! ns/*, map_files/*).
//!
//! `openat2` does this in one call. Linux before 5.6 does not have it. systemd's `RestrictSUIDSGID=` makes it fail with
//! ENOSYS, and older container profiles with EPERM. In these cases the code below opens each component by itself and
//! follows symlinks on its own.

use super::FileError;
use crate::root::Root;
use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};
use std::sync::OnceLock;

/// Most symlinks in one path: as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Tries of a call that the kernel asks to repeat.
const TRIES: usize = 8;

/// Flags of a bare handle.
const BARE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Types of AppArmor's file systems: `/sys/kernel/security/apparmor/policy` is a magic link from the first to the
/// second.
const SECURITYFS: i128 = 0x7363_6673;
const APPARMORFS: i128 = 0x5a3c_69f0;

/// The method of resolving paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// The kernel resolves a path, in one call.
    OpenAt2,
    /// This module resolves a path, component by component.
    Stepwise,
}

// === impl Resolver ===

impl Resolver {
    /// Returns the resolver that works in this process. It is tested once: a filter of system calls does not change
    /// later.
    pub(crate) fn of_this_process() -> Self {
        static FOUND: OnceLock<Resolver> = OnceLock::new();
        *FOUND.get_or_init(Self::probe)
    }

    /// Tests `openat2` with `/`, which every process may open. So an error is about the call, not about the file.
    pub(super) fn probe() -> Self {
        match openat2(CWD, Path::new("/"), BARE, ResolveFlags::NO_MAGICLINKS) {
            Ok(_) => Self::OpenAt2,
            Err(error) => {
                tracing::debug!(%error, "openat2 does not work here; granted files are opened step by step");
                Self::Stepwise
            }
        }
    }

    /// Opens an absolute path and follows its symlinks, which do not lead out of a root.
    pub(crate) fn open(self, path: &Path, beneath: Option<&Root>) -> Result<OwnedFd, FileError> {
        if self == Self::Stepwise {
            return open_stepwise(path, beneath);
        }
        let opened = match beneath {
            None => openat2(CWD, path, BARE, ResolveFlags::NO_MAGICLINKS),
            Some(root) => openat2(root, path, BARE, ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT),
        };
        match opened {
            Ok(handle) => Ok(handle),
            // The path has a magic link, or a loop of symlinks, or a part that this user may not see. Resolving it
            // stepwise tells which.
            Err(error @ (Errno::LOOP | Errno::ACCESS | Errno::PERM)) => match open_stepwise(path, beneath) {
                Err(FileError::Denied) => Err(FileError::Denied),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file below a folder. The path must contain neither symlinks nor `..`.
    pub(crate) fn open_beneath(self, folder: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        if self == Self::OpenAt2 {
            return openat2(folder, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS);
        }
        let mut parts = path.components().peekable();
        let mut at = open(folder, OsStr::new("."), BARE | OFlags::DIRECTORY)?;
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { flags } else { BARE | OFlags::DIRECTORY };
            at = match part {
                Component::CurDir => open(&at, OsStr::new("."), flags)?,
                Component::Normal(name) => open(&at, name, flags | OFlags::NOFOLLOW)?,
                _ => return Err(Errno::XDEV),
            };
        }
        Ok(at)
    }
}

fn open_stepwise(path: &Path, beneath: Option<&Root>) -> Result<OwnedFd, FileError> {
    let mut at = root(beneath)?;
    // The number of folders between the root and here.
    let mut depth = 0_usize;
    let mut ahead = Vec::new();
    push(path.as_os_str(), &mut ahead);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        let name = OsStr::from_bytes(name.as_bytes());
        let is_last = ahead.is_empty();
        if is_dots(name) {
            if name == ".." {
                // As in the kernel, the root is its own parent.
                let Some(above) = depth.checked_sub(1) else { continue };
                depth = above;
            }
            at = open(&at, name, BARE | OFlags::DIRECTORY)?;
            continue;
        }
        if !is_last {
            // Opens it as a directory, so that an automount is mounted now.
            match open(&at, name, BARE | OFlags::NOFOLLOW | OFlags::DIRECTORY) {
                Ok(folder) => {
                    at = folder;
                    depth += 1;
                    continue;
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let found = open(&at, name, BARE | OFlags::NOFOLLOW)?;
        if FileType::from_raw_mode(fs::fstat(&found)?.st_mode) != FileType::Symlink {
            at = found;
            depth += 1;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = plain_target(&found, name)?;
        let target = OsStr::from_bytes(target.as_bytes());
        if target.is_empty() {
            return Err(FileError::NotFound);
        }
        if target.as_bytes().starts_with(b"/") {
            at = root(beneath)?;
            depth = 0;
        }
        push(target, &mut ahead);
    }
    Ok(at)
}

/// Returns the target of a symlink, unless it is a magic link.
///
/// On procfs the text of a magic link only describes its target, so following the text would lead elsewhere. Every link
/// on procfs counts as magic, except four that are known to be plain text. Those four cannot be confused with magic
/// links, whose names and texts are different: `ns/net` has the text `net:[4026531840]`.
fn plain_target(link: &OwnedFd, name: &OsStr) -> Result<CString, FileError> {
    let kind = i128::from(fs::fstatfs(link)?.f_type);
    let is_proc = kind == i128::from(fs::PROC_SUPER_MAGIC);
    if kind == SECURITYFS || kind == APPARMORFS {
        return Err(FileError::Denied);
    }
    match fs::readlinkat(link, "", Vec::new()) {
        Ok(text) if !is_proc || is_plain_on_proc(name.as_bytes(), text.as_bytes()) => Ok(text),
        Ok(_) => Err(FileError::Denied),
        Err(_) if is_proc => Err(FileError::Denied),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a link of procfs is `/proc/self`, `/proc/thread-self`, `/proc/mounts` or `/proc/net`.
fn is_plain_on_proc(name: &[u8], text: &[u8]) -> bool {
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let mut parts = text.split(|byte| *byte == b'/');
    let parts = (parts.next().unwrap_or_default(), parts.next(), parts.next(), parts.next());
    match (name, parts) {
        (b"self", (pid, None, None, None)) => is_number(pid),
        (b"thread-self", (pid, Some(b"task"), Some(thread), None)) => is_number(pid) && is_number(thread),
        (b"mounts" | b"net", (b"self", Some(file), None, None)) => file == name,
        _ => false,
    }
}

/// Pushes the components of a path onto those that are still ahead, so that the path's first component is popped next.
/// A path that ends with a slash gets `.` at the end, because it must lead to a directory.
fn push(path: &OsStr, ahead: &mut Vec<CString>) {
    let path = path.as_bytes();
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let slash = (path.last() == Some(&b'/')).then_some(&b"."[..]);
    let mut parts: Vec<_> = parts.chain(slash).filter_map(|part| CString::new(part).ok()).collect();
    parts.reverse();
    ahead.append(&mut parts);
}

fn is_dots(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"." | b"..")
}

fn root(beneath: Option<&Root>) -> Result<OwnedFd, Errno> {
    match beneath {
        None => open(CWD, OsStr::new("/"), BARE | OFlags::DIRECTORY),
        Some(root) => open(root, OsStr::new("."), BARE | OFlags::DIRECTORY),
    }
}

fn open(at: impl AsFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    again(|| fs::openat(&at, name, flags, Mode::empty()))
}

fn openat2(at: impl AsFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    again(|| fs::openat2(&at, path, flags, Mode::empty(), resolve))
}

/// Repeats a call while the kernel asks for another try, as it does when something was renamed meanwhile.
fn again<T>(call: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut answer = call();
    for _ in 1..TRIES {
        match answer {
            Err(Errno::AGAIN | Errno::INTR) => answer = call(),
            other => return other,
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

    /// The number of the system call openat2, on every architecture.
    const OPENAT2: i64 = 437;

    /// Runs `work` on its own thread, on which the kernel answers openat2 with an error.
    fn where_openat2_answers<T: Send>(errno: Errno, work: impl FnOnce() -> T + Send) -> T {
        let filter = SeccompFilter::new(
            [(OPENAT2, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(errno.raw_os_error().unsigned_abs()),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let filter: BpfProgram = filter.unwrap().try_into().unwrap();
        std::thread::scope(|scope| {
            let filtered = scope.spawn(move || {
                apply_filter(&filter).unwrap();
                work()
            });
            filtered.join().unwrap()
        })
    }

    #[test]
    fn paths_are_resolved_stepwise_where_a_filter_answers_openat2() {
        for errno in [Errno::NOSYS, Errno::PERM] {
            where_openat2_answers(errno, || {
                assert_eq!(openat2(CWD, Path::new("/"), BARE, ResolveFlags::NO_MAGICLINKS).err(), Some(errno));
                assert_eq!(Resolver::probe(), Resolver::Stepwise);
                assert!(Resolver::probe().open(Path::new("/proc/self/status"), None).is_ok());
                assert_eq!(Resolver::probe().open(Path::new("/proc/self/cwd"), None).err(), Some(FileError::Denied));
            });
        }
    }

    #[test]
    fn only_four_links_of_procfs_are_plain() {
        for (name, text) in
            [("self", "1"), ("thread-self", "12/task/13"), ("mounts", "self/mounts"), ("net", "self/net")]
        {
            assert!(is_plain_on_proc(name.as_bytes(), text.as_bytes()), "{name}");
        }
        for (name, text) in [
            ("net", "net:[4026531840]"),
            ("self", ""),
            ("self", "1/root"),
            ("self", "/"),
            ("thread-self", "1/root/2"),
            ("thread-self", "1/task/2/cwd"),
            ("mounts", "self/net"),
            ("root", "/"),
            ("cwd", "1"),
            ("0", "1"),
            ("exe", "self/mounts"),
        ] {
            assert!(!is_plain_on_proc(name.as_bytes(), text.as_bytes()), "{name} {text}");
        }
    }
}
