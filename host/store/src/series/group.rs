//! Series that are read together: those of one scrape, of one plugin, of one group of rules. They share the times of
//! their samples.
//!
//! The columns of a frame never change, but series come and go. So a group has several frames: new series that appear
//! together get a frame of their own. When a block ends, frames that are small, or whose series are mostly gone, are
//! replaced by one frame of the series that are left.

use crate::archive::FrameKey;
use crate::series::PackedLabels;
use crate::{Frame, InstanceId, Layout, Schema, Store, ladder};
use dropsonde_model::{Labels, MetricType};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher as _;
use std::sync::Arc;

/// The most columns of one frame: reading one of them reads the block of all.
const WIDEST: usize = 256;

/// A frame with fewer live series than this is small.
const SMALL: usize = 64;

/// The longest label set of a series, in bytes.
const LONGEST_LABELS: usize = 16 << 10;

/// The identity of a group: its name, its instance, its owner and its interval.
#[derive(Debug, Clone)]
pub struct GroupKey {
    /// The instance that the series are about, or the name of the plugin that registered them.
    pub instance: InstanceId,
    /// The name of the group, such as that of the plugin or the sampler that the series come from.
    pub group: Arc<str>,
    /// The owner whose shares of memory, disk and series the group uses.
    pub owner: Arc<str>,
    pub interval_ms: i64,
}

/// Adds samples of series that are read together. There is one for each [`GroupKey`].
#[derive(Debug)]
pub struct SeriesGroup {
    store: Store,
    key: GroupKey,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots by labels.
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    frames: Vec<GroupFrame>,
    /// Slots without a column that got a value at this tick.
    waiting: Vec<(u32, f64)>,
    /// The number of the tick.
    tick: u32,
    /// The first tick of the current block.
    block_tick: u32,
    last_ms: Option<i64>,
}

/// A series of a group, valid until the series is gone for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesHandle {
    slot: u32,
    version: u32,
}

/// A series, or a free place for one.
#[derive(Debug)]
struct Slot {
    labels: Labels,
    metric_type: MetricType,
    /// The index of its frame, and its column there; `None` before its first sample.
    place: Option<(u32, u32)>,
    /// The last tick with a sample.
    seen: u32,
    /// Increases when the place is used for another series.
    version: u32,
}

#[derive(Debug)]
struct GroupFrame {
    frame: Arc<Frame>,
    /// The slot of each column; [`NO_SLOT`] if the series has another column.
    slots: Vec<u32>,
    /// The readings of this tick.
    row: Vec<f64>,
    /// Whether the last row has a value.
    is_live: bool,
}

const NO_SLOT: u32 = u32::MAX;

/// The result of adding a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TickReport {
    /// Samples that were added.
    pub samples: u64,
    /// Samples that were refused, because the owner's share of series or memory is used up.
    pub refused: u64,
    /// Samples whose handle is no longer valid.
    pub unknown: u64,
}

/// The error of a series whose labels are too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its labels have {0} bytes; at most {LONGEST_LABELS} are allowed")]
pub struct LabelsTooLong(usize);

impl SeriesGroup {
    pub(crate) fn new(store: Store, key: GroupKey) -> Self {
        Self {
            store,
            key,
            slots: Vec::new(),
            free: Vec::new(),
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            frames: Vec::new(),
            waiting: Vec::new(),
            tick: 0,
            block_tick: 0,
            last_ms: None,
        }
    }

    /// Returns the handle of the series with some labels; the name of its metric is the label `__name__`. The handle is
    /// valid as long as the series gets samples.
    pub fn series(&mut self, labels: &Labels, metric_type: MetricType) -> Result<SeriesHandle, LabelsTooLong> {
        if labels.as_text().len() > LONGEST_LABELS {
            return Err(LabelsTooLong(labels.as_text().len()));
        }
        let slot = match self.find(labels) {
            Some(known) => known,
            None => self.add_slot(labels.clone(), metric_type, None),
        };
        let tick = self.tick;
        let version = self.slots.get_mut(slot as usize).map_or(0, |slot| {
            // The next tick must not forget it.
            slot.seen = tick;
            slot.version
        });
        Ok(SeriesHandle { slot, version })
    }

    fn find(&self, labels: &Labels) -> Option<u32> {
        let is_it = |number: &u32| self.slots.get(*number as usize).is_some_and(|slot| slot.labels == *labels);
        self.numbers.find(self.hasher.hash_one(labels.as_text()), is_it).copied()
    }

