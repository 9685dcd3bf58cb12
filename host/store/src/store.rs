mod notes;
mod series;
#[cfg(test)]
mod tests;

pub(crate) use notes::NoteChanges;
pub use notes::OpenedFolder;
use notes::StoredNotes;

use crate::archive::{FrameKey, NoteValues};
use crate::frame::{AHEAD_MS, StoreResources};
use crate::keeper::ArchiveStatus;
use crate::merged::{column, fill, without_empty};
use crate::series::SeriesIndex;
use crate::{FieldPoints, Frame, InstanceId, Points, Pool, Query, Sample, Schema, ShareUsedUp, StoredField};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// History by instance. Reads and writes of different instances never wait for each other. Clones are cheap and share
/// one store.
#[derive(Debug, Clone)]
pub struct Store(Arc<StoreInner>);

#[derive(Debug)]
struct StoreInner {
    shared: Arc<StoreResources>,
    instances: RwLock<HashMap<InstanceId, Arc<RwLock<Frames>>>>,
    /// Number of the next frame. Numbers tell a frame from removed frames with the same key.
    next_born: AtomicU64,
    /// Increases whenever frames of samplers are added or removed.
    revision: AtomicU64,
    /// Increases whenever labelled series or their frames are added or removed.
    series_revision: AtomicU64,
    /// Labelled series and their frames.
    series: RwLock<SeriesIndex>,
    kept: Mutex<StoredNotes>,
    status: Mutex<ArchiveStatus>,
    /// The usage at the keeper's last check.
    usage: Mutex<StoreUsage>,
    /// The trusted time of the keeper's last retention run; `i64::MIN` before the first.
    trusted_ms: AtomicI64,
}

/// An instance's frames, sorted by sampler name. If two frames have the same field, the first one's value is used.
type Frames = Vec<Arc<Frame>>;

/// Limits on stored history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLimits {
    /// Maximum number of rows per frame that are in memory alone: all rows if there are no files, else rows that could
    /// not be written. 60 480 rows are a week at 10 s.
    pub samples: usize,
    /// Maximum age of a block's last row, in milliseconds. Older blocks are deleted.
    pub age_ms: i64,
    /// Maximum size of all files, in bytes. Beyond it the oldest blocks are evicted.
    pub disk: u64,
    /// Size of the cache of unpacked blocks, in bytes. It serves repeated queries.
    pub block_cache: u64,
    /// Memory for history, in bytes. Samplers share it by the rule of [`Pool`]. Half is for the newest rows: beyond it
    /// rows are refused. Half is for sealed blocks: beyond it the oldest blocks are evicted.
    pub memory: u64,
    /// Maximum number of labelled series. Their owners share it by the rule of [`Pool`].
    pub series: u64,
}

/// Stored history and its memory usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreUsage {
    pub frames: usize,
    pub rows: u64,
    /// Sealed blocks.
    pub blocks: u64,
    /// Bytes of compressed rows that are in memory.
    pub block_bytes: u64,
    /// Bytes of cells in memory. Queries of long windows use them.
    pub cell_bytes: u64,
    /// Cache lookups that found an unpacked block.
    pub cache_hits: u64,
    /// Cache lookups that did not.
    pub cache_misses: u64,
    pub cache_bytes: u64,
    /// Failed attempts to read a block.
    pub unreadable: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            samples: 60_480,
            age_ms: i64::MAX,
            disk: u64::MAX,
            block_cache: 64 << 20,
            memory: u64::MAX,
            series: 1_000_000,
        }
    }
}

impl Store {
    /// Creates a store that keeps history in memory alone.
    pub fn in_memory(limits: &StoreLimits) -> Self {
        Self::with(Arc::new(StoreResources::new(limits, false)), Vec::new(), 0, NoteValues::new())
    }

    fn with(shared: Arc<StoreResources>, frames: Vec<Arc<Frame>>, next_born: u64, values: NoteValues) -> Self {
        let status = ArchiveStatus { on: shared.archived, ..ArchiveStatus::default() };
        let mut instances: HashMap<InstanceId, Frames> = HashMap::new();
        let (labelled, frames): (Vec<_>, Vec<_>) =
            frames.into_iter().partition(|frame| frame.schema().labels().is_some());
        for frame in frames {
            instances.entry(frame.key().instance.clone()).or_default().push(frame);
        }
        let sorted = |mut frames: Frames| {
            frames.sort_by_key(|frame| (frame.schema().sampler().clone(), frame.key().born));
            Arc::new(RwLock::new(frames))
        };
        let instances = instances.into_iter().map(|(instance, frames)| (instance, sorted(frames))).collect();
        let store = Self(Arc::new(StoreInner {
            shared,
            instances: RwLock::new(instances),
            next_born: AtomicU64::new(next_born),
            revision: AtomicU64::new(0),
            series_revision: AtomicU64::new(0),
            series: RwLock::default(),
            kept: Mutex::new(StoredNotes { values, ..StoredNotes::default() }),
            status: Mutex::new(status),
            usage: Mutex::default(),
            trusted_ms: AtomicI64::new(i64::MIN),
        }));
        store.adopt_series(labelled);
        store
    }

