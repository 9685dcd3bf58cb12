//! One sampler's rows for one instance.
//!
//! ```text
//! push ──► Open: plain columns ──(full, later)──► Block: a compressed page of a chunk, in memory or in a file
//!              └──────────────── View: both, as queries see them ────────────────┘
//! ```
//!
//! A query takes the [`View`] there is and never holds a lock; a push and a seal publish a new one.

mod block;
mod buckets;
mod open;

pub(crate) use block::{Block, Bytes, Place, Stored, Unreadable};
pub(crate) use buckets::Buckets;
pub(crate) use open::Open;

use crate::archive::{FrameKey, Page};
use crate::cache::{BlockCache, BlockId};
use crate::cell::Cells;
use crate::codec::{self, Effort};
use crate::{Kind, Layout, Limits, Query, Schema, Usage};
use arc_swap::ArcSwap;
use open::Refused;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open blocks a frame may have before a push seals one itself: the work of sealing is someone else's, who is late.
const MOST_OPEN: usize = 4;

/// What one sampler records for one instance: a ring of rows. The oldest goes when it is full.
///
/// Counters are kept as totals; their rates are derived when read.
#[derive(Debug)]
pub struct Frame {
    /// Names it as long as the process lives.
    pub(crate) id: u64,
    key: FrameKey,
    layout: Layout,
    shared: Arc<Shared>,
    view: ArcSwap<View>,
    writer: Mutex<Writer>,
}

/// What all frames have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Rows per frame.
    pub(crate) capacity: u64,
    pub(crate) cache: BlockCache,
    /// Whether blocks go to files: then one let go of before it got there is lost.
    pub(crate) archived: bool,
    /// Blocks that could not be read, as often as it was tried.
    pub(crate) unreadable: AtomicU64,
    /// Rows that were let go of before they were in a file.
    pub(crate) lost_rows: AtomicU64,
    pub(crate) next_frame: AtomicU64,
}

/// What there is at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Ascending in time and rows.
    pub(crate) blocks: Arc<[Arc<Block>]>,
    /// After the blocks; rows are added to the last.
    pub(crate) opens: Vec<Arc<Open>>,
    pub(crate) generation: u32,
    /// Rows before this one are gone for good, whatever room there is again.
    pub(crate) floor: u64,
}

#[derive(Debug, Default)]
struct Writer {
    last_ms: Option<i64>,
    /// The view's last open block, and its generation: what most pushes need of it.
    open: Option<Arc<Open>>,
    generation: u32,
    /// Where rows were taken back since it was last asked for: rows from this one on are others now.
    cut_row: Option<u64>,
    /// What counters had before the next block, where that is known from elsewhere.
    next_before: Option<Vec<Option<(i64, f64)>>>,
}

/// One row as queries see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub at_ms: i64,
    /// One per field; NaN: no value. Counters are rates here.
    pub values: Vec<f64>,
    /// One per field; a counter's running total, NaN for gauges.
    pub totals: Vec<f64>,
}

/// A block that was sealed and is to replace the open one.
#[derive(Debug)]
pub(crate) struct Sealed {
    open: Arc<Open>,
    block: Block,
}

impl Frame {
    pub(crate) fn new(key: FrameKey, shared: Arc<Shared>) -> Self {
        Self {
            id: shared.next_frame.fetch_add(1, Ordering::Relaxed),
            layout: Layout::of(key.interval_ms),
            key,
            shared,
            view: ArcSwap::default(),
            writer: Mutex::default(),
        }
    }

    pub fn schema(&self) -> &Schema {
        &self.key.schema
    }

    pub(crate) fn key(&self) -> &FrameKey {
        &self.key
    }

    /// The time between two readings, as scheduled.
    pub fn interval_ms(&self) -> i64 {
        self.key.interval_ms
    }

