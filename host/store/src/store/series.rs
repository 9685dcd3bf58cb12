//! Labelled series of a store.

use super::Store;
use crate::archive::FrameKey;
use crate::series::{FoundSeries, GroupKey, LabelMatcher, PackedLabels, SeriesGroup, SeriesIndex, SeriesSelection};
use crate::{Frame, InstanceId, Pool, ShareUsedUp};
use dropsonde_model::{Labels, MetricType};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

impl Store {
    /// Returns what adds samples to the series of a group. It goes on with the series that were recorded with the same
    /// key before. Use one at a time for each key.
    pub fn series_group(&self, key: GroupKey) -> SeriesGroup {
        SeriesGroup::new(self.clone(), key)
    }

    /// Finds the labelled series that all matchers select and that have samples in a window.
    pub fn select(&self, matchers: &[LabelMatcher], window: Range<i64>) -> SeriesSelection {
        SeriesSelection::of(self.find_series(matchers), &window)
    }

    /// Finds the labelled series that all matchers select.
    pub fn find_series(&self, matchers: &[LabelMatcher]) -> Vec<FoundSeries> {
        let index = self.series_index();
        index.find(matchers).into_iter().filter_map(|number| index.series(number)).collect()
    }

    /// Returns the names of the labels of all series, in any order.
    pub fn label_names(&self) -> Vec<String> {
        self.series_index().label_names()
    }

    /// Returns the values that a label has among all series, in any order.
    pub fn label_values(&self, name: &str) -> Vec<String> {
        self.series_index().label_values(name)
    }

    /// Returns how many series all matchers select.
    pub fn count_series(&self, matchers: &[LabelMatcher]) -> usize {
        self.series_index().find(matchers).len()
    }

    /// Returns the number of series.
    pub fn series_count(&self) -> usize {
        self.series_index().len()
    }

    /// Returns a number that changes whenever labelled series or their frames are added or removed, or an earlier frame
    /// gets rows again.
    pub fn series_revision(&self) -> u64 {
        self.0.series_revision.load(Ordering::Acquire)
    }

    /// Returns the memory of the index of series, in bytes: that of the labels' texts, and that of the rest.
    pub fn series_memory(&self) -> (usize, usize) {
        self.series_index().memory()
    }

    /// Returns the pool of series. Owners share it by the rule of [`Pool`].
    pub fn series_pool(&self) -> &Pool {
        &self.0.shared.series
    }

    /// Removes the series about an instance, and their samples; those of one group, or all.
    pub fn remove_series(&self, instance: &InstanceId, group: Option<&str>) {
        // Most instances have none.
        if self.series_index().frames_of(instance).is_empty() {
            return;
        }
        let mut index = self.series_index_mut();
        let is_over = |frame: &&Arc<Frame>| group.is_none_or(|group| **frame.schema().sampler() == *group);
        let frames: Vec<_> = index.frames_of(instance).iter().filter(is_over).cloned().collect();
        frames.iter().for_each(|frame| index.remove(frame, self.series_pool()));
        drop(index);
        self.note_removed(&frames);
    }

    fn series_index(&self) -> RwLockReadGuard<'_, SeriesIndex> {
        self.0.series.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the index to change it.
    fn series_index_mut(&self) -> RwLockWriteGuard<'_, SeriesIndex> {
        let index = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        self.0.series_revision.fetch_add(1, Ordering::Release);
        index
    }
}

/// Functions for groups.
impl Store {
    /// Adds a frame for series, or for the first of them if the owner's share has no room for all.
    pub(crate) fn add_labelled_frame(
        &self,
        key: &GroupKey,
        columns: &[(Labels, MetricType)],
    ) -> Result<Arc<Frame>, ShareUsedUp> {
        let mut index = self.series_index_mut();
        let is_new = |(labels, _): &&(Labels, MetricType)| !index.has(labels);
        let pool = &self.0.shared.series;
        let mut new = columns.iter().filter(is_new).count() as u64;
        let mut columns = columns;
        if let Err(ShareUsedUp { used, limit }) = pool.take(&key.owner, new) {
            let room = limit.saturating_sub(used);
            let mut left = room;
            let fits = |column: &&(Labels, MetricType)| {
                !is_new(column) || left.checked_sub(1).inspect(|now| left = *now).is_some()
            };
            let count = columns.iter().take_while(fits).count();
            columns = columns.get(..count).unwrap_or_default();
            if columns.is_empty() {
                return Err(ShareUsedUp { used, limit });
            }
            new = room - left;
            pool.take(&key.owner, new)?;
        }
        let born = self.0.next_born.fetch_add(1, Ordering::Relaxed);
        let labels = PackedLabels::of(columns.iter().map(|(labels, metric_type)| (labels, *metric_type)));
        let key: FrameKey = key.frame(labels, born);
        let bytes = Frame::first_bytes(&key.schema, key.interval_ms);
        if let Err(refused) = self.0.shared.heads.take(&key.owner, bytes) {
            pool.give_back(&key.owner, new);
            return Err(refused);
        }
        let frame = Arc::new(Frame::new(key, self.0.shared.clone()));
        frame.has_taken(bytes);
        index.add(frame.clone(), true);
        Ok(frame)
    }

    /// Takes the frames of a group that no other uses and whose last row is not older than `since_ms`.
    pub(crate) fn take_frames(&self, key: &GroupKey, since_ms: i64) -> Vec<Arc<Frame>> {
        let index = self.series_index();
        let is_free = |frame: &&Arc<Frame>| key.is_of(frame) && !index.is_used(frame);
        let mut frames: Vec<_> = index.frames_of(&key.instance).iter().filter(is_free).cloned().collect();
        drop(index);
        // This may read files, so nobody waits for it.
        frames.retain(|frame| frame.latest_at_ms().is_some_and(|latest| latest >= since_ms));
        let mut index = self.series_index_mut();
        frames.iter().for_each(|frame| index.set_used(frame, true));
        frames
    }

    /// Tells that a group adds no more rows to a frame.
    pub(crate) fn release_frame(&self, frame: &Frame) {
        self.series_index_mut().set_used(frame, false);
    }
}

/// Functions for the keeper.
impl Store {
    /// Adds the labelled frames of a folder.
    pub(crate) fn adopt_series(&self, frames: Vec<Arc<Frame>>) {
        let mut index = self.series_index_mut();
        index.reserve(frames.iter().map(|frame| frame.schema().fields().len()).sum());
        for frame in frames {
            let (owner, before) = (frame.owner().clone(), index.len());
            index.add(frame, false);
            self.series_pool().take_anyway(&owner, (index.len() - before) as u64);
        }
    }

    pub(super) fn labelled_frames(&self) -> Vec<Arc<Frame>> {
        self.series_index().frames(|_, _| true)
    }

    /// Removes frames that no group uses and that have no rows any more, and the series that have no other.
    pub(crate) fn sweep_series(&self) {
        let is_over = |frame: &Arc<Frame>, is_used: bool| !is_used && frame.is_empty();
        if self.series_index().frames(is_over).is_empty() {
            return;
        }
        let mut index = self.series_index_mut();
        index.frames(is_over).iter().for_each(|frame| index.remove(frame, self.series_pool()));
    }
}
