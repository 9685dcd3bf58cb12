//! Notices changes of the files that the host reads. Each file is debounced by itself: a file that keeps changing does
//! not delay another.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Time between two checks. A changed file is read once two checks find it the same.
const LOOK: Duration = Duration::from_millis(500);

/// Checks after which a file that keeps changing is read anyway: within 2 s of its first change.
const MOST_LOOKS: u32 = 4;

/// Files that can change at any time. They are polled, not watched by the kernel: polling also notices changes behind
/// symlinks, in renamed folders and on network file systems.
#[derive(Debug, Clone)]
pub(super) struct FileWatcher(FileFingerprints);

type FileFingerprints = BTreeMap<PathBuf, Option<FileFingerprint>>;

/// Metadata that differs once a file has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileFingerprint {
    inode: u64,
    size: u64,
    written_ns: i128,
    /// The time of the last change, also of permissions.
    changed_ns: i128,
}

/// A file that has changed since it was read.
struct ChangingFile {
    now: Option<FileFingerprint>,
    /// The number of checks since the change.
    looks: u32,
}

impl FileWatcher {
    /// Follows files, starting from their present state.
    pub(super) async fn of(files: Vec<PathBuf>) -> Self {
        Self(look(files).await)
    }

    /// Waits until a file has changed and then stayed the same for one check, or keeps changing.
    pub(super) async fn changed(&self) {
        let mut changing: BTreeMap<PathBuf, ChangingFile> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK).await;
            for (file, now) in look(self.0.keys().cloned().collect()).await {
                if self.0.get(&file) == Some(&now) {
                    changing.remove(&file);
                    continue;
                }
                let looks = match changing.get(&file) {
                    Some(before) if before.now == now || before.looks + 1 >= MOST_LOOKS => return,
                    Some(before) => before.looks + 1,
                    None => 1,
                };
                changing.insert(file, ChangingFile { now, looks });
            }
        }
    }

    /// Takes the present state of the files as read: only later changes count.
    pub(super) async fn look_again(&mut self) {
        self.0 = look(self.0.keys().cloned().collect()).await;
    }

    /// Replaces the followed files. Files that were followed before keep their known state, so that a change since then
    /// counts. If `made`, files that did not exist then were created by the host, which does not count.
    pub(super) async fn follow(&mut self, files: Vec<PathBuf>, made: bool) {
        let mut now = look(files).await;
        for (file, fingerprint) in &mut now {
            match self.0.remove(file) {
                None => {}
                Some(None) if made => {}
                Some(known) => *fingerprint = known,
            }
        }
        self.0 = now;
    }
}

/// Reads the files' metadata on a thread of its own, because a disk may answer late.
async fn look(files: Vec<PathBuf>) -> FileFingerprints {
    let looked = tokio::task::spawn_blocking(move || {
        let fingerprint = |file: &PathBuf| {
            let found = fs::metadata(file).ok()?;
            let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
            Some(FileFingerprint {
                inode: found.ino(),
                size: found.len(),
                written_ns: ns(found.mtime(), found.mtime_nsec()),
                changed_ns: ns(found.ctime(), found.ctime_nsec()),
            })
        };
        files.into_iter().map(|file| (file.clone(), fingerprint(&file))).collect()
    });
    looked.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_written_created_or_replaced_file_is_reported_once_it_stops_changing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let mut watcher = FileWatcher::of(vec![file.clone(), other.clone()]).await;
        let unchanged = tokio::time::timeout(LOOK * 5, watcher.changed()).await;
        assert!(unchanged.is_err());
        for change in [&|| fs::write(&file, "12").unwrap() as _, &|| fs::write(&other, "").unwrap(), &|| {
            fs::rename(&other, &file).unwrap()
        }] as [&dyn Fn(); 3]
        {
            change();
            watcher.changed().await;
            watcher.look_again().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_keeps_changing_is_reported_within_two_seconds_and_delays_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (restless, other) = (folder.path().join("a"), folder.path().join("b"));
        for has_other in [false, true] {
            fs::write(&restless, "").unwrap();
            fs::write(&other, "").unwrap();
            let watcher = FileWatcher::of(vec![restless.clone(), other.clone()]).await;
            if has_other {
                fs::write(&other, "1").unwrap();
            }
            let began = tokio::time::Instant::now();
            let mut size = 0;
            let mut changed = std::pin::pin!(watcher.changed());
            loop {
                size += 1;
                fs::write(&restless, "x".repeat(size)).unwrap();
                if tokio::time::timeout(LOOK / 5, &mut changed).await.is_ok() {
                    break;
                }
            }
            let most = if has_other { LOOK * 2 } else { LOOK * MOST_LOOKS };
            assert!(began.elapsed() <= most + LOOK / 5, "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_before_the_files_are_followed_again_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let mut watcher = FileWatcher::of(vec![file.clone()]).await;
        fs::write(&file, "12").unwrap();
        watcher.follow(vec![file, other], true).await;
        watcher.changed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn files_created_by_the_host_are_not_reported_and_files_created_by_others_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        for made in [true, false] {
            let mut watcher = FileWatcher::of(vec![file.clone()]).await;
            fs::write(&file, "made").unwrap();
            watcher.follow(vec![file.clone()], made).await;
            let changed = tokio::time::timeout(LOOK * 5, watcher.changed()).await;
            assert_eq!(changed.is_err(), made);
            fs::remove_file(&file).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changed_permissions_are_reported() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "x").unwrap();
        let watcher = FileWatcher::of(vec![file.clone()]).await;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        watcher.changed().await;
    }
}
