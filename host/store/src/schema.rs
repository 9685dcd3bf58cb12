use std::sync::Arc;

/// What one sampler records: its fields in order. Shared by all its frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    sampler: Arc<str>,
    fields: Vec<Field>,
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

impl Schema {
    pub fn new(sampler: impl Into<Arc<str>>, fields: Vec<Field>) -> Self {
        Self(Arc::new(Inner { sampler: sampler.into(), fields }))
    }

    pub fn sampler(&self) -> &Arc<str> {
        &self.0.sampler
    }

    pub fn fields(&self) -> &[Field] {
        &self.0.fields
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

    /// What is kept of a reading: rounded to the precision; without a number, nothing.
    pub(crate) fn keep(&self, reading: f64) -> f64 {
        if !reading.is_finite() {
            return f64::NAN;
        }
        let step = self.precision;
        if step <= 0.0 {
            return reading + 0.0; // -0 is 0
        }
        // Dividing by a whole number gives the decimal's nearest double, where multiplying by 0.01 does not.
        let inverse = (1.0 / step).round();
        let rounded = if inverse >= 1.0 && (inverse * step - 1.0).abs() < 1e-9 {
            (reading * inverse).round() / inverse
        } else {
            (reading / step).round() * step
        };
        // Beyond 2⁵³ steps rounding has nothing to say.
        if rounded.is_finite() { rounded + 0.0 } else { reading }
    }

    /// The value queries see at a row, from the total there and the one before it.
    pub(crate) fn rate(&self, scale: f64, before: Option<(i64, f64)>, at_ms: i64, total: f64) -> f64 {
        match before {
            Some((before_ms, before)) if at_ms > before_ms && total >= before => {
                // Between multiples of a step lies a multiple of it: rounding takes out what subtracting decimals adds.
                let increase = self.keep(total - before);
                let rate = scale * increase * 1000.0 / (at_ms - before_ms) as f64;
                if rate.is_finite() { rate } else { f64::NAN }
            }
            _ => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_rounded_to_the_nearest_decimal_double() {
        let field = Field { precision: 0.01, ..Field::gauge("x") };
        assert_eq!(field.keep(0.285_1), 0.29);
        assert_eq!(field.keep(12.349_9), 12.35);
        assert_eq!(Field { precision: 5.0, ..Field::gauge("x") }.keep(12.6), 15.0);
        assert_eq!(Field::gauge("x").keep(0.1 + 0.2), 0.1 + 0.2);
    }

    #[test]
    fn what_is_no_number_is_a_gap_and_minus_zero_is_zero() {
        let field = Field { precision: 1.0, ..Field::gauge("x") };
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(field.keep(odd).is_nan());
        }
        assert!(field.keep(-0.3).is_sign_positive());
        assert!(Field::gauge("x").keep(-0.0).is_sign_positive());
        assert_eq!(field.keep(f64::MAX), f64::MAX);
    }

    #[test]
    fn a_first_reading_a_reset_and_a_stopped_clock_give_no_rate() {
        let field = Field::counter("x", 1.0);
        assert!(field.rate(1.0, None, 1000, 5.0).is_nan());
        assert!(field.rate(1.0, Some((0, 6.0)), 1000, 5.0).is_nan());
        assert!(field.rate(1.0, Some((1000, 4.0)), 1000, 5.0).is_nan());
        assert_eq!(field.rate(100.0, Some((0, 4.0)), 2000, 5.0), 50.0);
        assert_eq!(field.rate(1.0, Some((0, 4.0)), 2000, 4.0), 0.0);
        assert!(field.rate(1e300, Some((0, 0.0)), 2000, 1e300).is_nan(), "what overflows is no value");
    }

    #[test]
    fn a_rate_has_no_dust_from_subtracting_decimals() {
        let field = Field { precision: 0.01, ..Field::counter("cpu_percent", 100.0) };
        assert_eq!(field.rate(100.0, Some((0, 5700.08)), 10_000, 5700.12), 0.4);
    }
}
