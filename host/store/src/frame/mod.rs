//! One sampler's rows for one instance.
//!
//! ```text
//! push ──► OpenBlock: plain columns ──(full, later)──► Block: a compressed page of a chunk, in memory or in a file
//!              └────────────── FrameView: both, as queries see them ───────────────┘
//! ```
//!
//! A query reads the current [`FrameView`] and never holds a lock. A push and a seal publish a new view.

mod block;
mod blocks;
mod buckets;
mod generations;
mod memory;
mod open;
mod readings;
mod resources;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;
mod write_times;

pub(crate) use block::{Block, BlockPlace, ChunkBytes, UnreadableBlock};
pub(crate) use blocks::{BlockRef, Blocks};
pub(crate) use buckets::Buckets;
pub(crate) use open::OpenBlock;
pub(crate) use readings::Readings;
pub(crate) use resources::StoreResources;
pub(crate) use view::FrameView;
pub(crate) use write_times::AHEAD_MS;

use crate::archive::{FrameKey, UnreadHistory};
use crate::cache::BlockCache;
use crate::rates::CounterTotal;
use crate::{InstanceId, Kind, Layout, Query, Schema, StoreUsage};
use arc_swap::{ArcSwap, Guard};
use memory::FrameMemory;
use open::PushRefused;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of its intervals after which a frame without a new row is stale: its last row is not current.
pub const STALE_INTERVALS: i64 = 3;

/// The number of open blocks at which a push seals one itself. There are so many only if the keeper is late.
const MOST_OPEN: usize = 4;

/// The longest time between two rows that is not an outage, unless the interval is longer.
pub(crate) const LONGEST_PACE_MS: i64 = 600_000;

/// The rows that one sampler records for one instance, as a ring: when it is full, the oldest row is evicted.
///
/// Counters are stored as totals; queries derive their rates.
#[derive(Debug)]
pub struct Frame {
    /// The frame's id, valid for the life of the process.
    pub(crate) id: u64,
    key: FrameKey,
    layout: Layout,
    shared: Arc<StoreResources>,
    /// The current view. Use [`Frame::current`] unless you hold the writer.
    view: ArcSwap<FrameView>,
    writer: Mutex<FrameWriter>,
    /// Whether the view still lacks the frame's history in files.
    is_unread: AtomicBool,
    /// The number of the last write. Writes to all frames are numbered together.
    last_write: AtomicU64,
    memory: FrameMemory,
}

#[derive(Debug, Default)]
struct FrameWriter {
    last_ms: Option<i64>,
    /// The view's last open block, cached for pushes.
    open: Option<Arc<OpenBlock>>,
    /// The view's generation, cached for pushes.
    generation: u32,
    /// The counters' last totals before the next block, if they are known without unpacking a block.
    next_before: Option<Vec<Option<CounterTotal>>>,
    /// The frame's history in files, until it is first used.
    unread: Option<Box<UnreadHistory>>,
    /// Whether the memory reserved for further rows was given back.
    gave_back: bool,
    /// The first row of the open block, if there was no memory to make columns of it wide: copying it to try again with
    /// each row would take long.
    stays_narrow: Option<u64>,
}

/// A row to be written.
#[derive(Clone, Copy)]
pub(crate) struct NewRow<'a> {
    pub(crate) at_ms: i64,
    /// One reading per field. The delay follows if the row was stored before.
    pub(crate) readings: &'a [f64],
    /// How long after the row's time it was read, in milliseconds. NaN: unknown. Not used if `readings` has the delay.
    pub(crate) delay_ms: f64,
    /// Whether the row is in a file already. Such a row is added even if there is no room for it.
    pub(crate) is_kept: bool,
}

/// One row as queries see it.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameRow {
    pub at_ms: i64,
    /// One value per field; NaN if there is none. A counter's value is its rate.
    pub values: Vec<f64>,
    /// One running total per field; NaN for gauges.
    pub totals: Vec<f64>,
}

/// A sealed block, with the open block that it replaces.
#[derive(Debug)]
pub(crate) struct SealedBlock {
    open: Arc<OpenBlock>,
    block: Block,
}

impl Frame {
    pub(crate) fn new(key: FrameKey, shared: Arc<StoreResources>) -> Self {
        let layout = key.schema.layout(key.interval_ms);
        Self {
            id: shared.next_frame.fetch_add(1, Ordering::Relaxed),
            memory: FrameMemory::none(key.clone(), layout, shared.clone()),
            layout,
            key,
            shared,
            view: ArcSwap::default(),
            writer: Mutex::default(),
            is_unread: AtomicBool::new(false),
            last_write: AtomicU64::new(0),
        }
    }

