use super::NewRow;
use crate::cell::Cell;
use crate::quantum::Quantum;
use crate::rates::CounterTotal;
use crate::rows::{PartCells, RawRows, RowValues};
use crate::{Kind, Layout, Schema, StoredField, ladder};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The most rows of a slab. A slab is allocated at once. Slabs have 1, 1, 2, 4, … rows up to this number, so that a
/// frame with few rows takes little memory.
const SLAB_ROWS: usize = 64;
/// The number of slabs before the first one of full size. Together they hold as many rows as one of full size.
const SMALL_SLABS: usize = SLAB_ROWS.ilog2() as usize + 1;
const LARGE_SLABS: usize = 15;

/// Marks a gap in a narrow column.
const GAP: i32 = i32::MIN;

/// The newest rows, as uncompressed columns. One thread adds rows; other threads read the added rows at the same time.
///
/// A column of whole steps takes four bytes per row. When a value does not fit, the rows move to a new
/// [`OpenBlock`] whose column is wide.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    /// How many rows the frame ever had before this block.
    pub(crate) start_row: u64,
    pub(crate) first_ms: i64,
    /// The start of the next block.
    pub(crate) until_ms: i64,
    pub(crate) generation: u32,
    /// Each counter's last total before these rows, by field. May be empty.
    before: Vec<Option<CounterTotal>>,
    /// The place of each column in a slab.
    lanes: Box<[ColumnLane]>,
    slabs: Slabs,
    rows: AtomicUsize,
    /// The cells of each part that gets no more rows. They are made when a query first needs them.
    parts: OnceLock<Box<[CompletePart]>>,
}

/// The cells of a part that gets no more rows, one per field.
type CompletePart = OnceLock<Box<[Cell]>>;

/// The slabs of a block. Each is allocated with its first row. The array of large slabs is allocated with the first
/// large slab, because most frames of short-lived instances never have so many rows.
#[derive(Debug, Default)]
struct Slabs {
    small: [OnceLock<Slab>; SMALL_SLABS],
    large: OnceLock<Box<[OnceLock<Slab>; LARGE_SLABS]>>,
}

/// The place of a column in a slab: its index among the narrow or the wide columns, and its step.
#[derive(Debug, Clone, Copy)]
enum ColumnLane {
    Narrow(usize, Quantum),
    Wide(usize, Quantum),
}

/// Some rows, stored row by row. A push then touches as few cache lines of the processor as possible; with ten thousand
/// frames none of these lines is in the cache yet.
#[derive(Debug)]
struct Slab {
    /// Per row: milliseconds since the block's first row, then the narrow columns.
    narrow: Box<[AtomicU32]>,
    /// Per row: the wide columns.
    wide: Box<[AtomicU64]>,
    /// The number of narrow entries per row, with the time.
    narrow_lanes: usize,
    /// The number of wide entries per row.
    wide_lanes: usize,
}

/// Why a row was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushRefused {
    /// The row belongs to the next block, or the block has no room.
    Full,
    /// A value does not fit its column, which must become wide.
    Narrow,
}

/// Returns how many steps a reading is, if a narrow column can hold that.
fn whole_steps(quantum: Quantum, reading: f64) -> Option<i32> {
    let steps = quantum.steps(reading);
    let whole = steps as i32;
    (f64::from(whole) == steps && whole != GAP).then_some(whole)
}

impl OpenBlock {
    /// Makes a block for rows from `first_ms` on. The columns in `wide` are wide from the start.
    pub(crate) fn new(
        schema: &Schema,
        layout: Layout,
        start_row: u64,
        first_ms: i64,
        generation: u32,
        before: Vec<Option<CounterTotal>>,
        wide: &[usize],
    ) -> Self {
        let (mut narrow_lanes, mut wide_lanes) = (1.., 0..);
        let next = |lanes: &mut std::ops::RangeFrom<usize>| lanes.next().unwrap_or_default();
        let lanes = (0..schema.columns()).map(|field| match schema.quantum(field) {
            Quantum::Exact => ColumnLane::Wide(next(&mut wide_lanes), Quantum::Exact),
            quantum if wide.contains(&field) => ColumnLane::Wide(next(&mut wide_lanes), quantum),
            quantum => ColumnLane::Narrow(next(&mut narrow_lanes), quantum),
        });
        let lanes = lanes.collect();
        Self {
            start_row,
            first_ms,
            until_ms: ladder::floor(first_ms, layout.block_ms).saturating_add(layout.block_ms),
            generation,
            before,
            lanes,
            slabs: Slabs::default(),
            rows: AtomicUsize::new(0),
            parts: OnceLock::new(),
        }
    }

