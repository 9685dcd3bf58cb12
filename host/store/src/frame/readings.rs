//! Reads some columns of a frame's rows as they were recorded: counters as totals, gaps as NaN.

use super::generations::{self, GenerationRows};
use super::{BlockRef, Frame, FrameView};
use crate::Windows;
use crate::codec::PagePart;
use std::ops::Range;

/// Rows, ascending in time.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    pub(crate) at_ms: Vec<i64>,
    /// The readings, one vector per wanted column.
    pub(crate) columns: Vec<Vec<f64>>,
    /// The chunk that was read last: memory that is used again.
    pub(super) chunk: Vec<u8>,
}

impl Frame {
    /// Returns about how many rows are in some windows, if they come on schedule.
    pub(crate) fn rows_in(&self, windows: &Windows) -> usize {
        let Some((first_ms, last_ms)) = self.span_ms() else { return 0 };
        let window = windows.whole();
        let span_ms = last_ms.min(window.end).saturating_sub(first_ms.max(window.start)).max(0);
        let rows = usize::try_from(span_ms / self.interval_ms().max(1)).unwrap_or(usize::MAX);
        windows.share_of(rows).saturating_add(1)
    }

    /// Reads the rows of some windows in place of what `readings` held: their times, and the readings of each wanted
    /// column.
    pub(crate) fn read_rows(&self, columns: &[usize], windows: &Windows, readings: &mut Readings) {
        readings.clear(columns.len());
        readings.reserve(self.rows_in(windows));
        let view = self.view();
        let runs = GenerationRows::all(&view);
        match &runs[..] {
            [] => {}
            [run] => self.append_rows(&view, run, columns, windows, readings),
            several => {
                for (span, over) in generations::spans(several, windows.whole().clone()) {
                    let windows = windows.within(&span);
                    match &over[..] {
                        [run] => self.append_rows(&view, run, columns, &windows, readings),
                        several => {
                            let of_each = several.iter().map(|run| {
                                let mut of_run = Readings::new(columns.len());
                                self.append_rows(&view, run, columns, &windows, &mut of_run);
                                of_run
                            });
                            readings.append(Readings::merged(&of_each.collect::<Vec<_>>(), columns.len()));
                        }
                    }
                }
            }
        }
    }

    /// Appends those rows of a generation that are in some windows.
    fn append_rows(
        &self,
        view: &FrameView,
        run: &GenerationRows<'_>,
        columns: &[usize],
        windows: &Windows,
        readings: &mut Readings,
    ) {
        let first_row = view.first_row(self.capacity());
        let is_wanted = |block: &BlockRef<'_>| !windows.around(block.first_ms, block.last_ms).is_empty();
        let blocks: Vec<_> = run.blocks_in(windows.whole().clone()).filter(is_wanted).collect();
        for beside in blocks.chunk_by(|a, b| a.is_beside(b)) {
            self.append_blocks(beside, first_row, columns, windows, readings);
        }
        for open in run.opens {
            let Some((first_ms, last_ms)) = open.at_ms(0).zip(open.last_ms()) else { continue };
            let window = windows.around(first_ms, last_ms);
            let skipped = usize::try_from(first_row.saturating_sub(open.start_row)).unwrap_or(usize::MAX);
            let rows = open.rows_before(window.start).max(skipped)..open.rows_before(window.end);
            if !rows.is_empty() {
                let (at_ms, columns) = open.columns(rows, columns);
                readings.append(Readings { at_ms, columns, chunk: Vec::new() });
            }
        }
    }

    /// Appends rows of blocks whose pages are in one chunk: those in some windows, from the frame's row `first_row` on.
    fn append_blocks(
        &self,
        blocks: &[BlockRef<'_>],
        first_row: u64,
        columns: &[usize],
        windows: &Windows,
        readings: &mut Readings,
    ) {
        let part = |block: &BlockRef<'_>| {
            let skipped = usize::try_from(first_row.saturating_sub(block.start_row)).unwrap_or(usize::MAX);
            PagePart {
                page: block.place.page.into(),
                rows: skipped.min(block.rows)..block.rows,
                window: windows.around(block.first_ms, block.last_ms),
            }
        };
        let parts: Vec<_> = blocks.iter().map(part).collect();
        let Some(first) = blocks.first() else { return };
        let before = readings.at_ms.len();
        if let Err(error) = first.append(&parts, self.schema(), columns, readings) {
            readings.truncate(before);
            self.unreadable(&error);
        }
    }

    /// Returns the time of the newest row in a window, and its readings of the wanted columns.
    pub(crate) fn newest_reading(&self, columns: &[usize], window: Range<i64>) -> Option<(i64, Vec<f64>)> {
        let view = self.view();
        let mut newest: Option<(i64, Vec<f64>)> = None;
        for run in GenerationRows::all(&view) {
            let open = run.opens.iter().rev().find_map(|open| {
                let row = open.rows_before(window.end).checked_sub(1)?;
                let at_ms = open.at_ms(row).filter(|at_ms| *at_ms >= window.start)?;
                Some((at_ms, columns.iter().map(|column| open.reading(*column, row)).collect()))
            });
            let found = open.or_else(|| {
                let block = run.blocks_in(window.clone()).last()?;
                let mut readings = Readings::new(columns.len());
                self.append_blocks(&[block], 0, columns, &Windows::one(window.clone()), &mut readings);
                let last = |column: &Vec<f64>| column.last().copied().unwrap_or(f64::NAN);
                Some((*readings.at_ms.last()?, readings.columns.iter().map(last).collect()))
            });
            // Of rows with the same time the one written later counts.
            if let Some(found) = found
                && newest.as_ref().is_none_or(|newest| newest.0 <= found.0)
            {
                newest = Some(found);
            }
        }
        newest
    }
}

impl Readings {
    pub(crate) fn new(columns: usize) -> Self {
        Self { columns: vec![Vec::new(); columns], ..Self::default() }
    }

    /// Removes all rows. The memory stays.
    fn clear(&mut self, columns: usize) {
        self.truncate(0);
        self.columns.resize_with(columns, Vec::new);
    }

    fn reserve(&mut self, rows: usize) {
        self.at_ms.reserve(rows);
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
    }

    fn truncate(&mut self, rows: usize) {
        self.at_ms.truncate(rows);
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// Appends later rows.
    fn append(&mut self, mut later: Self) {
        self.at_ms.append(&mut later.at_ms);
        self.columns.iter_mut().zip(&mut later.columns).for_each(|(column, later)| column.append(later));
    }

    /// Merges the rows of several generations. Of rows with the same time the one written last stays.
    fn merged(all: &[Self], columns: usize) -> Self {
        let rows = generations::in_order(&all.iter().map(|one| &one.at_ms[..]).collect::<Vec<_>>());
        let reading = |column: usize, (nth, row): &(usize, usize)| {
            all.get(*nth).and_then(|one| one.columns.get(column)?.get(*row).copied()).unwrap_or(f64::NAN)
        };
        Self {
            at_ms: rows.iter().filter_map(|(nth, row)| all.get(*nth)?.at_ms.get(*row).copied()).collect(),
            columns: (0..columns).map(|column| rows.iter().map(|row| reading(column, row)).collect()).collect(),
            chunk: Vec::new(),
        }
    }
}
