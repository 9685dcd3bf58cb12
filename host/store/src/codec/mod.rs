//! The compressed form of sealed rows. A chunk holds one or more pages of one frame. Each page is a block of rows; each
//! column is compressed over all pages.
//!
//! ```text
//! chunk:  number of columns · number of pages
//!         per page: rows · generation · first time · times (or: the same again) · cell per field · total before it per
//!         counter
//!         per column: kind · step · gaps per page · pcodec's chunk head · pcodec's page per page
//! ```

mod bytes;
mod cells;
mod column;
#[cfg(test)]
mod tests;

pub(crate) use bytes::{ByteReader, CorruptData, put_bytes, put_f64, put_i64, put_u64, unzigzag, zigzag};

use crate::cell::Cell;
use crate::rates::CounterTotal;
use crate::rows::RawRows;
use crate::{Kind, Schema};
pub(crate) use column::SLACK;
use column::{PackedColumn, PageRows};
use std::ops::Range;

/// The most rows of a page and the most pages of a chunk that the reader accepts. They are no targets for the writer.
pub(crate) const MOST_ROWS: usize = 1024;
pub(crate) const MOST_PAGES: usize = 64;

/// Marks a page with the same rows, generation, times and distance as the page before. The mark is unambiguous, because
/// every page has rows.
const SAME: u8 = 0;

/// The effort spent on compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// For a block that is sealed.
    Fast,
    /// For blocks that are merged, once, in the background.
    Dense,
}

/// The head of a page, which can be read without unpacking the page.
#[derive(Debug, Clone)]
pub(crate) struct PageHead {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) rows: usize,
    /// The generation of the rows: see [`RawRows::generation`].
    pub(crate) generation: u32,
    /// The cells, one per field.
    pub(crate) cells: Box<[Cell]>,
    times: RowTimes,
    before: Vec<Option<CounterTotal>>,
}

#[derive(Debug, Clone)]
enum RowTimes {
    /// A constant difference from row to row, in milliseconds.
    Regular(i64),
    /// The difference from each row to the next, in milliseconds.
    Steps(Vec<i64>),
}

/// A chunk whose heads are read.
pub(crate) struct Chunk<'a> {
    pub(crate) pages: Vec<PageHead>,
    columns: Vec<PackedColumn<'a>>,
}

/// The part of a page that is wanted.
#[derive(Debug)]
pub(crate) struct PagePart {
    /// The number of the page in its chunk.
    pub(crate) page: usize,
    /// The rows that count.
    pub(crate) rows: Range<usize>,
    /// The window of those that are wanted, in milliseconds.
    pub(crate) window: Range<i64>,
}

/// Packs pages of one frame, ascending in time. `cells` has the cells of each page.
pub(crate) fn encode(schema: &Schema, pages: &[&RawRows], cells: &[&[Cell]], effort: Effort) -> Vec<u8> {
    let mut out = Vec::with_capacity(pages.iter().map(|page| 64 + page.len() * schema.columns()).sum());
    put_u64(&mut out, schema.columns() as u64);
    put_u64(&mut out, pages.len() as u64);
    let mut before_ms = 0;
    let mut shape_before = Vec::new();
    let mut floors = vec![0; schema.fields().len()];
    for (page, cells) in pages.iter().zip(cells) {
        let first_ms = page.at_ms.first().copied().unwrap_or_default();
        let mut shape = Vec::new();
        put_u64(&mut shape, page.len() as u64);
        put_u64(&mut shape, u64::from(page.generation));
        put_i64(&mut shape, first_ms.wrapping_sub(before_ms));
        put_times(&mut shape, &page.at_ms);
        if shape == shape_before {
            out.push(SAME);
        } else {
            out.extend_from_slice(&shape);
            shape_before = shape;
        }
        for ((index, cell), floor) in cells.iter().enumerate().zip(&mut floors) {
            cells::put(&mut out, cell, cells::CellEncoding::of(schema, index), page.len(), floor);
        }
        for (index, field) in schema.fields().iter().enumerate() {
            if matches!(field.kind, Kind::Counter { .. }) {
                put_before(&mut out, page.before.get(index).copied().flatten(), first_ms, schema.has_delay());
            }
        }
        before_ms = first_ms;
    }
    for index in 0..schema.columns() {
        let columns: Vec<&[f64]> = pages.iter().map(|page| page.column(index)).collect();
        column::encode(&mut out, schema.quantum(index), &columns, effort);
    }
    out
}

