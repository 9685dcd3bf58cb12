//! The disk space of files: how much each owner uses, and which files are evicted if there is too little.

use super::Archive;
use super::segment::Segment;
use crate::frame::Frame;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Files, each with the time its last rows were written.
type EvictableFiles<'a> = Vec<(i64, &'a Arc<Segment>)>;

/// A file to evict because the files are too large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EvictedFile {
    pub(crate) number: u64,
    /// The owner of the file's blocks; `None` if there are several.
    pub(crate) owner: Option<Arc<str>>,
    /// The time the file's last rows were written.
    pub(crate) by_ms: i64,
}

impl Archive {
    /// Returns the files to evict until the rest fits the disk limit. It repeatedly takes the owner with most bytes on
    /// disk and that owner's oldest file, by the time it was written. The newest file of each owner stays.
    pub(crate) fn to_evict(&self, frames: &[Arc<Frame>], trusted_ms: i64) -> Vec<EvictedFile> {
        let mut written: HashMap<u64, i64> = HashMap::new();
        for (number, by_ms) in frames.iter().flat_map(|frame| frame.written(trusted_ms)) {
            let last = written.entry(number).or_insert(by_ms);
            *last = by_ms.max(*last);
        }
        // Files without live blocks are left to `sweep`.
        let mut owners: BTreeMap<Option<&Arc<str>>, EvictableFiles<'_>> = BTreeMap::new();
        for segment in self.segments.values() {
            if let Some(by_ms) = written.get(&segment.number) {
                owners.entry(segment.owner()).or_default().push((*by_ms, segment));
            }
        }
        let mut size = self.size();
        let mut left: Vec<(u64, _)> = owners
            .into_values()
            .map(|mut files| {
                // Oldest last, because files are popped from the end.
                files.sort_unstable_by_key(|(by_ms, segment)| std::cmp::Reverse((*by_ms, segment.number)));
                (files.iter().map(|(_, segment)| segment.size()).sum(), files)
            })
            .collect();
        let mut evicted = Vec::new();
        while size > self.shared.disk.total()
            && let Some((own, files)) = left.iter_mut().filter(|(_, files)| files.len() > 1).max_by_key(|(own, _)| *own)
            && let Some((by_ms, segment)) = files.pop()
        {
            *own -= segment.size();
            size -= segment.size();
            evicted.push(EvictedFile { number: segment.number, owner: segment.owner().cloned(), by_ms });
        }
        evicted
    }

    /// Counts each owner's bytes on disk.
    pub(crate) fn update_disk_usage(&self) {
        let mut used = BTreeMap::new();
        for (owner, segment) in self.segments.values().filter_map(|segment| Some((segment.owner()?, segment))) {
            *used.entry(owner.clone()).or_default() += segment.size();
        }
        for (owner, account) in self.shared.log.accounts() {
            *used.entry(owner).or_default() += account.used;
        }
        self.shared.disk.set_all(&used);
    }

    /// Stops adding to these files.
    pub(crate) fn stop_writing_to(&mut self, numbers: &HashSet<u64>) {
        self.writers.retain(|_, writer| !numbers.contains(&writer.segment.number));
    }
}
