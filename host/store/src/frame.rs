use crate::cell::Cell;
use crate::{Field, Kind, Query, Schema};
use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What one sampler records for one instance: a ring of rows. The oldest goes when it is full.
///
/// Counters are kept as totals; their rates are derived when read.
#[derive(Debug)]
pub struct Frame {
    schema: Schema,
    interval_ms: i64,
    capacity: usize,
    ring: RwLock<Ring>,
}

#[derive(Debug)]
struct Ring {
    at_ms: VecDeque<i64>,
    /// One per field.
    columns: Vec<Stored>,
}

#[derive(Debug)]
struct Stored {
    readings: VecDeque<f64>,
    /// The last total that has left the ring, so that the oldest row keeps its rate.
    before: Option<(i64, f64)>,
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

/// One frame's buckets.
pub(crate) struct Buckets {
    pub(crate) at_ms: Vec<i64>,
    /// By field index.
    pub(crate) cells: Vec<(usize, Vec<Cell>)>,
}

impl Frame {
    pub(crate) fn new(schema: Schema, interval_ms: i64, capacity: usize) -> Self {
        let column = || Stored { readings: VecDeque::new(), before: None };
        let columns = schema.fields().iter().map(|_| column()).collect();
        Self { schema, interval_ms, capacity, ring: RwLock::new(Ring { at_ms: VecDeque::new(), columns }) }
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The time between two readings, as scheduled.
    pub fn interval_ms(&self) -> i64 {
        self.interval_ms
    }

    /// Adds a row: one reading per field, rounded to the field's precision. A row that is not later than the last one
    /// (the clock was set back) replaces every row it is not later than, so that times stay ascending and a clock that
    /// once ran ahead does not block the history. Returns how many rows it replaced.
    pub fn push(&self, at_ms: i64, readings: &[f64]) -> usize {
        debug_assert_eq!(readings.len(), self.schema.fields().len());
        let mut ring = self.write();
        let mut replaced = 0;
        while ring.at_ms.back().is_some_and(|&last| last >= at_ms) {
            replaced += 1;
            ring.at_ms.pop_back();
            for column in &mut ring.columns {
                column.readings.pop_back();
            }
        }
        if ring.at_ms.len() == self.capacity {
            ring.drop_oldest();
        }
        ring.at_ms.push_back(at_ms);
        let padded = readings.iter().copied().chain(std::iter::repeat(f64::NAN));
        for ((column, field), reading) in ring.columns.iter_mut().zip(self.schema.fields()).zip(padded) {
            column.readings.push_back(field.keep(reading));
        }
        replaced
    }

    /// The newest row.
    pub fn latest(&self) -> Option<Row> {
        let ring = self.read();
        let row = ring.at_ms.len().checked_sub(1)?;
        let at_ms = *ring.at_ms.get(row)?;
        let columns = || ring.columns.iter().zip(self.schema.fields());
        let values = columns().map(|(column, field)| column.value(field, &ring.at_ms, row)).collect();
        let totals = columns().map(|(column, field)| match field.kind {
            Kind::Gauge => f64::NAN,
            Kind::Counter { .. } => column.reading(row),
        });
        Some(Row { at_ms, values, totals: totals.collect() })
    }

    pub fn latest_at_ms(&self) -> Option<i64> {
        self.read().at_ms.back().copied()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.read().at_ms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn buckets(&self, query: &Query) -> Buckets {
        let ring = self.read();
        let from = ring.at_ms.partition_point(|&at| at < query.since_ms);
        let to = ring.at_ms.partition_point(|&at| at < query.until_ms).max(from);
        // Which bucket each row falls in; rows are ascending, so buckets are runs.
        let mut at_ms: Vec<i64> = Vec::new();
        let mut runs: Vec<usize> = Vec::new();
        for &at in ring.at_ms.range(from..to) {
            let bucket = query.bucket(at);
            match runs.last_mut() {
                Some(run) if at_ms.last() == Some(&bucket) => *run += 1,
                _ => {
                    at_ms.push(bucket);
                    runs.push(1);
                }
            }
        }
        let wanted = self.schema.fields().iter().enumerate().filter(|(_, field)| query.wants(&field.name));
        let cells = wanted.filter_map(|(index, field)| {
            let column = ring.columns.get(index)?;
            Some((index, column.cells(field, &ring.at_ms, from, &runs)))
        });
        Buckets { cells: cells.collect(), at_ms }
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Ring ===

impl Ring {
    fn drop_oldest(&mut self) {
        let Some(at_ms) = self.at_ms.pop_front() else { return };
        for column in &mut self.columns {
            if let Some(reading) = column.readings.pop_front().filter(|reading| !reading.is_nan()) {
                column.before = Some((at_ms, reading));
            }
        }
    }
}

// === impl Stored ===

impl Stored {
    fn reading(&self, row: usize) -> f64 {
        self.readings.get(row).copied().unwrap_or(f64::NAN)
    }

    /// What queries see at a row.
    fn value(&self, field: &Field, at_ms: &VecDeque<i64>, row: usize) -> f64 {
        let reading = self.reading(row);
        match field.kind {
            Kind::Gauge => reading,
            // Nothing to look back for: a column may be empty all the way.
            Kind::Counter { .. } if reading.is_nan() => reading,
            Kind::Counter { scale } => {
                let at = at_ms.get(row).copied().unwrap_or_default();
                field.rate(scale, self.total_before(at_ms, row), at, reading)
            }
        }
    }

    /// The last total before a row; gaps are passed over.
    fn total_before(&self, at_ms: &VecDeque<i64>, row: usize) -> Option<(i64, f64)> {
        let before = (0..row).rev().find(|&earlier| !self.reading(earlier).is_nan());
        match before {
            Some(earlier) => Some((*at_ms.get(earlier)?, self.reading(earlier))),
            None => self.before,
        }
    }

    fn cells(&self, field: &Field, at_ms: &VecDeque<i64>, from: usize, runs: &[usize]) -> Vec<Cell> {
        let mut before = self.total_before(at_ms, from);
        let mut rows = at_ms.range(from..).zip(self.readings.range(from..));
        let cell = |&run: &usize| {
            let mut cell = Cell::EMPTY;
            for (&at, &reading) in rows.by_ref().take(run) {
                match field.kind {
                    Kind::Gauge => cell.add(reading),
                    Kind::Counter { scale } if !reading.is_nan() => {
                        cell.add(field.rate(scale, before, at, reading));
                        before = Some((at, reading));
                    }
                    Kind::Counter { .. } => {}
                }
            }
            cell
        };
        runs.iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(capacity: usize) -> Frame {
        Frame::new(Schema::new("s", vec![Field::counter("rate", 1.0)]), 1000, capacity)
    }

    #[test]
    fn the_oldest_row_goes_when_the_ring_is_full() {
        let frame = Frame::new(Schema::new("s", vec![Field::gauge("x")]), 1000, 3);
        for i in 0..5 {
            frame.push(i * 1000, &[i as f64]);
        }
        assert_eq!(frame.len(), 3);
        let query = Query { since_ms: 0, until_ms: 10_000, step_ms: 1000, ..Query::default() };
        assert_eq!(frame.buckets(&query).at_ms, [2000, 3000, 4000]);
    }

    #[test]
    fn a_rate_passes_over_gaps_and_survives_the_row_before_it() {
        let frame = counter(2);
        for (at, total) in [(0, 10.0), (1000, f64::NAN), (2000, 14.0)] {
            frame.push(at, &[total]);
        }
        assert_eq!(frame.len(), 2, "the first total has left the ring");
        assert_eq!(frame.latest().unwrap().values, [2.0]);
        assert_eq!(frame.latest().unwrap().totals, [14.0]);
    }

    #[test]
    fn a_reset_is_a_gap_and_counting_goes_on_after_it() {
        let frame = counter(10);
        let rates = [(0, 10.0), (1000, 20.0), (2000, 5.0), (3000, 6.0)].map(|(at, total)| {
            frame.push(at, &[total]);
            frame.latest().unwrap().values[0]
        });
        assert!(rates[0].is_nan() && rates[2].is_nan());
        assert_eq!((rates[1], rates[3]), (10.0, 1.0));
    }

    #[test]
    fn a_clock_that_went_back_replaces_what_came_after_it() {
        let frame = Frame::new(Schema::new("s", vec![Field::gauge("x")]), 1000, 10);
        let rows = [(1000, 1.0), (2000, 2.0), (3000, 3.0), (2000, 9.0)];
        assert_eq!(rows.map(|(at, x)| frame.push(at, &[x])), [0, 0, 0, 2]);
        assert_eq!((frame.len(), frame.latest().unwrap().values[0]), (2, 9.0));
    }
}
