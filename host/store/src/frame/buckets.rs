//! Cuts a frame's rows into buckets: whole blocks by their cells, else by the cells of their parts, else row by row.

use super::{Frame, View};
use crate::cell::Cell;
use crate::query::Align;
use crate::rows::{Parts, Values};
use crate::{Query, Schema};

/// One frame's buckets that have rows, ascending.
#[derive(Debug)]
pub(crate) struct Buckets {
    pub(crate) at_ms: Vec<i64>,
    /// Which fields, by index.
    pub(crate) fields: Vec<usize>,
    /// By bucket, then by field.
    pub(crate) cells: Vec<Cell>,
}

/// A run of rows that lies together: a block, or the newest ones.
struct Piece {
    first_ms: i64,
    last_ms: i64,
    /// The rows that still count: a full ring has let go of the first of them.
    skip: usize,
}

impl Buckets {
    pub(super) fn of(frame: &Frame, view: &View, query: &Query) -> Self {
        let schema = frame.schema();
        let fields = schema.fields().iter().enumerate().filter(|(_, field)| query.wants(&field.name));
        let mut buckets =
            Self { at_ms: Vec::new(), fields: fields.map(|(index, _)| index).collect(), cells: Vec::new() };
        let first_row = view.first_row(frame.capacity());
        let from = view.blocks.partition_point(|block| block.last_ms < query.since_ms || block.end_row() <= first_row);
        for block in view.blocks.iter().skip(from).take_while(|block| block.first_ms < query.until_ms) {
            let skip = usize::try_from(first_row.saturating_sub(block.start_row)).unwrap_or(usize::MAX);
            let piece = Piece { first_ms: block.first_ms, last_ms: block.last_ms, skip };
            let added = match piece.way(query, frame.layout().part_ms) {
                Way::Whole => block.cells(schema, frame.layout()).map(|cells| {
                    let bucket = query.bucket(piece.first_ms);
                    buckets.add(bucket, |field| Some(cells.get(field, schema, block.rows)));
                }),
                Way::Parts => {
                    let parts = block.parts(schema, frame.layout(), frame.cache());
                    parts.map(|parts| buckets.parts(query, frame, &parts))
                }
                Way::Rows => {
                    let values = block.values(schema, frame.cache());
                    values.map(|values| buckets.rows(query, schema, &values, skip, block.rows))
                }
            };
            if let Err(error) = added {
                frame.unreadable(&error);
            }
        }
        for open in &view.opens {
            let (Some(last_ms), rows) = (open.last_ms(), open.len()) else { continue };
            let skip = usize::try_from(first_row.saturating_sub(open.start_row)).unwrap_or(usize::MAX);
            if last_ms < query.since_ms || open.first_ms >= query.until_ms || skip >= rows {
                continue;
            }
            let piece = Piece { first_ms: open.first_ms, last_ms, skip };
            let wanted = |field| buckets.fields.contains(&field);
            match piece.way(query, frame.layout().part_ms) {
                Way::Whole => {
                    let cells = open.parts(schema, frame.layout(), rows, wanted).whole(schema);
                    buckets.add(query.bucket(piece.first_ms), |field| cells.get(field).copied());
                }
                Way::Parts => {
                    let parts = open.parts(schema, frame.layout(), rows, wanted);
                    buckets.parts(query, frame, &parts);
                }
                Way::Rows => {
                    let from = open.rows_before(query.since_ms).max(skip);
                    let to = open.rows_before(query.until_ms).min(rows);
                    let values = open.values(schema, from..to, wanted);
                    buckets.rows(query, schema, &values, 0, values.at_ms.len());
                }
            }
        }
        buckets
    }

    /// The cells of the bucket at a time, which is the last there is or a new one after it.
    fn bucket(&mut self, at_ms: i64, fields: usize) -> &mut [Cell] {
        if self.at_ms.last() != Some(&at_ms) {
            self.at_ms.push(at_ms);
            self.cells.resize(self.cells.len() + fields, Cell::EMPTY);
        }
        let from = self.cells.len() - fields;
        self.cells.get_mut(from..).unwrap_or_default()
    }

    /// Adds the fields' cells to the bucket at a time.
    fn add(&mut self, at_ms: i64, cell: impl Fn(usize) -> Option<Cell>) {
        let fields = std::mem::take(&mut self.fields);
        for (sum, &field) in self.bucket(at_ms, fields.len()).iter_mut().zip(&fields) {
            if let Some(cell) = cell(field) {
                sum.add(&cell);
            }
        }
        self.fields = fields;
    }

    fn parts(&mut self, query: &Query, frame: &Frame, parts: &Parts) {
        let (fields, part_ms) = (frame.schema().fields().len().max(1), frame.layout().part_ms);
        for (&at, cells) in parts.at_ms.iter().zip(parts.cells.chunks(fields)) {
            // A part that begins before the window has no rows there: else these were not the way.
            if at < query.until_ms && at.saturating_add(part_ms) > query.since_ms {
                self.add(query.bucket(at), |field| cells.get(field).copied());
            }
        }
    }

    fn rows(&mut self, query: &Query, schema: &Schema, values: &Values, skip: usize, rows: usize) {
        let at_ms = values.at_ms.get(..rows).unwrap_or(&values.at_ms);
        let mut from = at_ms.partition_point(|&at| at < query.since_ms).max(skip);
        let until = at_ms.partition_point(|&at| at < query.until_ms);
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

enum Way {
    Whole,
    Parts,
    Rows,
}

impl Piece {
    /// The coarsest cells that fall into buckets as the rows would.
    fn way(&self, query: &Query, part_ms: i64) -> Way {
        let inside = query.since_ms <= self.first_ms && self.last_ms < query.until_ms;
        if self.skip > 0 {
            Way::Rows
        } else if inside && query.bucket(self.first_ms) == query.bucket(self.last_ms) {
            Way::Whole
        } else {
            let on_part = |at: i64| at.rem_euclid(part_ms) == 0;
            let steps = on_part(query.step_ms.max(1)) && (query.align == Align::Epoch || on_part(query.since_ms));
            let since = query.since_ms <= self.first_ms || on_part(query.since_ms);
            let until = self.last_ms < query.until_ms || on_part(query.until_ms);
            if steps && since && until { Way::Parts } else { Way::Rows }
        }
    }
}