    fn add_slot(&mut self, labels: Labels, metric_type: MetricType, place: Option<(u32, u32)>) -> u32 {
        let hash = self.hasher.hash_one(labels.as_text());
        let version = |slot: &Slot| slot.version.wrapping_add(1);
        let reused = self.free.pop().and_then(|number| Some((number, version(self.slots.get(number as usize)?))));
        let (number, version) = reused.unwrap_or((self.slots.len() as u32, 0));
        let slot = Slot { labels, metric_type, place, seen: self.tick, version };
        match self.slots.get_mut(number as usize) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        let Self { slots, numbers, hasher, .. } = self;
        numbers.insert_unique(hash, number, |number| {
            slots.get(*number as usize).map_or(0, |slot| hasher.hash_one(slot.labels.as_text()))
        });
        number
    }

    fn remove_slot(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        let hash = self.hasher.hash_one(slot.labels.as_text());
        if let Ok(entry) = self.numbers.find_entry(hash, |known| *known == number) {
            entry.remove();
        }
        (slot.labels, slot.place, slot.version) = (Labels::new(), None, slot.version.wrapping_add(1));
        self.free.push(number);
    }

    /// Adds a sample of each given series at one time. The other series of the group have no sample then, so they end
    /// there. A NaN or infinite value counts as no sample.
    pub fn push(&mut self, at_ms: i64, samples: &[(SeriesHandle, f64)]) -> TickReport {
        let retired = self.begin_tick(at_ms);
        let mut report = TickReport::default();
        for (handle, value) in samples.iter().filter(|(_, value)| value.is_finite()) {
            let Some(slot) = self.slots.get_mut(handle.slot as usize).filter(|slot| slot.version == handle.version)
            else {
                report.unknown += 1;
                continue;
            };
            slot.seen = self.tick;
            report.samples += 1;
            match slot.place {
                Some((frame, column)) => {
                    let row = self.frames.get_mut(frame as usize).map(|frame| &mut frame.row);
                    if let Some(place) = row.and_then(|row| row.get_mut(column as usize)) {
                        *place = *value;
                    }
                }
                None => self.waiting.push((handle.slot, *value)),
            }
        }
        let refused = self.place_waiting();
        for (frame, slots) in &retired {
            let has_ended = |number: &u32| self.slots.get(*number as usize).is_none_or(|slot| slot.seen != self.tick);
            // Whoever reads the frame must not take its last samples for current ones.
            if slots.iter().any(has_ended) {
                frame.push(at_ms, &vec![f64::NAN; frame.schema().fields().len()]);
            }
        }
        let refused = refused + self.end_tick(at_ms);
        report.samples -= refused.min(report.samples);
        report.refused = refused;
        report
    }

    /// Ends all series of the group: their samples are not current after this time.
    pub fn end(&mut self, at_ms: i64) {
        self.push(at_ms, &[]);
    }

    /// Begins a tick. At the end of a block it retires frames; it returns those, with the slots that were live in them.
    fn begin_tick(&mut self, at_ms: i64) -> Vec<(Arc<Frame>, Vec<u32>)> {
        let block_ms = Layout::of_labelled(self.key.interval_ms).block_ms;
        let last_ms = self.last_ms.replace(at_ms);
        if last_ms.is_none() {
            self.adopt(ladder::floor(at_ms, block_ms).saturating_sub(block_ms));
        }
        self.tick = self.tick.wrapping_add(1);
        if last_ms.is_none_or(|last_ms| ladder::floor(last_ms, block_ms) == ladder::floor(at_ms, block_ms)) {
            return Vec::new();
        }
        let retired = self.retire();
        self.block_tick = self.tick;
        retired
    }

    /// Goes on with the frames of an earlier group with the same key whose last row is not older than `since_ms`.
    fn adopt(&mut self, since_ms: i64) {
        let mut frames = self.store.take_frames(&self.key, since_ms);
        frames.sort_by_key(|frame| std::cmp::Reverse(frame.key().born));
        for frame in frames {
            self.add_frame(frame);
        }
    }

    /// Adds a frame whose series have no other column.
    fn add_frame(&mut self, frame: Arc<Frame>) {
        let number = self.frames.len() as u32;
        let mut slots = Vec::new();
        for (nth, (labels, metric_type)) in frame.schema().series().unwrap_or_default().into_iter().enumerate() {
            let place = Some((number, nth as u32));
            slots.push(match self.find(&labels) {
                None => self.add_slot(labels, metric_type, place),
                Some(known) => match self.slots.get_mut(known as usize).filter(|slot| slot.place.is_none()) {
                    Some(slot) => {
                        slot.place = place;
                        known
                    }
                    None => NO_SLOT,
                },
            });
        }
        let row = vec![f64::NAN; slots.len()];
        self.frames.push(GroupFrame { frame, slots, row, is_live: true });
    }

