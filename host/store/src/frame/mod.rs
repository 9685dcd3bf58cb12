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
#[cfg(test)]
mod tests;
mod upkeep;

pub(crate) use block::{Block, Bytes, Place, Unreadable};
pub(crate) use buckets::Buckets;
pub(crate) use open::Open;

use crate::archive::{FrameKey, Unread};
use crate::cache::BlockCache;
use crate::{Kind, Layout, Limits, Query, Schema, Usage};
use arc_swap::{ArcSwap, Guard};
use open::Refused;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// Whoever does not hold the writer asks for [`Frame::current`].
    view: ArcSwap<View>,
    writer: Mutex<Writer>,
    /// Whether what files have of it is not in the view.
    is_unread: AtomicBool,
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
    /// What files have of it, for the first who asks.
    unread: Option<Box<Unread>>,
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
            is_unread: AtomicBool::new(false),
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

    /// Appends what was read for each field at the newest row, of a counter the running total. False: there is no row from
    /// `since_ms` on.
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
        let Some(block) = view.blocks.last().filter(|block| block.last_ms >= since_ms) else { return false };
        let rows = block.unpack(&self.key.schema).inspect_err(|error| self.unreadable(error));
        let Some(rows) = rows.ok().filter(|rows| !rows.at_ms.is_empty()) else { return false };
        let last = |column: &Vec<f64>| column.last().copied().unwrap_or(f64::NAN);
        readings.extend(rows.columns.iter().map(last));
        true
    }

    pub fn latest_at_ms(&self) -> Option<i64> {
        let view = self.current();
        let open = view.opens.last().and_then(|open| open.last_ms());
        open.or_else(|| view.blocks.last().map(|block| block.last_ms))
    }

    pub(crate) fn oldest_at_ms(&self) -> Option<i64> {
        let view = self.current();
        let block = view.blocks.first().map(|block| block.first_ms);
        block.or_else(|| view.opens.first().and_then(|open| open.at_ms(0)))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        usize::try_from(self.current().rows(self.capacity())).unwrap_or(usize::MAX)
    }

    /// What files have of it counts, also before it is read.
    pub fn is_empty(&self) -> bool {
        !self.is_unread.load(Ordering::Acquire) && self.len() == 0
    }

    pub(crate) fn add_usage(&self, usage: &mut Usage) {
        let view = self.current();
        usage.rows += view.rows(self.capacity());
        usage.blocks += view.blocks.len() as u64;
        for block in view.blocks.iter() {
            let (bytes, cells) = block.memory();
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
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unread) = writer.unread.take() {
            self.read(&mut writer, &unread);
            self.is_unread.store(false, Ordering::Release);
        }
        writer
    }

    fn current(&self) -> Guard<Arc<View>> {
        if self.is_unread.load(Ordering::Acquire) {
            drop(self.writer());
        }
        self.view.load()
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Guard::into_inner(self.current())
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