    /// Returns a copy in which all columns are wide that a row does not fit otherwise. Copying the rows once for each
    /// column would take long where there are hundreds.
    pub(crate) fn widened(&self, schema: &Schema, layout: Layout, new: NewRow<'_>) -> Self {
        let is_wide = |lane: &ColumnLane, reading: f64| match *lane {
            ColumnLane::Wide(..) => true,
            ColumnLane::Narrow(_, quantum) => reading.is_finite() && whole_steps(quantum, reading).is_none(),
        };
        let row_of = new.readings.iter().copied().chain([new.delay_ms]);
        let wide = self.lanes.iter().zip(row_of).enumerate().filter(|(_, (lane, reading))| is_wide(lane, *reading));
        let wide: Vec<usize> = wide.map(|(field, _)| field).collect();
        let copy =
            Self::new(schema, layout, self.start_row, self.first_ms, self.generation, self.before.clone(), &wide);
        let old = self.read(self.len());
        let mut readings = vec![f64::NAN; schema.columns()];
        for (row, &at_ms) in old.at_ms.iter().enumerate() {
            for (reading, column) in readings.iter_mut().zip(&old.columns) {
                *reading = column.get(row).copied().unwrap_or(f64::NAN);
            }
            // Rows that fitted the old block fit the wider one.
            let _ = copy.push(NewRow { at_ms, readings: &readings, delay_ms: f64::NAN, is_kept: true });
        }
        copy
    }

    /// Adds a row that is later than the last one. Only one thread at a time may call this. A reading is rounded to its
    /// column's step; a reading that is not finite becomes a gap.
    pub(crate) fn push(&self, new: NewRow<'_>) -> Result<(), PushRefused> {
        let NewRow { at_ms, readings, delay_ms, .. } = new;
        let row = self.rows.load(Ordering::Relaxed);
        let offset = at_ms.checked_sub(self.first_ms).and_then(|offset| u32::try_from(offset).ok());
        let (Some(offset), true) = (offset, at_ms < self.until_ms) else { return Err(PushRefused::Full) };
        let (nth, row_in_slab) = place(row);
        let slab = self.slabs.place(nth).ok_or(PushRefused::Full)?;
        let slab = slab.get_or_init(|| Slab::new(&self.lanes, slab_rows(nth)));
        let (narrow, wide) = slab.row(row_in_slab);
        let (mut narrow, mut wide) = (narrow.iter(), wide.iter());
        let put = |place: Option<&AtomicU32>, bits| place.map(|place| place.store(bits, Ordering::Relaxed));
        put(narrow.next(), offset);
        let row_of = readings.iter().copied().chain([delay_ms]);
        for (lane, reading) in self.lanes.iter().zip(row_of) {
            match *lane {
                ColumnLane::Narrow(..) if !reading.is_finite() => _ = put(narrow.next(), GAP as u32),
                ColumnLane::Narrow(_, quantum) => {
                    let whole = whole_steps(quantum, reading).ok_or(PushRefused::Narrow)?;
                    put(narrow.next(), whole as u32);
                }
                ColumnLane::Wide(_, quantum) => {
                    if let Some(place) = wide.next() {
                        place.store(quantum.keep(reading).to_bits(), Ordering::Relaxed);
                    }
                }
            }
        }
        self.rows.store(row + 1, Ordering::Release);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.load(Ordering::Acquire)
    }

    pub(crate) fn end_row(&self) -> u64 {
        self.start_row + self.len() as u64
    }

