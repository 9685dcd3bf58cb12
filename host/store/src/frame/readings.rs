//! Reads some columns of a frame's rows as they were recorded: counters as totals, gaps as NaN.

use super::generations::{self, GenerationRows};
use super::{Frame, FrameView};
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
    pub(crate) fn readings(&self, columns: &[usize], window: Range<i64>, mut take: impl FnMut(&[i64], &[Vec<f64>])) {
        let view = self.view();
        let mut take = |piece: Piece| {
            if !piece.at_ms.is_empty() {
                take(&piece.at_ms, &piece.columns);
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
        for block in run.blocks_in(window.clone()) {
            match block.columns(self.schema(), columns) {
                Ok((at_ms, columns)) => take(Piece { at_ms, columns }.within(window, skip(block.start_row))),
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
                let read = block.columns(self.schema(), columns).inspect_err(|error| self.unreadable(error));
                let (at_ms, columns) = read.ok()?;
                let piece = Piece { at_ms, columns }.within(&window, 0);
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
    fn within(mut self, window: &Range<i64>, skip: usize) -> Self {
        let until = self.at_ms.partition_point(|at| *at < window.end);
        let from = self.at_ms.partition_point(|at| *at < window.start).max(skip).min(until);
        if from > 0 || until < self.at_ms.len() {
            let cut = |column: &mut Vec<f64>| *column = column.get(from..until).unwrap_or_default().to_vec();
            self.columns.iter_mut().for_each(cut);
            self.at_ms = self.at_ms.get(from..until).unwrap_or_default().to_vec();
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
