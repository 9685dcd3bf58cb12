use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks. What is being written is read once a look finds it as the one before did.
const LOOK: Duration = Duration::from_secs(1);

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
}

impl Followed {
    /// As they are now.
    pub(super) async fn of(files: Vec<PathBuf>) -> Self {
        Self(look(files).await)
    }

    /// Waits until one of them is another, and has been for a while.
    pub(super) async fn changed(&self) {
        let mut before = self.0.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look(self.0.keys().cloned().collect()).await;
            if now == before && now != self.0 {
                return;
            }
            before = now;
        }
    }

    /// Takes them for read as they are now: what changes from here on is another.
    pub(super) async fn look_again(&mut self) {
        self.0 = look(self.0.keys().cloned().collect()).await;
    }

    /// Follows these from now on. Those that were followed before are still as they were looked at then.
    pub(super) async fn follow(&mut self, files: Vec<PathBuf>) {
        let mut now = look(files).await;
        now.iter_mut().for_each(|(file, signature)| {
            if let Some(known) = self.0.remove(file) {
                *signature = known;
            }
        });
        self.0 = now;
    }
}

/// Off the server's threads: a disk may answer late.
async fn look(files: Vec<PathBuf>) -> Signatures {
    let looked = tokio::task::spawn_blocking(move || {
        let signature = |file: &PathBuf| {
            let found = fs::metadata(file).ok()?;
            let written_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
            Some(Signature { inode: found.ino(), size: found.len(), written_ns })
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
    async fn what_changes_while_it_is_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let mut followed = Followed::of(vec![file.clone()]).await;
        fs::write(&file, "12").unwrap();
        followed.follow(vec![file, other]).await;
        followed.changed().await;
    }
}