    /// Returns the frame for a sampler's readings of an instance. Makes the frame if there is none with this schema and
    /// interval. After [`Store::remove`] the frame no longer belongs to the instance.
    pub fn frame(&self, instance: &InstanceId, schema: &Schema, interval_ms: i64) -> Arc<Frame> {
        self.frame_of(schema.sampler(), instance, schema, interval_ms)
    }

    /// Returns the frame, or makes one that counts towards the share of `owner`.
    fn frame_of(&self, owner: &Arc<str>, instance: &InstanceId, schema: &Schema, interval_ms: i64) -> Arc<Frame> {
        // The lock keeps the instance from being removed meanwhile.
        let mut instances = self.0.instances.write().unwrap_or_else(PoisonError::into_inner);
        let mut frames = instances.entry(instance.clone()).or_default().write().unwrap_or_else(PoisonError::into_inner);
        let same = |frame: &&Arc<Frame>| frame.schema() == schema && frame.interval_ms() == interval_ms;
        if let Some(frame) = frames.iter().find(same) {
            return frame.clone();
        }
        let born = self.0.next_born.fetch_add(1, Ordering::Relaxed);
        let (instance, schema, owner) = (instance.clone(), schema.clone(), owner.clone());
        let frame =
            Arc::new(Frame::new(FrameKey { instance, schema, interval_ms, born, owner }, self.0.shared.clone()));
        frames.push(frame.clone());
        self.0.revision.fetch_add(1, Ordering::Release);
        // The sort is stable: of two frames of one sampler the newer one stays behind the older.
        frames.sort_by(|a, b| a.schema().sampler().cmp(b.schema().sampler()));
        frame
    }

    /// Returns the frame like [`Store::frame`], or makes one if its owner has room for it: the memory for the first
    /// rows is taken at once. A frame that exists keeps its owner.
    pub fn frame_if_room(
        &self,
        owner: &Arc<str>,
        instance: &InstanceId,
        schema: &Schema,
        interval_ms: i64,
    ) -> Result<Arc<Frame>, ShareUsedUp> {
        let same = |frame: &Arc<Frame>| frame.schema() == schema && frame.interval_ms() == interval_ms;
        if let Some(frame) = self.frames(instance).into_iter().find(same) {
            return Ok(frame);
        }
        let bytes = Frame::first_bytes(schema, interval_ms);
        self.0.shared.heads.take(owner, bytes)?;
        let frame = self.frame_of(owner, instance, schema, interval_ms);
        frame.has_taken(bytes);
        Ok(frame)
    }

    /// Seals up to `most` blocks whose time is over. Returns how many it sealed.
    pub fn seal(&self, now_ms: i64, most: usize) -> usize {
        Self::seal_in(&self.all_frames(), now_ms, most)
    }

    /// Seals up to `most` blocks of some frames, one of a frame at most.
    pub(crate) fn seal_in(frames: &[Arc<Frame>], now_ms: i64, most: usize) -> usize {
        let seal = |frame: &Arc<Frame>| {
            let open = frame.to_seal(now_ms)?;
            frame.replace(frame.seal(&open)?).then_some(())
        };
        frames.iter().filter_map(seal).take(most).count()
    }

    /// Returns the frames of an instance; none if the instance was never measured.
    pub fn frames(&self, instance: &InstanceId) -> Vec<Arc<Frame>> {
        let frames = self.0.instances.read().unwrap_or_else(PoisonError::into_inner).get(instance).cloned();
        frames.map(|frames| frames.read().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// Returns a number that changes whenever frames of samplers are added or removed.
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Acquire)
    }

    /// Returns the time of the instance's row that was written last.
    pub fn latest_at_ms(&self, instance: &InstanceId) -> Option<i64> {
        self.frames(instance).iter().filter_map(|frame| self.written(frame)).max().map(|(.., at_ms)| at_ms)
    }

    /// Returns whether [`latest`](Self::latest) waits for no disk.
    pub fn is_latest_in_memory(&self, instance: &InstanceId) -> bool {
        self.frames(instance).iter().all(|frame| frame.is_latest_in_memory())
    }

