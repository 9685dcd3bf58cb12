//! Reads some columns of a frame's rows as they were recorded: counters as totals, gaps as NaN.

use super::block::UnreadableBlock;
use super::generations::{self, GenerationRows};
use super::{BlockRef, Frame, FrameView};
use std::ops::Range;

/// Some rows, ascending in time.
#[derive(Debug, Default)]
struct Piece {
    at_ms: Vec<i64>,
    /// The readings, one vector per wanted column.
    columns: Vec<Vec<f64>>,
}

impl Frame {
    /// Passes the rows of a window to `take`, ascending in time, a block at a time: their times, and the readings of
    /// each wanted column.
    fn readings(&self, columns: &[usize], window: Range<i64>, mut take: impl FnMut(Piece)) {
        let view = self.view();
        let mut take = |piece: Piece| {
            if !piece.at_ms.is_empty() {
                take(piece);
            }
        };
        let runs = GenerationRows::all(&view);
        match &runs[..] {
            [] => {}
            [run] => self.pieces(&view, run, columns, &window, &mut take),
            several => {
                for (window, over) in generations::spans(several, window) {
                    match &over[..] {
                        [run] => self.pieces(&view, run, columns, &window, &mut take),
                        several => {
                            let mut pieces = Vec::new();
                            let mut collect = |piece| pieces.push(piece);
                            several.iter().for_each(|run| self.pieces(&view, run, columns, &window, &mut collect));
                            take(Piece::merged(pieces, columns.len()));
                        }
                    }
                }
            }
        }
    }

    fn pieces(
        &self,
        view: &FrameView,
        run: &GenerationRows<'_>,
        columns: &[usize],
        window: &Range<i64>,
        take: &mut dyn FnMut(Piece),
    ) {
        let first_row = view.first_row(self.capacity());
        let skip = |start_row: u64| usize::try_from(first_row.saturating_sub(start_row)).unwrap_or(usize::MAX);
        let blocks: Vec<_> = run.blocks_in(window.clone()).collect();
        for beside in blocks.chunk_by(|a, b| a.is_beside(b)) {
            // Rows that are no longer wanted are the first ones.
            let skipped = beside.iter().map(|block| skip(block.start_row).min(block.rows)).sum();
            match self.unpacked(beside, columns) {
                Ok(piece) => take(piece.within(window, skipped)),
                Err(error) => self.unreadable(&error),
            }
        }
        for open in run.opens {
            let rows = open.rows_before(window.start).max(skip(open.start_row))..open.rows_before(window.end);
            if !rows.is_empty() {
                let (at_ms, columns) = open.columns(rows, columns);
                take(Piece { at_ms, columns });
            }
        }
    }

    /// Unpacks some columns of blocks whose pages are in one chunk.
    fn unpacked(&self, blocks: &[BlockRef<'_>], columns: &[usize]) -> Result<Piece, UnreadableBlock> {
        let rows = blocks.iter().map(|block| block.rows).sum();
        let mut piece = Piece {
            at_ms: Vec::with_capacity(rows),
            columns: columns.iter().map(|_| Vec::with_capacity(rows)).collect(),
        };
        let pages: Vec<(usize, usize)> = blocks.iter().map(|block| (block.place.page.into(), block.rows)).collect();
        if let Some(first) = blocks.first() {
            first.append(&pages, self.schema(), columns, &mut piece.at_ms, &mut piece.columns)?;
        }
        Ok(piece)
    }

    /// Returns about how many rows are in a window, if they come on schedule.
    pub(crate) fn rows_in(&self, window: &Range<i64>) -> usize {
        let Some((first_ms, last_ms)) = self.span_ms() else { return 0 };
        let span_ms = last_ms.min(window.end).saturating_sub(first_ms.max(window.start)).max(0);
        usize::try_from(span_ms / self.interval_ms().max(1)).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// Returns the rows of a window, ascending in time: their times, and the readings of each wanted column.
    pub(crate) fn rows(&self, columns: &[usize], window: Range<i64>) -> (Vec<i64>, Vec<Vec<f64>>) {
        let rows = self.rows_in(&window);
        let mut all = Piece {
            at_ms: Vec::with_capacity(rows),
            columns: columns.iter().map(|_| Vec::with_capacity(rows)).collect(),
        };
        self.readings(columns, window, |piece| all.append(piece));
        (all.at_ms, all.columns)
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
                let read = self.unpacked(&[block], columns).inspect_err(|error| self.unreadable(error));
                let piece = read.ok()?.within(&window, 0);
                let last = |column: &Vec<f64>| column.last().copied().unwrap_or(f64::NAN);
                Some((*piece.at_ms.last()?, piece.columns.iter().map(last).collect()))
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

impl Piece {
    /// Appends later rows.
    fn append(&mut self, mut later: Self) {
        self.at_ms.append(&mut later.at_ms);
        self.columns.iter_mut().zip(&mut later.columns).for_each(|(column, later)| column.append(later));
    }

    fn within(mut self, window: &Range<i64>, skip: usize) -> Self {
        let until = self.at_ms.partition_point(|at| *at < window.end);
        let from = self.at_ms.partition_point(|at| *at < window.start).max(skip).min(until);
        if from > 0 || until < self.at_ms.len() {
            for column in &mut self.columns {
                column.truncate(until);
                column.drain(..from);
            }
            self.at_ms.truncate(until);
            self.at_ms.drain(..from);
        }
        self
    }

    /// Merges the rows of several generations. Of rows with the same time the one written last stays.
    fn merged(pieces: Vec<Self>, columns: usize) -> Self {
        let rows = generations::in_order(&pieces.iter().map(|piece| &piece.at_ms[..]).collect::<Vec<_>>());
        let reading = |column: usize, (nth, row): &(usize, usize)| {
            pieces.get(*nth).and_then(|piece| piece.columns.get(column)?.get(*row).copied()).unwrap_or(f64::NAN)
        };
        Self {
            at_ms: rows.iter().filter_map(|(nth, row)| pieces.get(*nth)?.at_ms.get(*row).copied()).collect(),
            columns: (0..columns).map(|column| rows.iter().map(|row| reading(column, row)).collect()).collect(),
        }
    }
}
