//! Values of series over the steps of a query.

use super::Context;
use crate::source::{QueryError, STALE, is_stale};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The times at which an expression is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) start_ms: i64,
    pub(super) step_ms: i64,
    pub(super) steps: usize,
}

/// A row of values per series: one value per step, [`STALE`] where the series has none.
#[derive(Debug, Clone, Default)]
pub(super) struct Matrix {
    pub(super) steps: usize,
    rows: Vec<Row>,
    values: Vec<f64>,
    charge: Charge,
}

/// The labels of a series, without its values.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) labels: Labels,
    /// Whether the name of the metric is to be removed at the end.
    pub(super) drops_name: bool,
}

/// The memory that a matrix holds.
#[derive(Debug, Default)]
struct Charge {
    bytes: usize,
    context: Option<super::Meter>,
}

/// Groups of rows with the same labels.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_labels: HashMap<Labels, usize>,
}

impl Grid {
    pub(super) fn time(&self, step: usize) -> i64 {
        self.start_ms.saturating_add(self.step_ms.saturating_mul(step as i64))
    }

    pub(super) fn times(&self) -> impl Iterator<Item = i64> + use<> {
        let grid = *self;
        (0..grid.steps).map(move |step| grid.time(step))
    }

    pub(super) fn last_ms(&self) -> i64 {
        self.time(self.steps.saturating_sub(1))
    }
}

impl Matrix {
    pub(super) fn new(context: &Context<'_>, steps: usize) -> Self {
        let charge = Charge { bytes: 0, context: Some(context.meter.clone()) };
        Self { steps, rows: Vec::new(), values: Vec::new(), charge }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns the values of a row.
    pub(super) fn values(&self, row: usize) -> &[f64] {
        self.values.get(row * self.steps..(row + 1) * self.steps).unwrap_or_default()
    }

    /// Returns the value of a row at a step, if it has one.
    pub(super) fn value(&self, row: usize, step: usize) -> Option<f64> {
        self.values(row).get(step).copied().filter(|value| !is_stale(*value))
    }

    pub(super) fn values_mut(&mut self, row: usize) -> &mut [f64] {
        let steps = self.steps;
        self.values.get_mut(row * steps..(row + 1) * steps).unwrap_or_default()
    }

    /// Returns rows and their values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Row, &[f64])> {
        self.rows.iter().zip(self.values.chunks(self.steps.max(1)))
    }

    /// Changes each value that is there.
    pub(super) fn map(&mut self, change: impl Fn(f64) -> f64) {
        for value in &mut self.values {
            if !is_stale(*value) {
                *value = change(*value);
            }
        }
    }

    /// Changes each value that is there, with the step it belongs to.
    pub(super) fn map_steps(&mut self, change: impl Fn(f64, usize) -> f64) {
        for row in self.values.chunks_mut(self.steps.max(1)) {
            for (step, value) in row.iter_mut().enumerate() {
                if !is_stale(*value) {
                    *value = change(*value, step);
                }
            }
        }
    }

    /// Adds a row with these values.
    pub(super) fn push(&mut self, labels: Labels, drops_name: bool, values: &[f64]) -> Result<(), QueryError> {
        debug_assert_eq!(values.len(), self.steps);
        self.charge.add(size_of_val(values) + size_of::<Row>() + labels.as_text().len())?;
        self.rows.push(Row { labels, drops_name });
        self.values.extend_from_slice(values);
        Ok(())
    }

    /// Adds a row without values. Returns its number.
    pub(super) fn push_empty(&mut self, labels: Labels, drops_name: bool) -> Result<usize, QueryError> {
        self.charge.add(self.steps * size_of::<f64>() + size_of::<Row>() + labels.as_text().len())?;
        self.rows.push(Row { labels, drops_name });
        self.values.resize(self.values.len() + self.steps, STALE);
        Ok(self.rows.len() - 1)
    }

    /// Changes the labels of each row.
    pub(super) fn relabel(&mut self, mut change: impl FnMut(&mut Row)) {
        self.rows.iter_mut().for_each(&mut change);
    }

    /// Changes the labels of each row to others, which may be longer.
    pub(super) fn lengthen(
        &mut self,
        mut change: impl FnMut(&mut Row) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        for row in &mut self.rows {
            let before = row.labels.as_text().len();
            change(row)?;
            self.charge.add(row.labels.as_text().len().saturating_sub(before))?;
        }
        Ok(())
    }

    /// Sorts the rows; of one step, because with several steps the answer is sorted by labels.
    pub(super) fn sort_rows(&mut self, compare: impl Fn((&Row, f64), (&Row, f64)) -> std::cmp::Ordering) {
        let mut order: Vec<(Row, f64)> =
            std::mem::take(&mut self.rows).into_iter().zip(self.values.drain(..)).collect();
        order.sort_by(|a, b| compare((&a.0, a.1), (&b.0, b.1)));
        (self.rows, self.values) = order.into_iter().unzip();
    }