    /// Returns the bytes of memory that a frame takes with its first row.
    pub(crate) fn first_bytes(schema: &Schema, interval_ms: i64) -> u64 {
        memory::first_bytes(schema, schema.layout(interval_ms), interval_ms)
    }

    /// Tells the frame that `bytes` were already taken for its first rows.
    pub(crate) fn has_taken(&self, bytes: u64) {
        self.memory.begin_with(bytes);
    }

    /// Returns the instance that the frame is about.
    pub fn instance(&self) -> &InstanceId {
        &self.key.instance
    }

    pub fn schema(&self) -> &Schema {
        &self.key.schema
    }

    /// Returns the owner whose share of memory and disk the frame uses.
    pub fn owner(&self) -> &Arc<str> {
        &self.key.owner
    }

    pub(crate) fn key(&self) -> &FrameKey {
        &self.key
    }

    /// Returns the scheduled time between two readings, in milliseconds.
    pub fn interval_ms(&self) -> i64 {
        self.key.interval_ms
    }

    /// Adds a row: one reading per field, rounded to the field's precision. If the row is not later than the last one
    /// (the clock was set back), it begins a new generation: old rows stay, and of two rows with the same time queries
    /// use the one written later. Returns `false`, and adds nothing, if the owner's share of memory is used up.
    pub fn push(&self, at_ms: i64, readings: &[f64]) -> bool {
        self.push_read(at_ms, 0.0, readings)
    }

    /// Adds a row like [`Frame::push`]. The readings were taken `delay_ms` after the row's time, by a monotonic clock;
    /// rates use that time. A NaN `delay_ms` means that the time is unknown; such readings give no rates.
    pub fn push_read(&self, at_ms: i64, delay_ms: f64, readings: &[f64]) -> bool {
        let fields = self.key.schema.fields().len();
        debug_assert_eq!(readings.len(), fields);
        let padded: Vec<f64>;
        let readings = if readings.len() == fields {
            readings
        } else {
            let mut all = readings.to_vec();
            all.resize(fields, f64::NAN);
            padded = all;
            &padded
        };
        let mut writer = self.writer();
        let went_back = writer.last_ms.is_some_and(|last| at_ms <= last);
        let generation = writer.generation.saturating_add(u32::from(went_back));
        let is_added = self.push_locked(&mut writer, generation, NewRow { at_ms, readings, delay_ms, is_kept: false });
        if is_added {
            self.last_write.store(self.shared.writes.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Release);
        }
        is_added
    }

    /// Adds a row of `generation`, which is the current one or later. Returns whether there was room for it.
    fn push_locked(&self, writer: &mut FrameWriter, generation: u32, row: NewRow<'_>) -> bool {
        if writer.gave_back {
            if !row.is_kept && !self.memory.try_take(&self.view.load()) {
                return false;
            }
            writer.gave_back = false;
        }
        let open = writer.open.as_ref().filter(|open| open.generation == generation);
        let is_added = match open.map(|open| (open, open.push(row))) {
            Some((_, Ok(()))) => true,
            // There was no room for its wider rows.
            Some((open, Err(PushRefused::Narrow))) if writer.stays_narrow == Some(open.start_row) && !row.is_kept => {
                false
            }
            Some((open, Err(PushRefused::Narrow))) => {
                let (start_row, wider) = (open.start_row, open.widened(&self.key.schema, self.layout, row));
                let view = self.view.load();
                let is_added = self.append(writer, &view, view.opens.len() - 1, wider, row);
                writer.stays_narrow = (!is_added).then_some(start_row);
                is_added
            }
            _ => {
                let view = self.view.load();
                let before = writer.next_before.clone().unwrap_or_else(|| self.totals_after(&view));
                let start_row = view.end_row();
                let open = OpenBlock::new(&self.key.schema, self.layout, start_row, row.at_ms, generation, before, &[]);
                let is_added = self.append(writer, &view, view.opens.len(), open, row);
                writer.next_before.take_if(|_| is_added);
                is_added
            }
        };
        if is_added {
            writer.last_ms = Some(row.at_ms);
        }
        is_added
    }

    fn publish(&self, writer: &mut FrameWriter, view: FrameView) {
        self.memory.take_anyway(&view);
        (writer.open, writer.generation) = (view.opens.last().cloned(), view.generation);
        self.view.store(Arc::new(view));
    }