    /// Adds a row: one reading per field, rounded to the field's precision. A row that is not later than the last one
    /// (the clock was set back) replaces every row it is not later than, so that times stay ascending and a clock that
    /// once ran ahead does not block the history; that may read a file. Returns how many rows it replaced.
    pub fn push(&self, at_ms: i64, readings: &[f64]) -> usize {
        debug_assert_eq!(readings.len(), self.key.schema.fields().len());
        let padded: Vec<f64>;
        let readings = if readings.len() == self.key.schema.fields().len() {
            readings
        } else {
            let mut all = readings.to_vec();
            all.resize(self.key.schema.fields().len(), f64::NAN);
            padded = all;
            &padded
        };
        self.push_locked(&mut self.writer(), at_ms, readings)
    }

    fn push_locked(&self, writer: &mut Writer, at_ms: i64, readings: &[f64]) -> usize {
        let replaced = match writer.last_ms {
            Some(last) if at_ms <= last => self.cut(writer, at_ms),
            _ => 0,
        };
        writer.last_ms = Some(at_ms);
        match writer.open.as_ref().map(|open| (open, open.push(at_ms, readings))) {
            Some((_, Ok(()))) => {}
            Some((open, Err(Refused::Narrow(field)))) => {
                let wider = open.copy(&self.key.schema, self.layout, open.len(), Some(field), open.generation);
                let view = self.view.load();
                self.append(writer, &view, view.opens.len() - 1, wider, at_ms, readings);
            }
            _ => {
                let view = self.view.load();
                let before = writer.next_before.take().unwrap_or_else(|| self.totals_after(&view));
                let open = self.open_after(&view, at_ms, before);
                self.append(writer, &view, view.opens.len(), open, at_ms, readings);
            }
        }
        replaced
    }

    fn publish(&self, writer: &mut Writer, view: View) {
        (writer.open, writer.generation) = (view.opens.last().cloned(), view.generation);
        self.view.store(Arc::new(view));
    }

    /// Adds a row to an open block, then shows it in place of those from `keep` on.
    fn append(&self, writer: &mut Writer, view: &View, keep: usize, mut open: Open, at_ms: i64, readings: &[f64]) {
        // Every refusal makes one more column wide: that ends.
        while let Err(Refused::Narrow(field)) = open.push(at_ms, readings) {
            open = open.copy(&self.key.schema, self.layout, open.len(), Some(field), open.generation);
        }
        let mut opens: Vec<_> = view.opens.iter().take(keep).cloned().collect();
        opens.push(Arc::new(open));
        self.publish(writer, View { opens, ..view.clone() });
        if keep >= MOST_OPEN {
            let sealed = view.opens.first().and_then(|open| self.seal(open));
            if let Some(sealed) = sealed {
                self.replace_locked(writer, sealed);
            }
        }
    }

    /// An empty block for rows from a time on.
    fn open_after(&self, view: &View, first_ms: i64, before: Vec<Option<(i64, f64)>>) -> Open {
        Open::new(&self.key.schema, self.layout, view.end_row(), first_ms, view.generation, before, &[])
    }

