use crate::quantum::Quantum;
use std::sync::Arc;

/// What one sampler records: its fields in order. Shared by all its frames.
#[derive(Debug, Clone)]
pub struct Schema(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    sampler: Arc<str>,
    fields: Vec<Field>,
    /// One per field.
    quanta: Vec<Quantum>,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: Arc<str>,
    pub kind: Kind,
    pub aggregation: Aggregation,
    /// Smallest step that matters; readings are rounded to it. 0 keeps every bit.
    pub precision: f64,
}

/// What is stored in a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A level.
    Gauge,
    /// A running total; queries see `scale` × its increase per second.
    Counter { scale: f64 },
}

/// How readings combine into one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    Mean,
    Min,
    Max,
    Last,
    Sum,
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

    /// At most [`Schema::MOST_FIELDS`] are taken. A precision that is no number is none, such a scale is 1.
    pub fn new(sampler: impl Into<Arc<str>>, mut fields: Vec<Field>) -> Self {
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
        let quanta = fields.iter().map(|field| Quantum::of(field.precision)).collect();
        Self(Arc::new(Inner { sampler: sampler.into(), fields, quanta }))
    }

    pub fn sampler(&self) -> &Arc<str> {
        &self.0.sampler
    }

    pub fn fields(&self) -> &[Field] {
        &self.0.fields
    }

    /// The step of a field's readings.
    pub(crate) fn quantum(&self, field: usize) -> Quantum {
        self.0.quanta.get(field).copied().unwrap_or(Quantum::Exact)
    }

    /// The step of what queries see of a field: rates have none.
    pub(crate) fn value_quantum(&self, field: usize) -> Quantum {
        match self.0.fields.get(field) {
            Some(Field { kind: Kind::Gauge, .. }) => self.quantum(field),
            _ => Quantum::Exact,
        }
    }

    /// Makes readings what queries see: a counter's totals become rates, each from the last total before it, gaps passed
    /// over.
    pub(crate) fn derive(&self, field: usize, before: Option<(i64, f64)>, at_ms: &[i64], readings: &mut [f64]) {
        let Some(Field { kind: Kind::Counter { scale }, .. }) = self.0.fields.get(field) else { return };
        let quantum = self.quantum(field);
        let mut before = before;
        for (reading, &at) in readings.iter_mut().zip(at_ms) {
            if !reading.is_nan() {
                let total = std::mem::replace(reading, rate(quantum, *scale, before, at, *reading));
                before = Some((at, total));
            }
        }
    }
}

impl Field {
    /// A level, averaged, kept to every bit.
    pub fn gauge(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), kind: Kind::Gauge, aggregation: Aggregation::Mean, precision: 0.0 }
    }

    /// The rate of a running total.
    pub fn counter(name: impl Into<Arc<str>>, scale: f64) -> Self {
        Self { kind: Kind::Counter { scale }, ..Self::gauge(name) }
    }
}

/// `scale` × what a total has grown by per second, from the one before it. A first total, one that went down, one from a
/// clock that stood still and what is too large for a number give no rate.
fn rate(quantum: Quantum, scale: f64, before: Option<(i64, f64)>, at_ms: i64, total: f64) -> f64 {
    match before {
        Some((before_ms, before)) if at_ms > before_ms && total >= before => {
            // Between multiples of a step lies a multiple of it: rounding takes out what subtracting decimals adds.
            let increase = quantum.keep(total - before);
            let rate = scale * increase * 1000.0 / at_ms.saturating_sub(before_ms) as f64;
            if rate.is_finite() { rate } else { f64::NAN }
        }
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_reading_a_reset_and_a_stopped_clock_give_no_rate() {
        let rate = |scale, before, at_ms, total| rate(Quantum::Exact, scale, before, at_ms, total);
        assert!(rate(1.0, None, 1000, 5.0).is_nan());
        assert!(rate(1.0, Some((0, 6.0)), 1000, 5.0).is_nan());
        assert!(rate(1.0, Some((1000, 4.0)), 1000, 5.0).is_nan());
        assert_eq!(rate(100.0, Some((0, 4.0)), 2000, 5.0), 50.0);
        assert_eq!(rate(1.0, Some((0, 4.0)), 2000, 4.0), 0.0);
        assert!(rate(1e300, Some((0, 0.0)), 2000, 1e300).is_nan(), "what overflows is no value");
    }

    #[test]
    fn a_rate_has_no_dust_from_subtracting_decimals() {
        assert_eq!(rate(Quantum::of(0.01), 100.0, Some((0, 5700.08)), 10_000, 5700.12), 0.4);
    }
}