    /// Returns the latest sample of an instance, merged from its frames. Its time is that of the frame that was written
    /// to last. Frames whose latest row is more than three times their pace away from that time are left out. So are
    /// frames that a sampler recorded before its fields or its interval changed.
    pub fn latest(&self, instance: &InstanceId) -> Option<Sample> {
        let frames = self.frames(instance);
        let (.., at_ms) = frames.iter().filter_map(|frame| self.written(frame)).max()?;
        let is_fresh = |frame: &&Arc<Frame>| {
            // This check comes first, because the row of an old frame may be in a file.
            let limit_ms = frame.stale_after_ms();
            frame.latest_at_ms().is_some_and(|latest| at_ms.saturating_sub(latest).saturating_abs() <= limit_ms)
        };
        let is_current = |frame: &&Arc<Frame>| {
            let newer = |other: &Arc<Frame>| self.written(other) > self.written(frame);
            !frames.iter().any(|other| other.schema().sampler() == frame.schema().sampler() && newer(other))
        };
        let mut values: Vec<(Arc<str>, f64)> = Vec::new();
        for frame in frames.iter().filter(is_fresh).filter(is_current) {
            let Some(row) = frame.latest() else { continue };
            // The fields of one frame have different names.
            let of_others: HashSet<Arc<str>> = values.iter().map(|(name, _)| name.clone()).collect();
            for (StoredField { name, .. }, &value) in frame.schema().fields().iter().zip(&row.values) {
                if !value.is_nan() && !of_others.contains(name) {
                    values.push((name.clone(), value));
                }
            }
        }
        Some(Sample { at_ms, values })
    }

    /// Returns a key that orders frames by their last write, with the time of that row. For rows from before the start
    /// only their times tell the order; times in the future sort first.
    fn written(&self, frame: &Arc<Frame>) -> Option<(u64, bool, i64)> {
        let at_ms = frame.latest_at_ms()?;
        let has_come = self.trusted_ms().is_none_or(|trusted_ms| at_ms <= trusted_ms.saturating_add(AHEAD_MS));
        Some((frame.last_write(), has_come, at_ms))
    }