    /// The counters' last totals.
    fn totals_after(&self, view: &View) -> Vec<Option<(i64, f64)>> {
        let fields = self.key.schema.fields();
        if !fields.iter().any(|field| matches!(field.kind, Kind::Counter { .. })) {
            return Vec::new();
        }
        match (view.opens.last(), view.blocks.last()) {
            (Some(open), _) => {
                let total = |(index, field): (usize, &crate::Field)| match field.kind {
                    Kind::Counter { .. } => open.total_before(index, open.len()),
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

    /// Takes back the rows that are not before a time; how many those were.
    fn cut(&self, writer: &mut Writer, at_ms: i64) -> usize {
        let old = self.view.load();
        let generation = old.generation.saturating_add(1);
        let mut opens = old.opens.clone();
        let mut blocks = old.blocks.to_vec();
        while opens.pop_if(|open| open.first_ms >= at_ms).is_some() {}
        if let Some(open) = opens.pop() {
            // Also when it keeps all its rows: the next one will be of the new generation.
            let kept = open.rows_before(at_ms);
            opens.push(Arc::new(open.copy(&self.key.schema, self.layout, kept, None, generation)));
        } else {
            while blocks.pop_if(|block| block.first_ms >= at_ms).is_some() {}
            if let Some(block) = blocks.pop_if(|block| block.last_ms >= at_ms) {
                match block.cut(at_ms, &self.key.schema, &self.shared.cache) {
                    Ok(cut) => blocks.extend(cut.map(Arc::new)),
                    Err(error) => self.unreadable(&error),
                }
            }
        }
        writer.next_before = None;
        let mut view = View { blocks: blocks.into(), opens, generation, floor: 0 };
        let floor = old.first_row(self.capacity());
        if floor < view.end_row() {
            view.floor = floor;
        } else {
            // Nothing is left that counts: history begins anew.
            view = View { generation, floor: view.end_row(), ..View::default() };
        }
        let replaced = old.rows(self.capacity()) - view.rows(self.capacity());
        let end_row = view.end_row();
        writer.cut_row = Some(writer.cut_row.map_or(end_row, |row| row.min(end_row)));
        self.publish(writer, view);
        usize::try_from(replaced).unwrap_or(usize::MAX)
    }

    /// The newest row.
    pub fn latest(&self) -> Option<Row> {
        let view = self.view.load();
        let fields = self.key.schema.fields().iter();
        if let Some((open, rows)) = view.opens.last().map(|open| (open, open.len())).filter(|(_, rows)| *rows > 0) {
            let row = rows - 1;
            let at_ms = open.at_ms(row)?;
            let mut totals = Vec::with_capacity(fields.len());
            let mut values = Vec::with_capacity(fields.len());
            for (index, field) in fields.enumerate() {
                let mut value = [open.reading(index, row)];
                totals.push(if field.kind == Kind::Gauge { f64::NAN } else { value[0] });
                // Nothing to look back for: a column may be empty all the way.
                if field.kind != Kind::Gauge && !value[0].is_nan() {
                    self.key.schema.derive(index, open.total_before(index, row), &[at_ms], &mut value);
                }
                values.push(value[0]);
            }
            return Some(Row { at_ms, values, totals });
        }
        let block = view.blocks.last()?;
        let rows = block.unpack(&self.key.schema).inspect_err(|error| self.unreadable(error)).ok()?;
        let last = |columns: &[Vec<f64>]| -> Vec<f64> {
            columns.iter().map(|column| column.last().copied().unwrap_or(f64::NAN)).collect()
        };
        let at_ms = *rows.at_ms.last()?;
        let totals = last(&rows.columns).into_iter().zip(fields);
        let totals = totals.map(|(total, field)| if field.kind == Kind::Gauge { f64::NAN } else { total }).collect();
        Some(Row { at_ms, totals, values: last(&rows.into_values(&self.key.schema).columns) })
    }

    pub fn latest_at_ms(&self) -> Option<i64> {
        let view = self.view.load();
        let open = view.opens.last().and_then(|open| open.last_ms());
        open.or_else(|| view.blocks.last().map(|block| block.last_ms))
    }

    pub(crate) fn oldest_at_ms(&self) -> Option<i64> {
        let view = self.view.load();
        let block = view.blocks.first().map(|block| block.first_ms);
        block.or_else(|| view.opens.first().and_then(|open| open.at_ms(0)))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        usize::try_from(self.view.load().rows(self.capacity())).unwrap_or(usize::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn add_usage(&self, usage: &mut Usage) {
        let view = self.view.load();
        usage.rows += view.rows(self.capacity());
        usage.blocks += view.blocks.len() as u64;
        for block in view.blocks.iter() {
            let (bytes, cells) = block.memory();
            usage.block_bytes += bytes;
            usage.cell_bytes += cells;
        }
    }

    pub(crate) fn buckets(&self, query: &Query) -> Buckets {
        Buckets::of(self, &self.view.load(), query)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.shared.capacity
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.shared.cache
    }

    pub(crate) fn unreadable(&self, _: &Unreadable) {
        self.shared.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === sealing ===

impl Frame {
    /// The open block to seal next: one whose time is over, and some more, so that frames on one schedule do not all seal
    /// at once; or one that is not the last and whose time may never be over, as the clock was set back.
    pub(crate) fn to_seal(&self, now_ms: i64) -> Option<Arc<Open>> {
        let view = self.view.load();
        let first = view.opens.first()?;
        let over = first.until_ms.saturating_add(self.sealing_delay_ms()) <= now_ms;
        (over || view.opens.len() > 2).then(|| first.clone())
    }

    /// Enough for late readings, then spread over a minute.
    fn sealing_delay_ms(&self) -> i64 {
        const LATE_MS: i64 = 5_000;
        let spread = (self.layout.block_ms / 4).min(60_000).unsigned_abs().max(1);
        // Fibonacci hashing: neighbours end up far apart.
        let hash = self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        LATE_MS + ((hash * spread) >> 32) as i64
    }

    /// Compresses an open block; it stays as it is.
    pub(crate) fn seal(&self, open: &Arc<Open>) -> Option<Sealed> {
        let rows = open.read(open.len());
        let (first_ms, last_ms) = (*rows.at_ms.first()?, *rows.at_ms.last()?);
        let cells =
            rows.clone().into_values(&self.key.schema).parts(&self.key.schema, self.layout).whole(&self.key.schema);
        let chunk: Arc<[u8]> = codec::encode(&self.key.schema, &[&rows], &[&cells], Effort::Fast).into();
        let place = Place { bytes: Bytes::Memory(chunk), page: 0 };
        let id = self.cache().new_id();
        let span = (first_ms, last_ms);
        let cells = Some(Cells::of(&cells, &self.key.schema, rows.len()));
        let block = Block::new(id, open.start_row, rows.len(), span, rows.generation, place, cells);
        Some(Sealed { open: open.clone(), block })
    }

    /// Shows a sealed block where the open one was. Not if that has changed since: then it is to be sealed again.
    pub(crate) fn replace(&self, sealed: Sealed) -> bool {
        self.replace_locked(&mut self.writer(), sealed)
    }

    fn replace_locked(&self, writer: &mut Writer, Sealed { open, block }: Sealed) -> bool {
        let view = self.view.load();
        let same = view.opens.first().is_some_and(|first| Arc::ptr_eq(first, &open)) && open.len() == block.rows;
        if same {
            let first_row = view.first_row(self.capacity());
            let blocks = view.blocks.iter().cloned().chain([Arc::new(block)]);
            let blocks = self.without(blocks, |block| block.end_row() <= first_row);
            let opens: Vec<_> = view.opens.iter().skip(1).cloned().collect();
            if opens.is_empty() {
                // The next push need not unpack the block for it.
                writer.next_before = Some(self.totals_after(&view));
            }
            self.publish(writer, View { blocks, opens, ..**view });
        }
        same
    }

    /// Lets go of the first blocks for which `over` is so; whether there were any.
    pub(crate) fn prune(&self, over: impl Fn(&Block) -> bool) -> bool {
        if !self.view.load().blocks.first().is_some_and(|block| over(block)) {
            return false;
        }
        let mut writer = self.writer();
        let view = self.view.load();
        let over_until = view.blocks.iter().take_while(|block| over(block)).map(|block| block.end_row()).last();
        let over = |block: &Block| over_until.is_some_and(|row| block.end_row() <= row);
        let blocks = self.without(view.blocks.iter().cloned(), over);
        let floor = view.floor.max(over_until.unwrap_or(0));
        self.publish(&mut writer, View { blocks, floor, ..(**view).clone() });
        true
    }

    fn without(&self, blocks: impl Iterator<Item = Arc<Block>>, over: impl Fn(&Block) -> bool) -> Arc<[Arc<Block>]> {
        let kept = blocks.filter(|block| {
            let over = over(block);
            if over && self.shared.archived && block.unstored().is_some() {
                self.shared.lost_rows.fetch_add(block.rows as u64, Ordering::Relaxed);
            }
            !over
        });
        kept.collect()
    }
}

// === archiving ===

impl Frame {
    /// A frame as files have it.
    pub(crate) fn restored(key: FrameKey, shared: Arc<Shared>, pages: Vec<Page>) -> Self {
        let frame = Self::new(key, shared);
        let mut blocks: Vec<Arc<Block>> = Vec::with_capacity(pages.len());
        let mut generation = 0;
        let mut start_row = 0;
        for page in pages {
            // Of a later generation: it replaces what is not earlier.
            while let Some(last) = blocks.pop_if(|last| last.last_ms >= page.first_ms) {
                match last.cut(page.first_ms, frame.schema(), frame.cache()) {
                    Ok(cut) => blocks.extend(cut.map(Arc::new)),
                    Err(error) => frame.unreadable(&error),
                }
                start_row = blocks.last().map_or(0, |block| block.end_row());
            }
            generation = generation.max(page.generation);
            let (id, span) = (frame.cache().new_id(), (page.first_ms, page.last_ms));
            let block = Block::new(id, start_row, page.rows, span, page.generation, page.place, None);
            start_row = block.end_row();
            blocks.push(Arc::new(block));
        }
        let last_ms = blocks.last().map(|block| block.last_ms);
        let first_row = start_row.saturating_sub(frame.capacity());
        let blocks = blocks.into_iter().filter(|block| block.end_row() > first_row).collect();
        let mut writer = frame.writer();
        writer.last_ms = last_ms;
        frame.publish(&mut writer, View { blocks, generation, ..View::default() });
        drop(writer);
        frame
    }

    /// To add rows that a log has and no block, of one generation. `before`: where a block begins with them, what counters
    /// had before it.
    pub(crate) fn replay(&self, generation: u32, before: Option<Vec<Option<(i64, f64)>>>) -> Replaying<'_> {
        let mut writer = self.writer();
        writer.next_before = before;
        Replaying { frame: self, writer, generation }
    }

    /// What is in no file, from a row on: sealed blocks, and open ones. Also: the row from which on rows are others than
    /// they were when last asked.
    pub(crate) fn unstored(&self) -> (Option<u64>, Arc<View>) {
        let mut writer = self.writer();
        (writer.cut_row.take(), self.view.load_full())
    }

    /// How many rows are in no block.
    pub(crate) fn open_rows(&self) -> u64 {
        self.view.load().opens.iter().map(|open| open.len() as u64).sum()
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Lets go of a block that cannot be read.
    pub(crate) fn discard(&self, id: BlockId) {
        let mut writer = self.writer();
        let view = self.view.load();
        let blocks: Arc<[_]> = view.blocks.iter().filter(|block| block.id != id).cloned().collect();
        let end_row = view.end_row();
        let floor = if blocks.is_empty() { view.floor.max(end_row) } else { view.floor };
        self.publish(&mut writer, View { blocks, floor, ..(**view).clone() });
        if self.view.load().end_row() < end_row {
            // The last is gone: its rows' numbers will be others'.
            let end_row = self.view.load().end_row();
            writer.cut_row = Some(writer.cut_row.map_or(end_row, |row| row.min(end_row)));
        }
    }

    /// Shows blocks at the places they are at now. Those that are no longer there are passed over.
    pub(crate) fn stored(&self, places: &[(BlockId, Place)]) {
        let mut writer = self.writer();
        let view = self.view.load();
        let moved = |block: &Arc<Block>| match places.iter().find(|(id, _)| *id == block.id) {
            Some((_, place)) => Arc::new(block.moved(place.clone())),
            None => block.clone(),
        };
        let blocks = view.blocks.iter().map(moved).collect();
        self.publish(&mut writer, View { blocks, ..(**view).clone() });
    }
}

/// A frame while a log is replayed.
pub(crate) struct Replaying<'a> {
    frame: &'a Frame,
    writer: MutexGuard<'a, Writer>,
    generation: u32,
}

impl Replaying<'_> {
    pub(crate) fn row(&mut self, at_ms: i64, readings: &[f64]) {
        let known = self.writer.last_ms.is_some_and(|last| at_ms <= last);
        // Rows of the same generation do not replace each other: it has been here before.
        if self.generation < self.writer.generation || (self.generation == self.writer.generation && known) {
            return;
        }
        self.frame.push_locked(&mut self.writer, at_ms, readings);
        if self.writer.generation != self.generation {
            let view = self.frame.view.load();
            let (generation, mut opens) = (self.generation, view.opens.clone());
            if let Some(open) = opens.pop() {
                let (schema, layout) = (self.frame.schema(), self.frame.layout);
                opens.push(Arc::new(open.copy(schema, layout, open.len(), None, generation)));
            }
            self.frame.publish(&mut self.writer, View { opens, generation, ..(**view).clone() });
        }
    }
}

impl Drop for Replaying<'_> {
    fn drop(&mut self) {
        self.writer.next_before = None;
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(limits: &Limits, archived: bool) -> Self {
        Self {
            capacity: limits.samples.max(1) as u64,
            cache: BlockCache::new(limits.block_cache),
            archived,
            unreadable: AtomicU64::new(0),
            lost_rows: AtomicU64::new(0),
            next_frame: AtomicU64::new(0),
        }
    }
}

// === impl View ===

impl View {
    /// How many rows there ever were; those taken back not counted.
    pub(crate) fn end_row(&self) -> u64 {
        match (self.opens.last(), self.blocks.last()) {
            (Some(open), _) => open.end_row(),
            (None, Some(block)) => block.end_row(),
            // Numbers are not given again, but where rows are taken back.
            (None, None) => self.floor,
        }
    }

    /// The number of the first row that counts, where only so many do.
    pub(crate) fn first_row(&self, capacity: u64) -> u64 {
        let start_row = match (self.blocks.first(), self.opens.first()) {
            (Some(block), _) => block.start_row,
            (None, Some(open)) => open.start_row,
            (None, None) => return self.floor,
        };
        self.end_row().saturating_sub(capacity).max(start_row).max(self.floor)
    }

    fn rows(&self, capacity: u64) -> u64 {
        self.end_row() - self.first_row(capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{Field, InstanceId, Limits};

    fn frame(field: Field, capacity: u64) -> Frame {
        let cache = BlockCache::new(1 << 20);
        let shared = Shared { capacity, cache, ..Shared::new(&Limits::default(), false) };
        let (instance, schema) = (InstanceId::new("i").unwrap(), Schema::new("s", vec![field]));
        Frame::new(FrameKey { instance, schema, interval_ms: 1000, born: 0 }, Arc::new(shared))
    }

    fn seal_all(frame: &Frame) {
        while let Some(open) = frame.to_seal(i64::MAX) {
            assert!(frame.replace(frame.seal(&open).unwrap()));
        }
    }

    #[test]
    fn the_oldest_row_goes_when_the_ring_is_full() {
        let frame = frame(Field::gauge("x"), 3);
        for i in 0..5 {
            frame.push(i * 1000, &[i as f64]);
        }
        assert_eq!(frame.len(), 3);
        let query = Query { since_ms: 0, until_ms: 10_000, step_ms: 1000, ..Query::default() };
        assert_eq!(frame.buckets(&query).at_ms, [2000, 3000, 4000]);
    }

    #[test]
    fn a_rate_passes_over_gaps_and_survives_the_row_before_it() {
        let frame = frame(Field::counter("rate", 1.0), 2);
        for (at, total) in [(0, 10.0), (1000, f64::NAN), (2000, 14.0)] {
            frame.push(at, &[total]);
        }
        assert_eq!(frame.len(), 2, "the first total has left the ring");
        assert_eq!(frame.latest().unwrap().values, [2.0]);
        assert_eq!(frame.latest().unwrap().totals, [14.0]);
    }

    #[test]
    fn a_reset_is_a_gap_and_counting_goes_on_after_it() {
        let frame = frame(Field::counter("rate", 1.0), 10);
        let rates = [(0, 10.0), (1000, 20.0), (2000, 5.0), (3000, 6.0)].map(|(at, total)| {
            frame.push(at, &[total]);
            frame.latest().unwrap().values[0]
        });
        assert!(rates[0].is_nan() && rates[2].is_nan());
        assert_eq!((rates[1], rates[3]), (10.0, 1.0));
    }

    #[test]
    fn a_clock_that_went_back_replaces_what_came_after_it() {
        let frame = frame(Field::gauge("x"), 10);
        let rows = [(1000, 1.0), (2000, 2.0), (3000, 3.0), (2000, 9.0)];
        assert_eq!(rows.map(|(at, x)| frame.push(at, &[x])), [0, 0, 0, 2]);
        assert_eq!((frame.len(), frame.latest().unwrap().values[0]), (2, 9.0));
    }

    #[test]
    fn a_clock_that_went_back_over_sealed_rows_replaces_those_too() {
        let frame = frame(Field::gauge("x"), 10_000);
        for i in 0..2000 {
            frame.push(i * 1000, &[i as f64]);
        }
        seal_all(&frame);
        assert_eq!(frame.push(1_234_000, &[-1.0]), 766);
        assert_eq!(frame.len(), 1235);
        let query = Query { since_ms: 1_232_000, until_ms: i64::MAX, step_ms: 1, ..Query::default() };
        assert_eq!(frame.buckets(&query).at_ms, [1_232_000, 1_233_000, 1_234_000]);
    }

    #[test]
    fn rows_that_were_let_go_do_not_come_back_when_others_are_taken_back() {
        let frame = frame(Field::gauge("x"), 3);
        for i in 0..5 {
            frame.push(i * 1000, &[0.0]);
        }
        assert_eq!(frame.push(3000, &[1.0]), 2);
        assert_eq!(frame.len(), 2, "2000 and the new 3000");
    }

    #[test]
    fn the_latest_row_is_the_same_from_a_sealed_block() {
        let frame = frame(Field::counter("rate", 1.0), 10);
        frame.push(0, &[5.0]);
        frame.push(1000, &[7.0]);
        let before = frame.latest().unwrap();
        seal_all(&frame);
        assert_eq!((frame.latest().unwrap(), frame.latest_at_ms()), (before, Some(1000)));
        frame.push(2000, &[10.0]);
        assert_eq!(frame.latest().unwrap().values, [3.0], "its total is remembered");
    }

    #[test]
    fn a_value_too_large_for_its_column_keeps_every_row_before_it() {
        let frame = frame(Field { precision: 0.01, ..Field::gauge("x") }, 100);
        let kept = [0.01, -3.2, f64::NAN, 9.9e9, f64::MAX, 9_007_199_254_740_993.0, -21_474_836.48];
        for (i, &x) in kept.iter().enumerate() {
            frame.push(i as i64, &[x]);
        }
        for sealed in [false, true] {
            let query = Query { since_ms: 0, until_ms: 10, step_ms: 1, ..Query::default() };
            let last: Vec<u64> = frame.buckets(&query).cells.iter().map(|cell| cell.last.to_bits()).collect();
            assert_eq!(last, kept.map(f64::to_bits), "sealed: {sealed}");
            seal_all(&frame);
        }
    }
}
