//! The room that files take: how much of it each sampler has, and which files go where there is too little.

use super::Archive;
use super::segment::Segment;
use crate::frame::Frame;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Files, and when the last of each was written.
type Files<'a> = Vec<(i64, &'a Arc<Segment>)>;

/// A file that goes, as there is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spared {
    pub(crate) number: u64,
    /// None: it holds blocks of several.
    pub(crate) owner: Option<Arc<str>>,
    /// When the last of it was written.
    pub(crate) by_ms: i64,
}

impl Archive {
    /// Which files go first where there is too much: of the sampler that has most on disk the one that was written first,
    /// and so on. The newest of each stays.
    pub(crate) fn to_spare(&self, frames: &[Arc<Frame>], trusted_ms: i64) -> Vec<Spared> {
        let mut written: HashMap<u64, i64> = HashMap::new();
        for (number, by_ms) in frames.iter().flat_map(|frame| frame.written(trusted_ms)) {
            let last = written.entry(number).or_insert(by_ms);
            *last = by_ms.max(*last);
        }
        // Of files nothing is left of, sweeping takes care.
        let mut owners: BTreeMap<Option<&Arc<str>>, Files<'_>> = BTreeMap::new();
        for segment in self.segments.values() {
            if let Some(by_ms) = written.get(&segment.number) {
                owners.entry(segment.owner()).or_default().push((*by_ms, segment));
            }
        }
        let mut size = self.size();
        let mut left: Vec<(u64, _)> = owners
            .into_values()
            .map(|mut files| {
                // Taken from the end.
                files.sort_unstable_by_key(|(by_ms, segment)| std::cmp::Reverse((*by_ms, segment.number)));
                (files.iter().map(|(_, segment)| segment.size()).sum(), files)
            })
            .collect();
        let mut spared = Vec::new();
        while size > self.shared.disk.total()
            && let Some((own, files)) = left.iter_mut().filter(|(_, files)| files.len() > 1).max_by_key(|(own, _)| *own)
            && let Some((by_ms, segment)) = files.pop()
        {
            *own -= segment.size();
            size -= segment.size();
            spared.push(Spared { number: segment.number, owner: segment.owner().cloned(), by_ms });
        }
        spared
    }

    /// Counts what each sampler has on disk.
    pub(crate) fn count(&self) {
        let mut used = BTreeMap::new();
        for (owner, segment) in self.segments.values().filter_map(|segment| Some((segment.owner()?, segment))) {
            *used.entry(owner.clone()).or_default() += segment.size();
        }
        for (owner, account) in self.shared.log.accounts() {
            *used.entry(owner).or_default() += account.used;
        }
        self.shared.disk.set_all(&used);
    }

    /// Adds no more to these files.
    pub(crate) fn end(&mut self, numbers: &HashSet<u64>) {
        self.writers.retain(|_, writer| !numbers.contains(&writer.segment.number));
    }
}