    /// Returns the buckets of a window that have a value, merged from the instance's frames.
    pub fn range(&self, instance: &InstanceId, query: &Query) -> Points {
        let frames = self.frames(instance);
        let buckets: Vec<_> = frames.iter().map(|frame| (frame, frame.buckets(query))).collect();
        let at_ms = match &buckets[..] {
            [(_, only)] => only.at_ms.clone(),
            several => {
                let mut all: Vec<i64> = several.iter().flat_map(|(_, buckets)| buckets.at_ms.iter().copied()).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        };
        let mut columns: Vec<FieldPoints> = Vec::new();
        for (frame, buckets) in &buckets {
            for (nth, &index) in buckets.fields.iter().enumerate() {
                let cells = buckets.cells.iter().skip(nth).step_by(buckets.fields.len());
                let Some(own) = column(frame, index, cells) else { continue };
                match columns.iter_mut().find(|column| column.name == own.name) {
                    Some(column) => fill(column, &at_ms, &buckets.at_ms, &own),
                    None if buckets.at_ms.len() == at_ms.len() => columns.push(own),
                    None => {
                        let empty = || vec![f64::NAN; at_ms.len()];
                        let name = own.name.clone();
                        let mut column = FieldPoints { name, values: empty(), min: empty(), max: empty() };
                        fill(&mut column, &at_ms, &buckets.at_ms, &own);
                        columns.push(column);
                    }
                }
            }
        }
        without_empty(Points { at_ms, columns })
    }

    /// Removes an instance and its history.
    pub fn remove(&self, instance: &InstanceId) {
        let mut instances = self.0.instances.write().unwrap_or_else(PoisonError::into_inner);
        let Some(frames) = instances.remove(instance) else { return };
        drop(instances);
        self.removed(&frames.read().unwrap_or_else(PoisonError::into_inner));
    }

    /// Removes the history that one sampler recorded for an instance.
    pub fn remove_of(&self, instance: &InstanceId, sampler: &str) {
        let frames = self.0.instances.read().unwrap_or_else(PoisonError::into_inner).get(instance).cloned();
        let Some(frames) = frames else { return };
        let mut frames = frames.write().unwrap_or_else(PoisonError::into_inner);
        let is_of = |frame: &mut Arc<Frame>| &**frame.schema().sampler() == sampler;
        let removed: Vec<_> = frames.extract_if(.., is_of).collect();
        drop(frames);
        self.removed(&removed);
    }

    fn removed(&self, frames: &[Arc<Frame>]) {
        self.0.revision.fetch_add(1, Ordering::Release);
        self.note_removed(frames);
    }

    /// Notes that frames were removed, so that their rows in files no longer count.
    fn note_removed(&self, frames: &[Arc<Frame>]) {
        if self.0.shared.archived {
            let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.removed.extend(frames.iter().map(|frame| frame.key().born));
        }
    }

    /// Returns the ids of instances that have rows, sorted.
    pub fn instances(&self) -> Vec<InstanceId> {
        let instances = self.0.instances.read().unwrap_or_else(PoisonError::into_inner);
        let has_rows = |frames: &Arc<RwLock<Frames>>| {
            frames.read().unwrap_or_else(PoisonError::into_inner).iter().any(|frame| !frame.is_empty())
        };
        let mut ids: Vec<_> =
            instances.iter().filter(|(_, frames)| has_rows(frames)).map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the pool of memory for the newest rows, in bytes.
    pub fn heads(&self) -> &Pool {
        &self.0.shared.heads
    }

    /// Returns the pool of memory for sealed blocks, in bytes.
    pub fn sealed(&self) -> &Pool {
        &self.0.shared.sealed
    }

    /// Returns the pool of disk space for all files, in bytes.
    pub fn disk(&self) -> &Pool {
        &self.0.shared.disk
    }

    /// Returns the pool of disk space for the log, in bytes. The log holds rows whose block is not full yet.
    pub fn log(&self) -> &Pool {
        &self.0.shared.log
    }

    /// Returns the state of the archive.
    pub fn archive(&self) -> ArchiveStatus {
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.lost_rows = self.0.shared.lost_rows.load(Ordering::Relaxed);
        status
    }

    /// Returns the usage at the keeper's last check, at most half a minute ago. Cache figures and read errors are
    /// current.
    pub fn recent_usage(&self) -> StoreUsage {
        let mut usage = self.0.usage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (usage.cache_hits, usage.cache_misses, usage.cache_bytes) = self.0.shared.cache.usage();
        usage.unreadable = self.0.shared.unreadable.load(Ordering::Relaxed);
        usage
    }

    /// Returns the trusted time, at most half a minute old; none before the keeper has begun. It does not follow a
    /// clock that has jumped until that clock has run steadily for a while.
    pub fn trusted_ms(&self) -> Option<i64> {
        Some(self.0.trusted_ms.load(Ordering::Relaxed)).filter(|trusted| *trusted != i64::MIN)
    }

    pub(crate) fn set_trusted_ms(&self, now_ms: i64) {
        self.0.trusted_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn update_usage(&self) {
        let usage = self.usage();
        *self.0.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }

    /// Counts stored history and its memory usage. It visits every block.
    pub fn usage(&self) -> StoreUsage {
        let frames = self.all_frames();
        let mut usage = StoreUsage { frames: frames.len(), ..StoreUsage::default() };
        frames.iter().for_each(|frame| frame.add_usage(&mut usage));
        (usage.cache_hits, usage.cache_misses, usage.cache_bytes) = self.0.shared.cache.usage();
        usage.unreadable = self.0.shared.unreadable.load(Ordering::Relaxed);
        usage
    }

    /// Returns the time of the oldest row. It visits every frame.
    pub fn first_ms(&self) -> Option<i64> {
        self.all_frames().iter().filter_map(|frame| Some(frame.span_ms()?.0)).min()
    }

    pub(crate) fn all_frames(&self) -> Vec<Arc<Frame>> {
        let instances = self.0.instances.read().unwrap_or_else(PoisonError::into_inner);
        let frames: Vec<_> = instances.values().cloned().collect();
        drop(instances);
        let mut all = self.labelled_frames();
        for frames in frames {
            all.extend_from_slice(&frames.read().unwrap_or_else(PoisonError::into_inner));
        }
        all
    }

    /// Returns the number of instances.
    pub fn len(&self) -> usize {
        self.0.instances.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Functions for the keeper.
impl Store {
    pub(crate) fn restored(
        shared: Arc<StoreResources>,
        frames: Vec<Arc<Frame>>,
        next_born: u64,
        values: NoteValues,
    ) -> Self {
        Self::with(shared, frames, next_born, values)
    }

    pub(crate) fn shared(&self) -> &Arc<StoreResources> {
        &self.0.shared
    }

    pub(crate) fn update_status(&self, change: impl FnOnce(&mut ArchiveStatus)) {
        change(&mut self.0.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
