use crate::quantum::Quantum;
use std::sync::Arc;

/// What one sampler records: its fields in order. Shared by all its frames.
///
/// Rows have a column per field. Where a field is a counter, one more column after those says when each row was read: its
/// [`delay`](Schema::DELAY), by which rates are exact whatever the wall clock did. Files of the first version have none.
#[derive(Debug, Clone)]
pub struct Schema(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    sampler: Arc<str>,
    fields: Vec<Field>,
    has_delay: bool,
    /// One per column.
    quanta: Vec<Quantum>,
}

/// A counter's reading before some rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Total {
    /// When it was read, in milliseconds: the row's time and its delay.
    pub(crate) read_ms: f64,
    pub(crate) total: f64,
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

    /// The name of the delays' column in files, which no field can have: how many milliseconds after its time a row was
    /// read, by a clock that nobody sets. NaN: nobody knows.
    pub(crate) const DELAY: &str = "\0delay";

    /// A delay's smallest step, in milliseconds: a rate of a second is right to a ten-thousandth.
    pub(crate) const DELAY_PRECISION: f64 = 0.1;

    /// At most [`Schema::MOST_FIELDS`] are taken. A precision that is no number is none, such a scale is 1.
    pub fn new(sampler: impl Into<Arc<str>>, fields: Vec<Field>) -> Self {
        let has_delay = fields.iter().any(|field| field.kind != Kind::Gauge);
        Self::with(sampler.into(), fields, has_delay)
    }

    /// As a file has it.
    pub(crate) fn with(sampler: Arc<str>, mut fields: Vec<Field>, has_delay: bool) -> Self {
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

    pub fn fields(&self) -> &[Field] {
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
            Some(Field { kind: Kind::Gauge, .. }) => self.quantum(field),
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
        let Some(Field { kind: Kind::Counter { scale }, .. }) = self.0.fields.get(field) else { return };
        let mut rates = Rates { quantum: self.quantum(field), scale: *scale, rounding: None };
        let mut before = before;
        for (nth, (reading, &at)) in readings.iter_mut().zip(at_ms).enumerate() {
            if !reading.is_nan() {
                let read_ms = at as f64 + delays.get(nth).copied().unwrap_or(0.0);
                let now = Total { read_ms, total: *reading };
                *reading = before.map_or(f64::NAN, |before| rates.rate(before, now));
                if self.0.has_delay {
                    *reading = rates.rounded(*reading, before.map_or(f64::NAN, |before| read_ms - before.read_ms));
                }
                before = (!read_ms.is_nan()).then_some(now);
            }
        }
    }

    /// Rounds what several of a field's values are together, means and sums: levels to their declared precision, which a mean
    /// has not by itself and a sum has but for binary dust; rates as each of them is.
    pub fn round(&self, field: usize, interval_ms: i64, values: &mut [f64]) {
        let quantum = self.quantum(field);
        match self.0.fields.get(field) {
            Some(Field { kind: Kind::Counter { scale }, .. }) => {
                let mut rates = Rates { quantum, scale: *scale, rounding: None };
                values.iter_mut().for_each(|value| *value = rates.rounded(*value, interval_ms as f64));
            }
            Some(_) if quantum != Quantum::Exact => values.iter_mut().for_each(|value| *value = quantum.keep(*value)),
            _ => {}
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

/// How one counter's totals become rates.
struct Rates {
    quantum: Quantum,
    scale: f64,
    /// The step for times between readings in a range, as it is most often the same.
    rounding: Option<(f64, f64, Quantum)>,
}

impl Rates {
    /// `scale` × what a total has grown by per second, from the one before it. One that went down, one that was read no
    /// later and what is too large for a number give no rate.
    fn rate(&self, before: Total, now: Total) -> f64 {
        let elapsed_ms = now.read_ms - before.read_ms;
        if elapsed_ms > 0.0 && now.total >= before.total {
            // Between multiples of a step lies a multiple of it: rounding takes out what subtracting decimals adds.
            let increase = self.quantum.keep(now.total - before.total);
            let rate = self.scale * increase * 1000.0 / elapsed_ms;
            if rate.is_finite() { rate } else { f64::NAN }
        } else {
            f64::NAN
        }
    }

    /// To the declared step, in the field's own unit, where that is a fraction; where totals are counted in whole numbers, to
    /// about a tenth of what one of them makes in that time, as less than one a second is not nothing; without a step, to
    /// ten digits: the rest is binary dust.
    fn rounded(&mut self, rate: f64, elapsed_ms: f64) -> f64 {
        if !rate.is_finite() || rate == 0.0 {
            return rate;
        }
        if self.quantum == Quantum::Exact {
            const DIGITS: i32 = 10;
            return decimal(rate.abs().log10().floor() as i32 + 1 - DIGITS).keep(rate);
        }
        let whole = self.quantum.value(1.0);
        let step = match self.rounding {
            _ if whole < 1.0 => Quantum::of(whole * self.scale.abs()),
            Some((from, until, step)) if from < elapsed_ms && elapsed_ms <= until => step,
            _ => {
                // The steps change half-way between powers of ten, where no usual interval is.
                let one = self.scale.abs() * whole * 100.0;
                let power = (one / elapsed_ms).log10().round();
                let step = decimal(power as i32);
                self.rounding = Some((one / 10f64.powf(power + 0.5), one / 10f64.powf(power - 0.5), step));
                step
            }
        };
        step.keep(rate)
    }
}

/// 10 to a power, as a step.
fn decimal(power: i32) -> Quantum {
    Quantum::of(10f64.powi(power.clamp(-15, 300)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(fields: Field, rows: &[(i64, f64, f64)]) -> Vec<f64> {
        let schema = Schema::new("s", vec![fields]);
        let at_ms: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let delays: Vec<f64> = rows.iter().map(|row| row.1).collect();
        let mut readings: Vec<f64> = rows.iter().map(|row| row.2).collect();
        schema.derive(0, None, &at_ms, &delays, &mut readings);
        readings
    }

    fn rate(scale: f64, rows: [(i64, f64, f64); 2]) -> f64 {
        rates(Field::counter("x", scale), &rows)[1]
    }

    #[test]
    fn a_first_reading_a_reset_and_a_stopped_clock_give_no_rate() {
        assert!(rates(Field::counter("x", 1.0), &[(1000, 0.0, 5.0)])[0].is_nan());
        assert!(rate(1.0, [(0, 0.0, 6.0), (1000, 0.0, 5.0)]).is_nan());
        assert!(rate(1.0, [(1000, 0.0, 4.0), (1000, 0.0, 5.0)]).is_nan());
        assert_eq!(rate(100.0, [(0, 0.0, 4.0), (2000, 0.0, 5.0)]), 50.0);
        assert_eq!(rate(1.0, [(0, 0.0, 4.0), (2000, 0.0, 4.0)]), 0.0);
        assert!(rate(1e300, [(0, 0.0, 0.0), (2000, 0.0, 1e300)]).is_nan(), "what overflows is no value");
    }

    #[test]
    fn a_rate_goes_by_when_its_totals_were_read_not_by_the_wall_clock() {
        // Read 21 s late: the total is that of then.
        assert_eq!(rate(100.0, [(0, 0.0, 0.0), (2000, 19_000.0, 21.0)]), 100.0);
        // The wall clock went back an hour, or ahead.
        assert_eq!(rate(1.0, [(3_600_000, 0.0, 5.0), (1000, 3_600_000.0, 15.0)]), 10.0);
        assert_eq!(rate(1.0, [(0, 0.0, 5.0), (3_601_000, -3_600_000.0, 15.0)]), 10.0);
    }

    #[test]
    fn a_total_of_which_nobody_knows_when_it_was_read_gives_no_rate_before_or_after_it() {
        let rates = rates(
            Field::counter("x", 1.0),
            &[(0, 0.0, 1.0), (1000, 0.0, 2.0), (2000, f64::NAN, 40.0), (3000, 0.0, 41.0), (4000, 0.0, 42.0)],
        );
        assert_eq!(rates.iter().map(|rate| rate.is_nan()).collect::<Vec<_>>(), [true, false, true, true, false]);
    }

    #[test]
    fn means_and_sums_of_levels_have_the_declared_precision_and_no_dust() {
        let rounded = |precision, values: &[f64]| {
            let schema = Schema::new("s", vec![Field { precision, ..Field::gauge("x") }]);
            let mut values = values.to_vec();
            schema.round(0, 1000, &mut values);
            values
        };
        let means = [(97.1 + 97.3) / 2.0, 24_954.0 / 17.0, -0.04, f64::NAN, 0.1 + 0.2];
        let [a, b, c, d, e] = rounded(0.1, &means)[..] else { panic!() };
        assert_eq!((a, b, c.to_bits(), d.is_nan(), e), (97.2, 1467.9, 0, true, 0.3));
        assert_eq!(rounded(0.0, &[0.1 + 0.2, 1.0 / 3.0]), [0.1 + 0.2, 1.0 / 3.0], "every bit counts");
        assert_eq!(rounded(1.0, &[67.4]), [67.0]);
    }

    #[test]
    fn a_rate_has_no_dust_from_subtracting_and_dividing() {
        let cpu = Field { precision: 0.0001, ..Field::counter("x", 100.0) };
        assert_eq!(rates(cpu.clone(), &[(0, 0.0, 5700.08), (10_000, 0.0, 5700.12)])[1], 0.4);
        assert_eq!(rates(cpu.clone(), &[(0, 0.3, 0.0), (10_000, 0.1, 10.0)])[1], 100.0, "a step is 0.01 %");
        assert_eq!(rates(cpu.clone(), &[(0, 0.0, 0.0), (76_000, 0.0, 0.0366)])[1], 0.05);
        assert_eq!(rates(cpu, &[(0, 0.0, 0.0), (3000, 0.0, 1.0)])[1], 33.33);
        let requests = Field { precision: 1.0, ..Field::counter("x", 1.0) };
        assert_eq!(rates(requests, &[(0, 0.0, 0.0), (10_000, 0.2, 4.0)])[1], 0.4);
        let bytes = Field { precision: 1.0, ..Field::counter("x", 1.0) };
        assert_eq!(rates(bytes, &[(0, 0.0, 0.0), (10_000, 7.3, 21_474_836_480.0)])[1], 2_145_917_128.5);
        assert_eq!(rate(1.0, [(0, 0.0, 0.1), (300, 0.0, 2.2)]), 7.0, "to the bit it is 7.000000000000001");
    }
}