    /// Returns the bytes of memory that the block takes now.
    pub(crate) fn bytes(&self) -> u64 {
        let rows = self.slabs.iter().map(|slab| size_of_val(&slab.narrow[..]) + size_of_val(&slab.wide[..]));
        let places = self.slabs.large.get().map_or(0, |large| size_of_val(&**large));
        (size_of::<Self>() + places + rows.sum::<usize>()) as u64
    }

    /// Returns the bytes of memory that the block takes once it is full.
    pub(crate) fn full_bytes(&self, layout: Layout, interval_ms: i64) -> u64 {
        let rows = usize::try_from(layout.block_ms / interval_ms.max(1)).unwrap_or(usize::MAX);
        let rows = rows.clamp(1, first_row(SMALL_SLABS + LARGE_SLABS));
        let wide = self.lanes.iter().filter(|lane| matches!(lane, ColumnLane::Wide(..))).count();
        let row = size_of::<u32>() * (1 + self.lanes.len() - wide) + size_of::<u64>() * wide;
        (rows * row + parts_of(layout) * self.lanes.len() * size_of::<Cell>()) as u64
    }

    /// Returns the time of a row.
    pub(crate) fn at_ms(&self, row: usize) -> Option<i64> {
        let (nth, row_in_slab) = place(row);
        let slab = self.slabs.get(nth)?;
        let offset = slab.narrow(0, row_in_slab..row_in_slab + 1).next()?;
        (row < self.len()).then(|| self.first_ms + i64::from(offset))
    }

    pub(crate) fn last_ms(&self) -> Option<i64> {
        self.at_ms(self.len().checked_sub(1)?)
    }

    pub(crate) fn reading(&self, field: usize, row: usize) -> f64 {
        let (nth, row_in_slab) = place(row);
        let (Some(slab), Some(lane)) = (self.slabs.get(nth), self.lanes.get(field)) else { return f64::NAN };
        slab.reading(*lane, row_in_slab)
    }

    /// Returns how many rows are before a time.
    pub(crate) fn rows_before(&self, at_ms: i64) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.at_ms(middle).is_some_and(|at| at < at_ms) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Returns a counter's last total among the first `rows`, or before them; gaps are skipped. Returns `None` if the
    /// read time of that total is unknown.
    pub(crate) fn total_before(&self, schema: &Schema, field: usize, rows: usize) -> Option<CounterTotal> {
        let known = (0..rows).rev().map(|row| (row, self.reading(field, row))).find(|(_, total)| !total.is_nan());
        match known {
            Some((row, total)) => CounterTotal::read(self.at_ms(row)?, self.delay(schema, row), total),
            None => self.before.get(field).copied().flatten(),
        }
    }

    /// Returns how long after its time a row was read, in milliseconds.
    pub(crate) fn delay(&self, schema: &Schema, row: usize) -> f64 {
        if schema.has_delay() { self.reading(schema.fields().len(), row) } else { 0.0 }
    }

    /// Copies the first `rows` rows.
    pub(crate) fn read(&self, rows: usize) -> RawRows {
        let mut read = self.read_range(0..rows, |_| true);
        read.before.clone_from(&self.before);
        read
    }

    /// Copies the rows from `row` on. The counters' totals before them are included only if `row` is 0.
    pub(crate) fn read_from(&self, row: usize) -> RawRows {
        let mut read = self.read_range(row..self.len(), |_| true);
        if row == 0 {
            read.before.clone_from(&self.before);
        }
        read
    }

    /// Returns some rows as queries see them. The columns of fields that are not wanted stay empty.
    pub(crate) fn values(&self, schema: &Schema, rows: Range<usize>, wanted: impl Fn(usize) -> bool) -> RowValues {
        let before = schema.fields().iter().enumerate().map(|(field, StoredField { kind, .. })| match kind {
            Kind::Counter { .. } if wanted(field) => self.total_before(schema, field, rows.start),
            _ => None,
        });
        let before = before.collect();
        RawRows { before, ..self.read_range(rows, |column| schema.needs(column, &wanted)) }.into_values(schema)
    }

