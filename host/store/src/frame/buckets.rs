//! Puts a frame's rows into buckets: by the cells of whole blocks if possible, else by the cells of their parts, else
//! row by row. Times that the clock went over more than once are read row by row, too.

use super::generations::{self, GenerationRows};
use super::{Frame, FrameView};
use crate::cell::Cell;
use crate::query::Align;
use crate::rows::{PartCells, RowValues};
use crate::{Query, Schema};
use std::ops::Range;

/// The buckets of one frame that have rows, ascending.
#[derive(Debug)]
pub(crate) struct Buckets {
    pub(crate) at_ms: Vec<i64>,
    /// The indexes of the wanted fields.
    pub(crate) fields: Vec<usize>,
    /// The cells, by bucket, then by field.
    pub(crate) cells: Vec<Cell>,
}

/// A query of one frame, in a part of the query's window.
#[derive(Clone, Copy)]
struct FrameQuery<'a> {
    frame: &'a Frame,
    query: &'a Query,
    since_ms: i64,
    until_ms: i64,
    /// The number of the first row that counts.
    first_row: u64,
}

/// The rows of a sealed or open block.
struct BlockSpan {
    first_ms: i64,
    last_ms: i64,
    /// How many rows at the start no longer count, because a full ring evicted them.
    skip: usize,
}

impl Buckets {
    pub(super) fn of(frame: &Frame, view: &FrameView, query: &Query) -> Self {
        let fields = frame.schema().fields().iter().enumerate().filter(|(_, field)| query.wants(&field.name));
        let mut buckets =
            Self { at_ms: Vec::new(), fields: fields.map(|(index, _)| index).collect(), cells: Vec::new() };
        let Query { since_ms, until_ms, .. } = *query;
        let first_row = view.first_row(frame.capacity());
        let asked = FrameQuery { frame, query, since_ms, until_ms, first_row };
        let runs = GenerationRows::all(view);
        match &runs[..] {
            [] => {}
            [run] => buckets.run(run, asked),
            several => {
                for (Range { start, end }, over) in generations::spans(several, since_ms..until_ms) {
                    let asked = FrameQuery { since_ms: start, until_ms: end, ..asked };
                    match &over[..] {
                        [run] => buckets.run(run, asked),
                        several => buckets.merged(several, asked),
                    }
                }
            }
        }
        buckets
    }

    fn run(&mut self, run: &GenerationRows, asked: FrameQuery) {
        let FrameQuery { frame, query, first_row, .. } = asked;
        let (schema, layout) = (frame.schema(), frame.layout());
        for block in run.blocks_in(asked.since_ms..asked.until_ms).filter(|block| block.end_row() > first_row) {
            let span = BlockSpan::of(block.first_ms, block.last_ms, block.start_row, first_row);
            let added = match span.granularity(asked, layout.part_ms) {
                Granularity::Whole => block.with_cells(schema, layout, frame.cache(), |cells| {
                    let bucket = query.bucket(span.first_ms);
                    self.add(bucket, |field| Some(cells.get(field, schema, block.rows)));
                }),
                Granularity::Parts => block.parts(schema, layout, frame.cache()).map(|parts| self.parts(asked, &parts)),
                Granularity::Rows => {
                    let values = block.values(schema, frame.cache());
                    values.map(|values| self.rows(asked, &values, span.skip, block.rows))
                }
            };
            if let Err(error) = added {
                frame.unreadable(&error);
            }
        }
        for open in run.opens {
            let (Some(last_ms), rows) = (open.last_ms(), open.len()) else { continue };
            let span = BlockSpan::of(open.first_ms, last_ms, open.start_row, first_row);
            if last_ms < asked.since_ms || open.first_ms >= asked.until_ms || span.skip >= rows {
                continue;
            }
            let wanted = |field| self.fields.contains(&field);
            match span.granularity(asked, layout.part_ms) {
                Granularity::Whole => {
                    let cells = open.parts(schema, layout, rows, wanted).whole(schema);
                    self.add(query.bucket(span.first_ms), |field| cells.get(field).copied());
                }
                Granularity::Parts => {
                    let parts = open.parts(schema, layout, rows, wanted);
                    self.parts(asked, &parts);
                }
                Granularity::Rows => {
                    let from = open.rows_before(asked.since_ms).max(span.skip);
                    let to = open.rows_before(asked.until_ms).min(rows);
                    let values = open.values(schema, from..to, wanted);
                    self.rows(asked, &values, 0, values.at_ms.len());
                }
            }
        }
    }

    /// Adds the rows of several generations that cover the same time, in the order of their times. Of rows with the
    /// same time only the one written last is added.
    fn merged(&mut self, runs: &[&GenerationRows], asked: FrameQuery) {
        let wanted = |field| self.fields.contains(&field);
        let pieces: Vec<RowValues> = runs.iter().flat_map(|run| values(run, asked, wanted)).collect();
        let rows = generations::in_order(&pieces.iter().map(|piece| &piece.at_ms[..]).collect::<Vec<_>>());
        let at_ms = rows.iter().filter_map(|(nth, row)| pieces.get(*nth)?.at_ms.get(*row).copied()).collect();
        let column = |field: usize| -> Vec<f64> {
            let value = |(nth, row): &(usize, usize)| pieces.get(*nth)?.column(field).get(*row).copied();
            rows.iter().map(|row| value(row).unwrap_or(f64::NAN)).collect()
        };
        let columns = (0..asked.frame.schema().fields().len()).map(|field| match self.fields.contains(&field) {
            true => column(field),
            false => Vec::new(),
        });
        let values = RowValues { columns: columns.collect(), at_ms };
        self.rows(asked, &values, 0, values.at_ms.len());
    }

