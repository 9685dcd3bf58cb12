//! Replaces a file atomically: its name always leads to a complete file, old or new, also after an error or a power
//! failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// File mode for this user alone.
pub const PRIVATE: u32 = 0o600;

/// File mode for everybody, reduced by the umask.
pub const SHARED: u32 = 0o666;

/// The extension of a file that is being written: `NAME.PID-N.half`. A process that is killed leaves such a file
/// behind.
const HALF: &str = "half";

/// The steps of a replacement, in this order. After a power failure before the last step, the old file may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    SyncFile,
    Name,
    SyncFolder,
}

/// Writes a file next to `path`, syncs it, renames it to `path` and syncs the folder. `mode` is reduced by the umask.
///
/// After an error the old file is in place. Only if the folder could not be synced, the new one is.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, mode, |half| fs::rename(half, path), |_| Ok(()))
}

/// Creates a folder for this user alone. Does not create its parent, which may be a disk that is not mounted now.
pub fn make_inside(folder: &Path) -> io::Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    made.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

/// Creates a file in the same way. If there is one already, it stays, and the error is [`ErrorKind::AlreadyExists`].
pub fn create_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = |half: &Path| {
        // A hard link fails if the name exists, so the first writer wins.
        let linked = fs::hard_link(half, path);
        // If this fails, the leftover file does no harm.
        let _ = fs::remove_file(half);
        linked
    };
    put(path, bytes, mode, name, |_| Ok(()))
}

/// Removes the half-written files that killed processes left next to a file. Call it only if no other process writes
/// that file.
pub fn remove_abandoned(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if is_half_of(name.as_bytes(), entry.file_name().as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns whether a name is `NAME.PID-N.half`.
fn is_half_of(name: &[u8], found: &[u8]) -> bool {
    let unique = found.strip_prefix(name).and_then(|rest| rest.strip_prefix(b".")).and_then(|rest| {
        let rest = std::str::from_utf8(rest).ok()?.strip_suffix(HALF)?.strip_suffix('.')?;
        rest.split_once('-')
    });
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    unique.is_some_and(|(pid, nth)| is_number(pid) && is_number(nth))
}

fn put(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    name: impl FnOnce(&Path) -> io::Result<()>,
    before: impl Fn(Step) -> io::Result<()>,
) -> io::Result<()> {
    let half = half(path)?;
    let written = (|| {
        before(Step::Create)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&half)?;
        before(Step::Write)?;
        file.write_all(bytes)?;
        before(Step::SyncFile)?;
        file.sync_all()?;
        before(Step::Name)?;
        name(&half)
    })();
    if written.is_err() {
        // Do not leave a half-written file behind.
        let _ = fs::remove_file(&half);
    }
    written?;
    before(Step::SyncFolder)?;
    sync_folder(path)
}

/// Returns a unique name next to a file: several threads and processes may replace the same file.
fn half(path: &Path) -> io::Result<PathBuf> {
    static HALVES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    let mut name = name.to_owned();
    name.push(format!(".{}-{}.{HALF}", std::process::id(), HALVES.fetch_add(1, Relaxed)));
    Ok(path.with_file_name(name))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot sync a folder.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn files(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_step_that_fails_leaves_the_old_file_whole_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        for failing in [Step::Create, Step::Write, Step::SyncFile, Step::Name] {
            let fail = |step| if step == failing { Err(io::Error::other("told to")) } else { Ok(()) };
            let error = put(&path, b"new", PRIVATE, |half| fs::rename(half, &path), fail).unwrap_err();
            assert_eq!(error.to_string(), "told to");
            assert_eq!(fs::read(&path).unwrap(), b"old", "{failing:?}");
            assert_eq!(files(folder.path()), ["file"], "{failing:?}");
        }
        let fail = |step| if step == Step::SyncFolder { Err(io::Error::other("told to")) } else { Ok(()) };
        put(&path, b"new", PRIVATE, |half| fs::rename(half, &path), fail).unwrap_err();
        assert_eq!((fs::read(&path).unwrap().as_slice(), files(folder.path()).len()), (&b"new"[..], 1));
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(replace_file(&path, b"new", PRIVATE).is_err());
        assert_eq!((files(folder.path()), files(&path)), (vec!["taken".to_owned()], vec!["inside".to_owned()]));
    }

    #[test]
    fn a_replaced_file_has_the_mode_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace_file(&path, b"new", PRIVATE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_created_file_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create_file(&path, b"first", PRIVATE).unwrap();
        let error = create_file(&path, b"second", PRIVATE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            (fs::read(&path).unwrap().as_slice(), files(folder.path())),
            (&b"first"[..], vec!["file".to_owned()])
        );
    }

    #[test]
    fn what_a_killed_process_left_of_a_file_is_removed_and_of_others_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "a.1-0.half", "a.2-17.half", "ab.1-0.half", "a.half"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_abandoned(&folder.path().join("a")).unwrap();
        assert_eq!(files(folder.path()), ["a", "a.half", "ab.1-0.half"]);
        remove_abandoned(&folder.path().join("no-such-folder/a")).unwrap();
    }

    #[test]
    fn many_threads_that_replace_a_file_leave_one_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::thread::scope(|scope| {
            for nth in 0..8_u8 {
                let path = &path;
                scope.spawn(move || replace_file(path, &vec![nth; 10_000], PRIVATE).unwrap());
            }
        });
        let left = fs::read(&path).unwrap();
        assert!(left.len() == 10_000 && left.iter().all(|byte| *byte == left[0]));
        assert_eq!(files(folder.path()), ["file"]);
    }
}