    /// Adds a row to an open block, then publishes the block in place of the open blocks from number `keep` on. Returns
    /// `false`, and publishes nothing, if memory is used up.
    fn append(
        &self,
        writer: &mut FrameWriter,
        view: &FrameView,
        keep: usize,
        mut open: OpenBlock,
        row: NewRow<'_>,
    ) -> bool {
        if let Err(PushRefused::Narrow) = open.push(row) {
            open = open.widened(&self.key.schema, self.layout, row);
            // The row fits the wide columns now, if the block has room for it.
            let _ = open.push(row);
        }
        let generation = open.generation;
        let mut opens: Vec<_> = view.opens.iter().take(keep).cloned().collect();
        opens.push(Arc::new(open));
        let shown = FrameView { opens, generation, ..view.clone() };
        if !row.is_kept && !self.memory.try_take(&shown) {
            return false;
        }
        self.publish(writer, shown);
        if keep >= MOST_OPEN {
            let sealed = view.opens.first().and_then(|open| self.seal(open));
            if let Some(sealed) = sealed {
                self.replace_locked(writer, sealed);
            }
        }
        true
    }

    /// Returns each counter's last total.
    fn totals_after(&self, view: &FrameView) -> Vec<Option<CounterTotal>> {
        let fields = self.key.schema.fields();
        if !fields.iter().any(|field| matches!(field.kind, Kind::Counter { .. })) {
            return Vec::new();
        }
        match (view.opens.last(), view.last_block()) {
            (Some(open), _) => {
                let total = |(index, field): (usize, &crate::StoredField)| match field.kind {
                    Kind::Counter { .. } => open.total_before(&self.key.schema, index, open.len()),
                    Kind::Gauge => None,
                };
                fields.iter().enumerate().map(total).collect()
            }
            (None, Some(block)) => match block.unpack(&self.key.schema) {
                Ok(rows) => rows.last_totals(&self.key.schema),
                Err(error) => {
                    self.unreadable(&error);
                    Vec::new()
                }
            },
            (None, None) => Vec::new(),
        }
    }

    /// Returns the row that was written last.
    pub fn latest(&self) -> Option<FrameRow> {
        let view = self.current();
        let fields = self.key.schema.fields().iter();
        if let Some((open, rows)) = view.opens.last().map(|open| (open, open.len())).filter(|(_, rows)| *rows > 0) {
            let row = rows - 1;
            let at_ms = open.at_ms(row)?;
            let mut totals = Vec::with_capacity(fields.len());
            let mut values = Vec::with_capacity(fields.len());
            for (index, field) in fields.enumerate() {
                let mut value = [open.reading(index, row)];
                totals.push(if field.kind == Kind::Gauge { f64::NAN } else { value[0] });
                // Skip the search for an earlier total if there is no reading: the column may be empty.
                if field.kind != Kind::Gauge && !value[0].is_nan() {
                    let before = open.total_before(&self.key.schema, index, row);
                    self.key.schema.derive(index, before, &[at_ms], &[open.delay(&self.key.schema, row)], &mut value);
                }
                values.push(value[0]);
            }
            return Some(FrameRow { at_ms, values, totals });
        }
        let block = view.last_block()?;
        let rows = block.unpack(&self.key.schema).inspect_err(|error| self.unreadable(error)).ok()?;
        let last = |columns: &[Vec<f64>]| -> Vec<f64> {
            columns.iter().map(|column| column.last().copied().unwrap_or(f64::NAN)).collect()
        };
        let at_ms = *rows.at_ms.last()?;
        let totals = last(&rows.columns).into_iter().zip(fields);
        let totals = totals.map(|(total, field)| if field.kind == Kind::Gauge { f64::NAN } else { total }).collect();
        Some(FrameRow { at_ms, totals, values: last(&rows.into_values(&self.key.schema).columns) })
    }

    /// Appends the readings of the row that was written last, one per field; a counter's reading is its total. Returns
    /// `false`, and appends nothing, if that row is older than `since_ms`.
    pub fn latest_readings(&self, since_ms: i64, readings: &mut Vec<f64>) -> bool {
        let view = self.current();
        let fields = self.key.schema.fields().len();
        if let Some((open, rows)) = view.opens.last().map(|open| (open, open.len())).filter(|(_, rows)| *rows > 0) {
            if open.at_ms(rows - 1).is_none_or(|at_ms| at_ms < since_ms) {
                return false;
            }
            readings.extend((0..fields).map(|index| open.reading(index, rows - 1)));
            return true;
        }
        let Some(block) = view.last_block().filter(|block| block.last_ms >= since_ms) else { return false };
        let rows = block.unpack(&self.key.schema).inspect_err(|error| self.unreadable(error));
        let Some(rows) = rows.ok().filter(|rows| !rows.at_ms.is_empty()) else { return false };
        let last = |column: &Vec<f64>| column.last().copied().unwrap_or(f64::NAN);
        readings.extend(rows.columns.iter().take(fields).map(last));
        true
    }