    /// Removes rows without values.
    pub(super) fn without_empty(mut self) -> Self {
        let steps = self.steps;
        let is_kept: Vec<bool> = self.iter().map(|(_, values)| values.iter().any(|value| !is_stale(*value))).collect();
        if is_kept.iter().all(|is_kept| *is_kept) {
            return self;
        }
        let mut kept = is_kept.iter();
        self.rows.retain(|_| kept.next().is_some_and(|is_kept| *is_kept));
        let mut to = 0;
        for (from, _) in is_kept.iter().enumerate().filter(|(_, is_kept)| **is_kept) {
            self.values.copy_within(from * steps..(from + 1) * steps, to * steps);
            to += 1;
        }
        self.values.truncate(to * steps);
        self
    }

    /// Repeats the values of the only step.
    pub(super) fn repeated(self, context: &Context<'_>, steps: usize) -> Result<Self, QueryError> {
        if steps == 1 {
            return Ok(self);
        }
        let mut all = Self::new(context, steps);
        let mut values = Vec::new();
        for (row, only) in self.iter() {
            values.clear();
            values.resize(steps, only.first().copied().unwrap_or(STALE));
            all.push(row.labels.clone(), row.drops_name, &values)?;
        }
        Ok(all)
    }

    /// Unites rows with the same labels. They must not have values at the same time.
    pub(super) fn united(self) -> Result<Self, QueryError> {
        let mut groups = Groups::default();
        let group_of: Vec<usize> = self.rows.iter().map(|row| groups.of(&row.labels)).collect();
        if groups.len() == self.rows.len() {
            return Ok(self);
        }
        let mut first_of: Vec<Option<usize>> = vec![None; groups.len()];
        let mut matrix = self;
        for (row, group) in group_of.into_iter().enumerate() {
            let Some(first) = first_of.get_mut(group) else { continue };
            let Some(first) = *first else {
                *first = Some(row);
                continue;
            };
            let values: Vec<f64> = matrix.values(row).to_vec();
            for (known, value) in matrix.values_mut(first).iter_mut().zip(&values) {
                match (is_stale(*known), is_stale(*value)) {
                    (true, _) => *known = *value,
                    (false, true) => {}
                    (false, false) => return Err(same_labels()),
                }
            }
            matrix.values_mut(row).fill(STALE);
        }
        Ok(matrix.without_empty())
    }

    /// Checks that no two rows with values have the same labels.
    pub(super) fn check_labels_differ(&self) -> Result<(), QueryError> {
        let mut groups = Groups::default();
        self.rows.iter().for_each(|row| _ = groups.of(&row.labels));
        if groups.len() == self.rows.len() { Ok(()) } else { Err(same_labels()) }
    }
}

fn same_labels() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".to_owned())
}

impl Groups {
    /// Returns the number of the group of a label set.
    pub(super) fn of(&mut self, labels: &Labels) -> usize {
        let next = self.by_labels.len();
        match self.by_labels.entry(labels.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(next),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_labels.len()
    }
}

impl Charge {
    fn add(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.bytes += bytes;
        self.context.as_ref().map_or(Ok(()), |meter| meter.add(bytes))
    }
}

impl Clone for Charge {
    /// A copy holds as much again. If that is more than the query may hold, its next row is refused.
    fn clone(&self) -> Self {
        if let Some(meter) = &self.context {
            let _ = meter.add(self.bytes);
        }
        Self { bytes: self.bytes, context: self.context.clone() }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(meter) = &self.context {
            meter.release(self.bytes);
        }
    }
}

/// Returns labels without the name of the metric.
pub(super) fn without_name(labels: &Labels) -> Labels {
    Labels::from_sorted(labels.iter().filter(|(name, _)| *name != NAME))
}

/// Returns labels with one of them changed. An empty value removes it.
pub(super) fn with_label(labels: &Labels, name: &str, value: &str) -> Labels {
    // A value never contains the character that separates labels.
    let value = value.replace('\0', "\u{fffd}");
    let name = name.replace('\0', "\u{fffd}");
    let others = labels.iter().filter(|(known, _)| *known != name);
    let mut pairs: Vec<(&str, &str)> = others.collect();
    if !value.is_empty() {
        let at = pairs.partition_point(|(known, _)| *known < &*name);
        pairs.insert(at, (&name, &value));
    }
    Labels::from_sorted(pairs)
}

/// Returns those labels that are named.
pub(super) fn only(labels: &Labels, names: &[String]) -> Labels {
    Labels::from_sorted(labels.iter().filter(|(name, _)| names.iter().any(|known| known == name)))
}

/// Returns labels without those that are named, and without the name of the metric.
pub(super) fn without(labels: &Labels, names: &[String]) -> Labels {
    let stays = |name: &str| name != NAME && !names.iter().any(|known| known == name);
    Labels::from_sorted(labels.iter().filter(|(name, _)| stays(name)))
}