impl<'a> Chunk<'a> {
    /// Reads everything but the values.
    pub(crate) fn read(schema: &Schema, bytes: &'a [u8]) -> Result<Self, CorruptData> {
        let mut reader = ByteReader(bytes);
        let pages = heads(schema, &mut reader)?;
        let rows: Vec<usize> = pages.iter().map(|page| page.rows).collect();
        let mut columns = Vec::with_capacity(schema.columns());
        for _ in 0..schema.columns() {
            columns.push(PackedColumn::read(&mut reader, &rows)?);
        }
        Ok(Self { pages, columns })
    }

    /// Unpacks a page.
    pub(crate) fn rows(&self, page: usize) -> Result<RawRows, CorruptData> {
        let head = self.pages.get(page).ok_or(CorruptData)?;
        let columns = self.columns.iter().map(|column| column.page(page, head.rows)).collect::<Result<_, _>>()?;
        Ok(RawRows { at_ms: head.at_ms(), columns, before: head.before.clone(), generation: head.generation })
    }

    /// Unpacks some columns of parts of pages, and appends them: the times to `at_ms`, and the readings of each column to
    /// the one of its place in `columns`.
    pub(crate) fn append(
        &self,
        parts: &[PagePart],
        wanted: &[usize],
        at_ms: &mut Vec<i64>,
        columns: &mut [Vec<f64>],
    ) -> Result<(), CorruptData> {
        let mut of_pages = Vec::with_capacity(parts.len());
        for PagePart { page, rows, window } in parts {
            let head = self.pages.get(*page).ok_or(CorruptData)?;
            let wanted = head.append_times(window, rows, at_ms);
            of_pages.push(PageRows { page: *page, rows: head.rows, wanted });
        }
        for (index, column) in wanted.iter().zip(columns) {
            self.columns.get(*index).ok_or(CorruptData)?.append(&of_pages, column)?;
        }
        Ok(())
    }
}

impl PageHead {
    fn at_ms(&self) -> Vec<i64> {
        let mut at_ms = Vec::with_capacity(self.rows);
        self.append_times(&(i64::MIN..i64::MAX), &(0..self.rows), &mut at_ms);
        at_ms
    }

    /// Appends the times of the rows that count and are in a window. Returns which rows these are.
    fn append_times(&self, window: &Range<i64>, counted: &Range<usize>, at_ms: &mut Vec<i64>) -> Range<usize> {
        let counted = counted.start..counted.end.min(self.rows);
        match &self.times {
            RowTimes::Regular(step) => {
                let rows_before = |at_ms: i64| match at_ms.saturating_sub(self.first_ms) {
                    ..=0 => 0,
                    later_ms => usize::try_from((later_ms - 1) / (*step).max(1) + 1).unwrap_or(usize::MAX),
                };
                let until = rows_before(window.end).min(counted.end);
                let from = rows_before(window.start).max(counted.start).min(until);
                at_ms.extend((from..until).map(|row| self.first_ms + row as i64 * step));
                from..until
            }
            RowTimes::Steps(steps) => {
                let later = steps.iter().scan(self.first_ms, |at, step| {
                    *at += step;
                    Some(*at)
                });
                let times: Vec<i64> = std::iter::once(self.first_ms).chain(later).collect();
                let until = times.partition_point(|at_ms| *at_ms < window.end).min(counted.end);
                let from = times.partition_point(|at_ms| *at_ms < window.start).max(counted.start).min(until);
                at_ms.extend_from_slice(times.get(from..until).unwrap_or_default());
                from..until
            }
        }
    }
}

