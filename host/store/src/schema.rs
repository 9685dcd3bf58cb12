use crate::quantum::Quantum;
use crate::rates::{Rates, Total};
use crate::{Aggregation, Kind};
use std::sync::Arc;

/// What one sampler records: its fields in order. Shared by all its frames.
///
/// Rows have a column per field. Where a field is a counter, one more column after those says when each row was read: its
/// delay, by which rates are exact whatever the wall clock did. Files of the first version have none.
#[derive(Debug, Clone)]
pub struct Schema(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    sampler: Arc<str>,
    fields: Vec<StoredField>,
    has_delay: bool,
    /// One per column.
    quanta: Vec<Quantum>,
}

/// What is kept of a field: one column.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredField {
    pub name: Arc<str>,
    pub kind: Kind,
    pub aggregation: Aggregation,
    /// Smallest step that matters; readings are rounded to it. 0 keeps every bit.
    pub precision: f64,
}

impl PartialEq for Schema {
    /// Most often it is the very same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Schema {
    /// What a file can hold of one block.
    pub const MOST_FIELDS: usize = 1024;

    /// The name of the delays' column in files, which no field can have: how many milliseconds after its time a row was
    /// read, by a clock that nobody sets. NaN: nobody knows.
    pub(crate) const DELAY: &str = "\0delay";

    /// A delay's smallest step, in milliseconds: a rate of a second is right to a ten-thousandth.
    pub(crate) const DELAY_PRECISION: f64 = 0.1;

    /// At most [`Schema::MOST_FIELDS`] are taken. A precision that is no number is none, such a scale is 1.
    pub fn new(sampler: impl Into<Arc<str>>, fields: Vec<StoredField>) -> Self {
        let has_delay = fields.iter().any(|field| field.kind != Kind::Gauge);
        Self::with(sampler.into(), fields, has_delay)
    }

    /// As a file has it.
    pub(crate) fn with(sampler: Arc<str>, mut fields: Vec<StoredField>, has_delay: bool) -> Self {
        fields.truncate(Self::MOST_FIELDS);
        for field in &mut fields {
            if !field.precision.is_finite() {
                field.precision = 0.0;
            }
            if let Kind::Counter { scale } = &mut field.kind
                && !scale.is_finite()
            {
                *scale = 1.0;
            }
        }
        let precisions = fields.iter().map(|field| field.precision).chain(has_delay.then_some(Self::DELAY_PRECISION));
        let quanta = precisions.map(Quantum::of).collect();
        Self(Arc::new(Inner { sampler, fields, has_delay, quanta }))
    }

    pub fn sampler(&self) -> &Arc<str> {
        &self.0.sampler
    }

    pub fn fields(&self) -> &[StoredField] {
        &self.0.fields
    }

    /// How many columns a row has: the fields', and the delays'.
    pub(crate) fn columns(&self) -> usize {
        self.0.quanta.len()
    }

    pub(crate) fn has_delay(&self) -> bool {
        self.0.has_delay
    }

    /// Whether a query of some fields needs a column.
    pub(crate) fn needs(&self, column: usize, wanted: impl Fn(usize) -> bool) -> bool {
        column >= self.0.fields.len() || wanted(column)
    }

    /// The step of a column's readings.
    pub(crate) fn quantum(&self, column: usize) -> Quantum {
        self.0.quanta.get(column).copied().unwrap_or(Quantum::Exact)
    }

    /// The step of what queries see of a field's readings: rates have none that is theirs alone.
    pub(crate) fn value_quantum(&self, field: usize) -> Quantum {
        match self.0.fields.get(field) {
            Some(StoredField { kind: Kind::Gauge, .. }) => self.quantum(field),
            _ => Quantum::Exact,
        }
    }

    /// Makes a counter's totals what queries see: rates, each from the last total before it, gaps passed over. A row of
    /// which nobody knows when it was read gives no rate, and neither does the next. `delays` may be empty: none is late.
    pub(crate) fn derive(
        &self,
        field: usize,
        before: Option<Total>,
        at_ms: &[i64],
        delays: &[f64],
        readings: &mut [f64],
    ) {
        let Some(StoredField { kind: Kind::Counter { scale }, .. }) = self.0.fields.get(field) else { return };
        let mut rates = Rates::of(self.quantum(field), *scale);
        let mut before = before;
        for (nth, (reading, &at)) in readings.iter_mut().zip(at_ms).enumerate() {
            if !reading.is_nan() {
                let now = Total::read(at, delays.get(nth).copied().unwrap_or(0.0), *reading);
                *reading = match before.zip(now) {
                    Some((before, now)) => {
                        let rate = rates.rate(before, now);
                        if self.0.has_delay { rates.rounded(rate, now.read_ms - before.read_ms) } else { rate }
                    }
                    None => f64::NAN,
                };
                before = now;
            }
        }
    }

    /// Rounds what several of a field's values are together, means and sums: levels to their declared precision, which a mean
    /// has not by itself and a sum has but for binary dust; rates as each of them is.
    pub fn round(&self, field: usize, interval_ms: i64, values: &mut [f64]) {
        let quantum = self.quantum(field);
        match self.0.fields.get(field) {
            Some(StoredField { kind: Kind::Counter { scale }, .. }) => {
                let mut rates = Rates::of(quantum, *scale);
                values.iter_mut().for_each(|value| *value = rates.rounded(*value, interval_ms as f64));
            }
            Some(_) if quantum != Quantum::Exact => values.iter_mut().for_each(|value| *value = quantum.keep(*value)),
            _ => {}
        }
    }
}

impl StoredField {
    /// A level, averaged, kept to every bit.
    pub fn gauge(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), kind: Kind::Gauge, aggregation: Aggregation::Mean, precision: 0.0 }
    }

    /// The rate of a running total.
    pub fn counter(name: impl Into<Arc<str>>, scale: f64) -> Self {
        Self { kind: Kind::Counter { scale }, ..Self::gauge(name) }
    }
}