    /// Returns the cells of the bucket at a time, which is the last bucket or a new one after it.
    fn bucket(&mut self, at_ms: i64, fields: usize) -> &mut [Cell] {
        if self.at_ms.last() != Some(&at_ms) {
            self.at_ms.push(at_ms);
            self.cells.resize(self.cells.len() + fields, Cell::EMPTY);
        }
        let from = self.cells.len() - fields;
        self.cells.get_mut(from..).unwrap_or_default()
    }

    /// Adds a cell of each wanted field to the bucket at a time.
    fn add(&mut self, at_ms: i64, cell: impl Fn(usize) -> Option<Cell>) {
        let fields = std::mem::take(&mut self.fields);
        for (sum, &field) in self.bucket(at_ms, fields.len()).iter_mut().zip(&fields) {
            if let Some(cell) = cell(field) {
                sum.add(&cell);
            }
        }
        self.fields = fields;
    }

    fn parts(&mut self, asked: FrameQuery, parts: &PartCells) {
        let (fields, part_ms) = (asked.frame.schema().fields().len().max(1), asked.frame.layout().part_ms);
        for (&at, cells) in parts.at_ms.iter().zip(parts.cells.chunks(fields)) {
            // A part that begins before the window has no rows there, else `BlockSpan::granularity` would have chosen
            // rows.
            if at < asked.until_ms && at.saturating_add(part_ms) > asked.since_ms {
                self.add(asked.query.bucket(at), |field| cells.get(field).copied());
            }
        }
    }

    fn rows(&mut self, asked: FrameQuery, values: &RowValues, skip: usize, rows: usize) {
        let (query, schema): (&Query, &Schema) = (asked.query, asked.frame.schema());
        let at_ms = values.at_ms.get(..rows).unwrap_or(&values.at_ms);
        let mut from = at_ms.partition_point(|&at| at < asked.since_ms).max(skip);
        let until = at_ms.partition_point(|&at| at < asked.until_ms);
        while let Some(&first) = at_ms.get(from).filter(|_| from < until) {
            let start = query.bucket(first);
            let end = start.saturating_add(query.step_ms.max(1));
            let run = at_ms.get(from..until).unwrap_or_default().iter().take_while(|&&at| at < end).count().max(1);
            let fields = std::mem::take(&mut self.fields);
            for (sum, &field) in self.bucket(start, fields.len()).iter_mut().zip(&fields) {
                let values = values.column(field).get(from..from + run).unwrap_or_default();
                sum.add(&Cell::of(values, schema.value_quantum(field)));
            }
            self.fields = fields;
            from += run;
        }
    }
}

/// Returns the rows of a generation in a window, block by block.
fn values(run: &GenerationRows, asked: FrameQuery, wanted: impl Fn(usize) -> bool + Copy) -> Vec<RowValues> {
    let FrameQuery { frame, first_row, since_ms, until_ms, .. } = asked;
    let schema = frame.schema();
    let mut pieces = Vec::new();
    for block in run.blocks_in(since_ms..until_ms) {
        match block.values(schema, frame.cache()) {
            Ok(values) => {
                let skip = usize::try_from(first_row.saturating_sub(block.start_row)).unwrap_or(usize::MAX);
                let at_ms = values.at_ms.get(..block.rows).unwrap_or(&values.at_ms);
                let from = at_ms.partition_point(|&at| at < since_ms).max(skip);
                let to = at_ms.partition_point(|&at| at < until_ms).max(from);
                let some = |field: usize, all: &Vec<f64>| match wanted(field) {
                    true => all.get(from..to).unwrap_or_default().to_vec(),
                    false => Vec::new(),
                };
                let columns = values.columns.iter().enumerate().map(|(field, all)| some(field, all)).collect();
                pieces.push(RowValues { at_ms: at_ms.get(from..to).unwrap_or_default().to_vec(), columns });
            }
            Err(error) => frame.unreadable(&error),
        }
    }
    for open in run.opens {
        let skip = usize::try_from(first_row.saturating_sub(open.start_row)).unwrap_or(usize::MAX);
        let from = open.rows_before(since_ms).max(skip);
        let to = open.rows_before(until_ms);
        if from < to {
            pieces.push(open.values(schema, from..to, wanted));
        }
    }
    pieces
}

enum Granularity {
    Whole,
    Parts,
    Rows,
}

impl BlockSpan {
    fn of(first_ms: i64, last_ms: i64, start_row: u64, first_row: u64) -> Self {
        let skip = usize::try_from(first_row.saturating_sub(start_row)).unwrap_or(usize::MAX);
        Self { first_ms, last_ms, skip }
    }

    /// Returns the coarsest granularity that puts every row into its bucket.
    fn granularity(&self, FrameQuery { query, since_ms, until_ms, .. }: FrameQuery, part_ms: i64) -> Granularity {
        let inside = since_ms <= self.first_ms && self.last_ms < until_ms;
        if self.skip > 0 {
            Granularity::Rows
        } else if inside && query.bucket(self.first_ms) == query.bucket(self.last_ms) {
            Granularity::Whole
        } else {
            let on_part = |at: i64| at.rem_euclid(part_ms) == 0;
            let steps = on_part(query.step_ms.max(1)) && (query.align == Align::Epoch || on_part(query.since_ms));
            let since = since_ms <= self.first_ms || on_part(since_ms);
            let until = self.last_ms < until_ms || on_part(until_ms);
            if steps && since && until { Granularity::Parts } else { Granularity::Rows }
        }
    }
}