    /// Returns the cells of the first `rows` rows, part by part.
    pub(crate) fn parts(
        &self,
        schema: &Schema,
        layout: Layout,
        rows: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> PartCells {
        let known = self.parts.get_or_init(|| (0..parts_of(layout)).map(|_| OnceLock::new()).collect());
        let mut parts = PartCells { at_ms: Vec::new(), cells: Vec::new() };
        let mut from = 0;
        while let Some(first_ms) = self.at_ms(from).filter(|_| from < rows) {
            let at_ms = ladder::floor(first_ms, layout.part_ms);
            let to = self.rows_before(at_ms.saturating_add(layout.part_ms)).min(rows);
            let cells = |wanted: &dyn Fn(usize) -> bool| -> Box<[Cell]> {
                let values = self.values(schema, from..to, wanted);
                let cells =
                    (0..schema.fields().len()).map(|field| Cell::of(values.column(field), schema.value_quantum(field)));
                cells.collect()
            };
            let nth = at_ms.saturating_sub(ladder::floor(self.first_ms, layout.part_ms)) / layout.part_ms;
            parts.at_ms.push(at_ms);
            match usize::try_from(nth).ok().and_then(|nth| known.get(nth)).filter(|_| to < rows) {
                Some(complete) => parts.cells.extend_from_slice(complete.get_or_init(|| cells(&|_| true))),
                None => parts.cells.extend_from_slice(&cells(&wanted)),
            }
            from = to;
        }
        parts
    }

    /// Copies some columns of some rows: the times, and the readings of each column.
    pub(crate) fn columns(&self, rows: Range<usize>, wanted: &[usize]) -> (Vec<i64>, Vec<Vec<f64>>) {
        let read = self.read_range(rows, |column| wanted.contains(&column));
        let column = |index: &usize| read.columns.get(*index).cloned().unwrap_or_default();
        let columns = wanted.iter().map(column).collect();
        (read.at_ms, columns)
    }

    fn read_range(&self, rows: Range<usize>, wanted: impl Fn(usize) -> bool) -> RawRows {
        let rows = rows.start..rows.end.min(self.len());
        // The slabs that hold the rows, with the range of rows in each.
        let runs = || {
            self.slabs.iter().enumerate().filter_map(|(nth, slab)| {
                let within = |row: usize| row.saturating_sub(first_row(nth)).min(slab_rows(nth));
                let run = within(rows.start)..within(rows.end);
                (!run.is_empty()).then_some((slab, run))
            })
        };
        let mut at_ms = Vec::with_capacity(rows.len());
        for (slab, run) in runs() {
            at_ms.extend(slab.narrow(0, run).map(|offset| self.first_ms + i64::from(offset)));
        }
        let columns = self.lanes.iter().enumerate().map(|(field, lane)| {
            let mut column = Vec::new();
            if wanted(field) {
                column.reserve_exact(rows.len());
                runs().for_each(|(slab, run)| slab.read(*lane, run, &mut column));
            }
            column
        });
        RawRows { columns: columns.collect(), at_ms, before: Vec::new(), generation: self.generation }
    }
}

/// Returns the number of parts in a block.
fn parts_of(layout: Layout) -> usize {
    usize::try_from(layout.block_ms / layout.part_ms).unwrap_or_default()
}

/// Returns the number of a row's slab, and the row's number in that slab.
#[inline]
fn place(row: usize) -> (usize, usize) {
    match row.checked_sub(SLAB_ROWS) {
        Some(beyond) => (SMALL_SLABS + beyond / SLAB_ROWS, beyond % SLAB_ROWS),
        None => {
            let nth = (usize::BITS - row.leading_zeros()) as usize;
            (nth, row - first_row(nth))
        }
    }
}

/// Returns the first row of a slab.
fn first_row(nth: usize) -> usize {
    match nth.checked_sub(SMALL_SLABS) {
        Some(beyond) => SLAB_ROWS * (1 + beyond),
        None => (1 << nth) / 2,
    }
}

fn slab_rows(nth: usize) -> usize {
    first_row(nth + 1) - first_row(nth)
}

// === impl Slabs ===

impl Slabs {
    fn iter(&self) -> impl Iterator<Item = &Slab> {
        let large = self.large.get().into_iter().flat_map(|large| large.iter());
        self.small.iter().chain(large).map_while(OnceLock::get)
    }