    pub fn latest_at_ms(&self) -> Option<i64> {
        let view = self.current();
        let open = view.opens.last().and_then(|open| open.last_ms());
        open.or_else(|| view.blocks.last().map(Blocks::last_ms))
    }

    /// Returns the time between two rows: the interval, or the distance of the newest two rows if that is longer. A
    /// sampler may leave out ticks, such as a scrape that is due once a minute. Ten minutes at most, unless the interval
    /// is longer: a longer pause is an outage.
    pub fn pace_ms(&self) -> i64 {
        let view = self.current();
        let opens = view.opens.iter().rev();
        let mut newest = opens.flat_map(|open| (0..open.len()).rev().filter_map(move |row| open.at_ms(row)));
        let mut blocks = view.blocks.iter().rev();
        let apart_ms = match (newest.next(), newest.next(), blocks.next()) {
            (Some(last), Some(before), _) => last.saturating_sub(before),
            (Some(last), None, Some(before)) => last.saturating_sub(before.last_ms()),
            // Blocks are not decoded for this: a mean has to do.
            (None, _, Some(sealed)) => match sealed.end_row().saturating_sub(sealed.start_row()) {
                0 | 1 => blocks.next().map_or(0, |before| sealed.first_ms().saturating_sub(before.last_ms())),
                rows => {
                    let steps = i64::try_from(rows - 1).unwrap_or(i64::MAX);
                    sealed.last_ms().saturating_sub(sealed.first_ms()) / steps
                }
            },
            (_, _, None) => 0,
        };
        self.key.interval_ms.max(apart_ms.min(LONGEST_PACE_MS))
    }

    /// Returns how long after its last row the frame is stale, in milliseconds.
    pub fn stale_after_ms(&self) -> i64 {
        self.pace_ms().saturating_mul(STALE_INTERVALS)
    }

    /// Returns the number of the frame's last write. The frame with the higher number was written to last; 0 means no
    /// write since the start.
    pub fn last_write(&self) -> u64 {
        self.last_write.load(Ordering::Acquire)
    }

    /// Returns the earliest and the latest time of the rows.
    pub fn span_ms(&self) -> Option<(i64, i64)> {
        let view = self.current();
        let blocks = view.blocks.iter().map(|blocks| (blocks.first_ms(), blocks.last_ms()));
        let opens = view.opens.iter().filter_map(|open| Some((open.at_ms(0)?, open.last_ms()?)));
        blocks.chain(opens).reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }

    /// Returns how often the clock was set back while the frame had history.
    pub(crate) fn generation(&self) -> u32 {
        self.current().generation
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        usize::try_from(self.current().rows(self.capacity())).unwrap_or(usize::MAX)
    }

    /// Returns whether the newest row is in memory, unpacked, so that reading it waits for no disk.
    pub(crate) fn is_latest_in_memory(&self) -> bool {
        let has_newest = |view: &FrameView| view.blocks.is_empty() || !view.opens.is_empty();
        !self.is_unread.load(Ordering::Acquire) && has_newest(&self.view.load())
    }

    /// Returns whether there are no rows. Rows in files count even before they are read.
    pub fn is_empty(&self) -> bool {
        let has_rows = |view: &FrameView| !view.blocks.is_empty() || view.opens.iter().any(|open| open.len() > 0);
        !self.is_unread.load(Ordering::Acquire) && !has_rows(&self.view.load())
    }

    pub(crate) fn add_usage(&self, usage: &mut StoreUsage) {
        let view = self.current();
        usage.rows += view.rows(self.capacity());
        for blocks in view.blocks.iter() {
            usage.blocks += blocks.len() as u64;
            let (bytes, cells) = blocks.memory();
            usage.block_bytes += bytes;
            usage.cell_bytes += cells;
        }
    }

    pub(crate) fn buckets(&self, query: &Query) -> Buckets {
        Buckets::of(self, &self.current(), query)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns how many of the newest rows count. With files there is no limit: rows in files count until they are too
    /// old.
    pub(crate) fn capacity(&self) -> u64 {
        if self.shared.archived { u64::MAX } else { self.shared.samples }
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.shared.cache
    }

    pub(crate) fn unreadable(&self, _: &UnreadableBlock) {
        self.shared.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    fn writer(&self) -> MutexGuard<'_, FrameWriter> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unread) = writer.unread.take() {
            self.read(&mut writer, &unread);
            self.is_unread.store(false, Ordering::Release);
        }
        writer
    }

    fn current(&self) -> Guard<Arc<FrameView>> {
        if self.is_unread.load(Ordering::Acquire) {
            drop(self.writer());
        }
        self.view.load()
    }

    pub(crate) fn view(&self) -> Arc<FrameView> {
        Guard::into_inner(self.current())
    }
}
