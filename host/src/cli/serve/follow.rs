//! When files that the host reads may say something else. Each is taken by itself: none waits for another that keeps
//! changing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks. What is being written is read once a look finds it as the one before did.
const LOOK: Duration = Duration::from_millis(500);

/// Looks after which a file that keeps changing is read all the same: within 2 s of its change.
const MOST_LOOKS: u32 = 4;

/// Files that may be others at any time. They are looked at, not watched: links, renamed folders and network file systems
/// are all the same to a look.
#[derive(Debug, Clone)]
pub(super) struct Followed(Signatures);

type Signatures = BTreeMap<PathBuf, Option<Signature>>;

/// Another when a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    inode: u64,
    size: u64,
    written_ns: i128,
    /// Also its permissions'.
    changed_ns: i128,
}

/// A file that is not as it was read.
struct Changing {
    now: Option<Signature>,
    /// How many found it so, or changing.
    looks: u32,
}

impl Followed {
    /// As they are now.
    pub(super) async fn of(files: Vec<PathBuf>) -> Self {
        Self(look(files).await)
    }

    /// Waits until one of them is another, and has been for a while, or keeps changing.
    pub(super) async fn changed(&self) {
        let mut changing: BTreeMap<PathBuf, Changing> = BTreeMap::new();
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
                changing.insert(file, Changing { now, looks });
            }
        }
    }

    /// Takes them for read as they are now: what changes from here on is another.
    pub(super) async fn look_again(&mut self) {
        self.0 = look(self.0.keys().cloned().collect()).await;
    }

    /// Follows these from now on. Those that were followed before are still as they were looked at then, but for those that
    /// were `made` since, if they were.
    pub(super) async fn follow(&mut self, files: Vec<PathBuf>, made: bool) {
        let mut now = look(files).await;
        for (file, signature) in &mut now {
            match self.0.remove(file) {
                None => {}
                Some(None) if made => {}
                Some(known) => *signature = known,
            }
        }
        self.0 = now;
    }
}

/// Off the server's threads: a disk may answer late.
async fn look(files: Vec<PathBuf>) -> Signatures {
    let looked = tokio::task::spawn_blocking(move || {
        let signature = |file: &PathBuf| {
            let found = fs::metadata(file).ok()?;
            let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
            Some(Signature {
                inode: found.ino(),
                size: found.len(),
                written_ns: ns(found.mtime(), found.mtime_nsec()),
                changed_ns: ns(found.ctime(), found.ctime_nsec()),
            })
        };
        files.into_iter().map(|file| (file.clone(), signature(&file))).collect()
    });
    looked.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_written_replaced_or_made_is_another_once_it_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let mut followed = Followed::of(vec![file.clone(), other.clone()]).await;
        let unchanged = tokio::time::timeout(LOOK * 5, followed.changed()).await;
        assert!(unchanged.is_err());
        for change in [&|| fs::write(&file, "12").unwrap() as _, &|| fs::write(&other, "").unwrap(), &|| {
            fs::rename(&other, &file).unwrap()
        }] as [&dyn Fn(); 3]
        {
            change();
            followed.changed().await;
            followed.look_again().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_keeps_changing_is_read_within_two_seconds_and_holds_no_other_back() {
        let folder = tempfile::tempdir().unwrap();
        let (restless, other) = (folder.path().join("a"), folder.path().join("b"));
        for has_other in [false, true] {
            fs::write(&restless, "").unwrap();
            fs::write(&other, "").unwrap();
            let followed = Followed::of(vec![restless.clone(), other.clone()]).await;
            if has_other {
                fs::write(&other, "1").unwrap();
            }
            let began = tokio::time::Instant::now();
            let mut size = 0;
            let mut changed = std::pin::pin!(followed.changed());
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
    async fn what_changes_while_it_is_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let mut followed = Followed::of(vec![file.clone()]).await;
        fs::write(&file, "12").unwrap();
        followed.follow(vec![file, other], true).await;
        followed.changed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_host_makes_itself_is_no_news_and_what_it_lacked_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        for made in [true, false] {
            let mut followed = Followed::of(vec![file.clone()]).await;
            fs::write(&file, "made").unwrap();
            followed.follow(vec![file.clone()], made).await;
            let changed = tokio::time::timeout(LOOK * 5, followed.changed()).await;
            assert_eq!(changed.is_err(), made);
            fs::remove_file(&file).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_permissions_are_another_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "x").unwrap();
        let followed = Followed::of(vec![file.clone()]).await;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        followed.changed().await;
    }
}