/// Reads the heads of a chunk's pages.
pub(crate) fn heads(schema: &Schema, reader: &mut ByteReader<'_>) -> Result<Vec<PageHead>, CorruptData> {
    if reader.u64()? != schema.columns() as u64 {
        return Err(CorruptData);
    }
    let pages = reader.up_to(MOST_PAGES)?;
    let mut before_ms = 0i64;
    let mut shape = None;
    let mut floors = vec![0; schema.fields().len()];
    let mut page = || {
        let (rows, generation, ahead_ms, times) = match (reader.up_to(MOST_ROWS)?, shape.take()) {
            (0, Some(same)) => same,
            (0, None) => return Err(CorruptData),
            (rows, _) => {
                let generation = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
                (rows, generation, reader.i64()?, times(reader, rows)?)
            }
        };
        let first_ms = before_ms.wrapping_add(ahead_ms);
        before_ms = first_ms;
        shape = Some((rows, generation, ahead_ms, times.clone()));
        let span = match &times {
            RowTimes::Regular(step) => step.checked_mul(rows as i64 - 1),
            RowTimes::Steps(steps) => steps.iter().try_fold(0i64, |sum, step| sum.checked_add(*step)),
        };
        let last_ms = first_ms.checked_add(span.ok_or(CorruptData)?).ok_or(CorruptData)?;
        let mut cells = Vec::with_capacity(floors.len());
        for (index, floor) in floors.iter_mut().enumerate() {
            cells.push(cells::read(reader, cells::CellEncoding::of(schema, index), rows, floor)?);
        }
        let mut before = Vec::with_capacity(floors.len());
        for field in schema.fields() {
            before.push(match field.kind {
                Kind::Counter { .. } => read_before(reader, first_ms, schema.has_delay())?,
                Kind::Gauge => None,
            });
        }
        Ok(PageHead { first_ms, last_ms, rows, generation, cells: cells.into(), times, before })
    };
    let mut heads = Vec::with_capacity(pages);
    for _ in 0..pages {
        heads.push(page()?);
    }
    Ok(heads)
}

/// Delays are in tenths of a millisecond.
const TENTHS: f64 = 10.0;

/// Writes a counter's total before a block, and how long before the block's first time it was read; 0 means no total.
/// The difference is negative if the clock was set back. Without delays it is a positive number of whole milliseconds.
pub(crate) fn put_before(out: &mut Vec<u8>, before: Option<CounterTotal>, first_ms: i64, has_delay: bool) {
    let Some(CounterTotal { read_ms, total }) = before else { return put_u64(out, 0) };
    let ago_ms = first_ms as f64 - read_ms;
    if has_delay {
        let ago = (ago_ms * TENTHS).round().clamp(-9e15, 9e15) as i64;
        put_u64(out, zigzag(ago) + 1);
    } else {
        put_u64(out, (ago_ms as i64).max(1) as u64);
    }
    put_f64(out, total);
}

/// Reads what [`put_before`] wrote.
pub(crate) fn read_before(
    reader: &mut ByteReader<'_>,
    first_ms: i64,
    has_delay: bool,
) -> Result<Option<CounterTotal>, CorruptData> {
    let Some(ago) = reader.u64()?.checked_sub(1) else { return Ok(None) };
    let read_ms = match has_delay {
        true => (first_ms as f64 * TENTHS - unzigzag(ago) as f64) / TENTHS,
        false => first_ms.saturating_sub(i64::try_from(ago).map_err(|_| CorruptData)?.saturating_add(1)) as f64,
    };
    let total = reader.f64()?;
    Ok(Some(CounterTotal { read_ms, total }).filter(|_| total.is_finite()))
}

/// Writes the step if all rows have the same step, else 0 and the change from step to step.
fn put_times(out: &mut Vec<u8>, at_ms: &[i64]) {
    let steps: Vec<i64> = at_ms.iter().zip(at_ms.iter().skip(1)).map(|(at, next)| next.wrapping_sub(*at)).collect();
    match steps.split_first() {
        Some((first, rest)) if rest.iter().any(|step| step != first) => {
            put_u64(out, 0);
            let mut before = 0;
            for step in steps {
                put_i64(out, step - before);
                before = step;
            }
        }
        Some((step, _)) => put_u64(out, (*step).max(1) as u64),
        None => put_u64(out, 1),
    }
}

fn times(reader: &mut ByteReader<'_>, rows: usize) -> Result<RowTimes, CorruptData> {
    if rows == 0 {
        return Err(CorruptData);
    }
    let step = i64::try_from(reader.u64()?).map_err(|_| CorruptData)?;
    if step > 0 {
        return Ok(RowTimes::Regular(step));
    }
    let mut before = 0i64;
    let steps = (1..rows).map(|_| {
        before = before.checked_add(reader.i64()?).filter(|step| *step > 0).ok_or(CorruptData)?;
        Ok(before)
    });
    steps.collect::<Result<_, _>>().map(RowTimes::Steps)
}