    #[inline]
    fn get(&self, nth: usize) -> Option<&Slab> {
        match nth.checked_sub(SMALL_SLABS) {
            None => self.small.get(nth)?.get(),
            Some(nth) => self.large.get()?.get(nth)?.get(),
        }
    }

    /// Returns the place of a slab; `None` beyond the last possible one.
    #[inline]
    fn place(&self, nth: usize) -> Option<&OnceLock<Slab>> {
        match nth.checked_sub(SMALL_SLABS) {
            None => self.small.get(nth),
            Some(nth) => self.large.get_or_init(Box::default).get(nth),
        }
    }
}

// === impl Slab ===

impl Slab {
    fn new(lanes: &[ColumnLane], rows: usize) -> Self {
        let wide_lanes = lanes.iter().filter(|lane| matches!(lane, ColumnLane::Wide(..))).count();
        let narrow_lanes = 1 + lanes.len() - wide_lanes;
        Self {
            narrow: (0..narrow_lanes * rows).map(|_| AtomicU32::new(0)).collect(),
            wide: (0..wide_lanes * rows).map(|_| AtomicU64::new(0)).collect(),
            narrow_lanes,
            wide_lanes,
        }
    }

    /// Returns a row's narrow columns, the time first, and its wide columns.
    fn row(&self, row: usize) -> (&[AtomicU32], &[AtomicU64]) {
        let (narrow, wide) = (self.narrow_lanes, self.wide_lanes);
        let narrow = self.narrow.get(row * narrow..(row + 1) * narrow).unwrap_or_default();
        (narrow, self.wide.get(row * wide..(row + 1) * wide).unwrap_or_default())
    }

    fn narrow(&self, lane: usize, rows: Range<usize>) -> impl Iterator<Item = u32> {
        let width = self.narrow_lanes;
        let column = self.narrow.iter().skip(rows.start * width + lane).step_by(width).take(rows.len());
        column.map(|bits| bits.load(Ordering::Relaxed))
    }

    fn wide(&self, lane: usize, rows: Range<usize>) -> impl Iterator<Item = f64> {
        let width = self.wide_lanes;
        let column = self.wide.iter().skip(rows.start * width + lane).step_by(width.max(1)).take(rows.len());
        column.map(|bits| f64::from_bits(bits.load(Ordering::Relaxed)))
    }

    fn reading(&self, lane: ColumnLane, row: usize) -> f64 {
        let reading = match lane {
            ColumnLane::Narrow(lane, quantum) => {
                self.narrow(lane, row..row + 1).next().map(|bits| value(quantum, bits))
            }
            ColumnLane::Wide(lane, _) => self.wide(lane, row..row + 1).next(),
        };
        reading.unwrap_or(f64::NAN)
    }

    /// Appends some readings of a column to `column`.
    fn read(&self, lane: ColumnLane, rows: Range<usize>, column: &mut Vec<f64>) {
        match lane {
            // A separate arm keeps the match on the quantum outside the loop.
            ColumnLane::Narrow(lane, Quantum::Part(parts)) => {
                let quantum = Quantum::Part(parts);
                column.extend(self.narrow(lane, rows).map(|bits| value(quantum, bits)));
            }
            ColumnLane::Narrow(lane, quantum) => {
                column.extend(self.narrow(lane, rows).map(|bits| value(quantum, bits)))
            }
            ColumnLane::Wide(lane, _) => column.extend(self.wide(lane, rows)),
        }
    }
}

fn value(quantum: Quantum, bits: u32) -> f64 {
    let whole = bits as i32;
    if whole == GAP { f64::NAN } else { quantum.value(f64::from(whole)) }
}
