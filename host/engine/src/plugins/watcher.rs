//! Watches the plugins folder for changes.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The longest time between two looks at the folder. Not every file system reports changes: some network file systems
/// never do, and symlinks lead elsewhere.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);

pub(super) struct FolderWatcher {
    folder: PathBuf,
    stirred: Arc<Notify>,
    /// The watch, and the inode of the folder when it began; `None` if there is no folder to watch.
    watched: Option<(RecommendedWatcher, u64)>,
}

impl FolderWatcher {
    pub(super) fn of(folder: &Path) -> Self {
        let mut watcher = Self { folder: folder.to_owned(), stirred: Arc::default(), watched: None };
        watcher.watch();
        watcher
    }

    /// Waits until it is time to look at the folder: something changed, `due` has come, or the last look was long ago.
    pub(super) async fn stirred(&mut self, due: Option<Instant>) {
        let anyway = Instant::now() + LOOK_ANYWAY;
        let until = due.map_or(anyway, |due| due.min(anyway));
        let _ = tokio::time::timeout_at(until.into(), self.stirred.notified()).await;
        self.watch();
    }

    /// Begins a watch if there is none of this folder. Without a watch, changes are seen a little later.
    fn watch(&mut self) {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(folder) = std::fs::metadata(&self.folder) else {
            self.watched = None;
            return;
        };
        if self.watched.as_ref().is_some_and(|(_, inode)| *inode == folder.ino()) {
            return;
        }
        let stirred = self.stirred.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reads are not changes, and the host itself reads.
            let is_read = event.is_ok_and(|event| event.kind.is_access() && !is_closed(&event));
            if !is_read {
                stirred.notify_one();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => self.watched = Some((watcher, folder.ino())),
            Err(error) => tracing::debug!(%error, "cannot watch the plugins folder; polling it instead"),
        }
    }
}

/// Returns whether a file that was written is closed.
fn is_closed(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}
