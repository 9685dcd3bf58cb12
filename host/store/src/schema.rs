use crate::quantum::Quantum;
use crate::rates::{CounterTotal, Rates};
use crate::series::PackedLabels;
use crate::{Aggregation, Kind, Layout};
use dropsonde_model::{Labels, MetricType};
use std::sync::Arc;

/// The fields that one sampler records, in order. All its frames share it. Or the label sets of some series that are
/// read together; then each field is one of them and has no name.
///
/// Rows have one column per field. If a field is a counter, one more column follows: the delay between a row's time and
/// its reading. With it rates are exact, whatever the wall clock does. Files of the first version have no delays.
#[derive(Debug, Clone)]
pub struct Schema(Arc<SchemaInner>);

#[derive(Debug, PartialEq)]
struct SchemaInner {
    sampler: Arc<str>,
    fields: Vec<StoredField>,
    has_delay: bool,
    /// The step of each column's readings.
    quanta: Vec<Quantum>,
    /// The label sets of the columns, if they are labelled series.
    labels: Option<PackedLabels>,
}

/// A field as the store keeps it: one column.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredField {
    pub name: Arc<str>,
    pub kind: Kind,
    pub aggregation: Aggregation,
    /// The smallest step that matters. Readings are rounded to it; 0 keeps every bit.
    pub precision: f64,
}

impl PartialEq for Schema {
    /// Compares pointers first: most often both are the same schema.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Schema {
    /// Maximum number of fields that a file can hold in one block.
    pub const MOST_FIELDS: usize = 1024;

    /// The name of the delay column in files, which no field can have. A delay is how many milliseconds after a row's
    /// time it was read, by a monotonic clock. NaN: unknown.
    pub(crate) const DELAY: &str = "\0delay";

    /// A delay's step, in milliseconds. A rate over one second is then exact to a ten-thousandth.
    pub(crate) const DELAY_PRECISION: f64 = 0.1;

    /// Makes a schema of at most [`Schema::MOST_FIELDS`] fields and ignores the rest. A precision that is not finite
    /// becomes 0, a scale that is not finite becomes 1.
    pub fn new(sampler: impl Into<Arc<str>>, fields: Vec<StoredField>) -> Self {
        let has_delay = fields.iter().any(|field| field.kind != Kind::Gauge);
        Self::with(sampler.into(), fields, has_delay)
    }

    /// Makes a schema as a file describes it, with or without delays.
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
        Self(Arc::new(SchemaInner { sampler, fields, has_delay, quanta, labels: None }))
    }

    /// Makes the schema of labelled series that are read together. Their values are kept to the bit; those of counters
    /// are totals, also for queries. `group` tells what was read, such as the name of a plugin.
    pub(crate) fn labelled(group: Arc<str>, labels: PackedLabels) -> Self {
        let name: Arc<str> = "".into();
        // Queries over a long time need the sums of gauges and the last totals of counters.
        let field = |metric_type| StoredField {
            aggregation: if metric_type == MetricType::Gauge { Aggregation::Mean } else { Aggregation::Last },
            ..StoredField::gauge(name.clone())
        };
        let mut fields = Vec::with_capacity(labels.columns());
        labels.each(|_, metric_type| fields.push(field(metric_type)));
        let quanta = vec![Quantum::Exact; fields.len()];
        Self(Arc::new(SchemaInner { sampler: group, fields, has_delay: false, quanta, labels: Some(labels) }))
    }

    pub fn sampler(&self) -> &Arc<str> {
        &self.0.sampler
    }

    pub fn fields(&self) -> &[StoredField] {
        &self.0.fields
    }

    /// Returns the label set and the metric type of each column, if the columns are labelled series.
    pub fn series(&self) -> Option<Vec<(Labels, MetricType)>> {
        self.0.labels.as_ref().map(PackedLabels::unpacked)
    }

    pub(crate) fn labels(&self) -> Option<&PackedLabels> {
        self.0.labels.as_ref()
    }

    /// Returns the lengths of a frame's blocks and their parts.
    pub(crate) fn layout(&self, interval_ms: i64) -> Layout {
        if self.0.labels.is_some() { Layout::of_labelled(interval_ms) } else { Layout::of(interval_ms) }
    }

    /// Returns the number of columns: one per field, and one for delays if there are any.
    pub(crate) fn columns(&self) -> usize {
        self.0.quanta.len()
    }

    pub(crate) fn has_delay(&self) -> bool {
        self.0.has_delay
    }

    /// Returns whether a query that wants some fields needs a column.
    pub(crate) fn needs(&self, column: usize, wanted: impl Fn(usize) -> bool) -> bool {
        column >= self.0.fields.len() || wanted(column)
    }

    /// Returns the step of a column's readings.
    pub(crate) fn quantum(&self, column: usize) -> Quantum {
        self.0.quanta.get(column).copied().unwrap_or(Quantum::Exact)
    }

    /// Returns the step of a field's values as queries see them. Rates have no fixed step.
    pub(crate) fn value_quantum(&self, field: usize) -> Quantum {
        match self.0.fields.get(field) {
            Some(StoredField { kind: Kind::Gauge, .. }) => self.quantum(field),
            _ => Quantum::Exact,
        }
    }

    /// Replaces a counter's totals by rates, each from the last total before it; gaps are skipped. A row whose read
    /// time is unknown gives no rate, nor does the row after it. Empty `delays` mean that no row was read late.
    pub(crate) fn derive(
        &self,
        field: usize,
        before: Option<CounterTotal>,
        at_ms: &[i64],
        delays: &[f64],
        readings: &mut [f64],
    ) {
        let Some(StoredField { kind: Kind::Counter { scale }, .. }) = self.0.fields.get(field) else { return };
        let mut rates = Rates::of(self.quantum(field), *scale);
        let mut before = before;
        for (nth, (reading, &at)) in readings.iter_mut().zip(at_ms).enumerate() {
            if !reading.is_nan() {
                let now = CounterTotal::read(at, delays.get(nth).copied().unwrap_or(0.0), *reading);
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

    /// Rounds means and sums of a field's values. Gauges are rounded to their declared precision, because a mean has
    /// more digits and a sum has binary rounding errors. Rates are rounded like single rates.
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
    /// Makes a gauge that is averaged and keeps every bit.
    pub fn gauge(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), kind: Kind::Gauge, aggregation: Aggregation::Mean, precision: 0.0 }
    }

    /// Makes a counter: a running total that queries see as a rate.
    pub fn counter(name: impl Into<Arc<str>>, scale: f64) -> Self {
        Self { kind: Kind::Counter { scale }, ..Self::gauge(name) }
    }
}