    /// Retires frames that are small or whose series are mostly gone. Their live series wait for a column in a new
    /// frame, the others are forgotten.
    fn retire(&mut self) -> Vec<(Arc<Frame>, Vec<u32>)> {
        self.forget_idle();
        let (slots, block_tick) = (&self.slots, self.block_tick);
        let is_live = |number: &u32| slots.get(*number as usize).is_some_and(|slot| slot.seen >= block_tick);
        let live = |frame: &GroupFrame| frame.slots.iter().filter(|number| is_live(number)).count();
        let small = self.frames.iter().filter(|frame| live(frame) < SMALL).count();
        let is_kept = |frame: &GroupFrame| {
            let live = live(frame);
            live * 2 >= frame.slots.len() && (live >= SMALL || small < 2)
        };
        if self.frames.iter().all(is_kept) {
            return Vec::new();
        }
        let (kept, over): (Vec<_>, Vec<_>) = std::mem::take(&mut self.frames).into_iter().partition(is_kept);
        let with_live = |frame: GroupFrame| {
            let live: Vec<u32> = frame.slots.iter().copied().filter(is_live).collect();
            (frame, live)
        };
        let over: Vec<_> = over.into_iter().map(with_live).collect();
        self.frames = kept;
        for (number, frame) in self.frames.iter().enumerate() {
            for slot in &frame.slots {
                if let Some((place, _)) = self.slots.get_mut(*slot as usize).and_then(|slot| slot.place.as_mut()) {
                    *place = number as u32;
                }
            }
        }
        let mut retired = Vec::with_capacity(over.len());
        for (GroupFrame { frame, slots, .. }, live) in over {
            for number in slots {
                match self.slots.get_mut(number as usize) {
                    Some(slot) if slot.seen >= block_tick => slot.place = None,
                    Some(_) => self.remove_slot(number),
                    None => {}
                }
            }
            self.store.release_frame(&frame);
            retired.push((frame, live));
        }
        retired
    }

    /// Forgets series that have no column and got no sample in this block.
    fn forget_idle(&mut self) {
        let is_idle = |slot: &Slot| slot.place.is_none() && slot.seen < self.block_tick && !slot.labels.is_empty();
        let idle: Vec<u32> =
            (0..).zip(&self.slots).filter(|(_, slot)| is_idle(slot)).map(|(number, _)| number).collect();
        idle.into_iter().for_each(|number| self.remove_slot(number));
    }

    /// Makes frames for the series that wait for a column. Returns how many samples were refused.
    fn place_waiting(&mut self) -> u64 {
        if self.waiting.is_empty() {
            return 0;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        let text = |number: &u32| self.slots.get(*number as usize).map(|slot| slot.labels.as_text());
        // Sorted label sets take less.
        waiting.sort_by(|(a, _), (b, _)| text(a).cmp(&text(b)));
        waiting.dedup_by_key(|(number, _)| *number);
        let mut refused = 0;
        for some in waiting.chunks(WIDEST) {
            let columns = some.iter().filter_map(|(number, _)| self.slots.get(*number as usize));
            let columns: Vec<_> = columns.map(|slot| (slot.labels.clone(), slot.metric_type)).collect();
            let frame = self.store.add_labelled_frame(&self.key, &columns);
            let added = frame.as_ref().map_or(0, |frame| frame.schema().fields().len());
            refused += (some.len() - added) as u64;
            if let Ok(frame) = frame {
                self.add_frame(frame);
                let row = self.frames.last_mut().into_iter().flat_map(|frame| &mut frame.row);
                row.zip(some).for_each(|(place, (_, value))| *place = *value);
            }
        }
        refused
    }

    /// Adds the readings of this tick to the frames. Returns how many samples were refused.
    fn end_tick(&mut self, at_ms: i64) -> u64 {
        let mut refused = 0;
        for GroupFrame { frame, row, is_live, .. } in &mut self.frames {
            let has_value = row.iter().any(|value| !value.is_nan());
            // One row without values tells that the series have ended.
            if (has_value || *is_live) && !frame.push(at_ms, row) {
                refused += row.iter().filter(|value| !value.is_nan()).count() as u64;
            }
            *is_live = has_value;
            row.fill(f64::NAN);
        }
        refused
    }

    /// Returns the number of series that have or had samples.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for SeriesGroup {
    fn drop(&mut self) {
        self.frames.iter().for_each(|frame| self.store.release_frame(&frame.frame));
    }
}

impl GroupKey {
    pub(crate) fn frame(&self, labels: PackedLabels, born: u64) -> FrameKey {
        FrameKey {
            instance: self.instance.clone(),
            schema: Schema::labelled(self.group.clone(), labels),
            interval_ms: self.interval_ms,
            born,
            owner: self.owner.clone(),
        }
    }

    pub(crate) fn is_of(&self, frame: &Frame) -> bool {
        let key = frame.key();
        key.instance == self.instance
            && *key.schema.sampler() == self.group
            && key.interval_ms == self.interval_ms
            && key.owner == self.owner
    }
}
