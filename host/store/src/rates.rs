//! Converts a counter's totals to rates, for [`Schema::derive`](crate::Schema::derive), and rounds them.

use crate::quantum::Quantum;

/// A counter's total and the time it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CounterTotal {
    /// The time of the reading in milliseconds: the row's time plus its delay, in whole tenths, as blocks store it.
    pub(crate) read_ms: f64,
    pub(crate) total: f64,
}

impl CounterTotal {
    /// Makes a total from a row; `None` if the delay is unknown.
    pub(crate) fn read(at_ms: i64, delay_ms: f64, total: f64) -> Option<Self> {
        let read_ms = Quantum::Part(10.0).keep(at_ms as f64 + delay_ms);
        (!read_ms.is_nan()).then_some(Self { read_ms, total })
    }
}

/// Calculates one counter's rates.
#[derive(Debug)]
pub(crate) struct Rates {
    quantum: Quantum,
    scale: f64,
    rounding: Rounding,
}

/// The step that rates are rounded to, which removes binary rounding errors.
#[derive(Debug, Clone, Copy)]
enum Rounding {
    /// The declared step in the field's unit, if the declared precision is a fraction. A rate of less than half a step
    /// is not rounded to zero but as for `Whole`.
    Step(Quantum),
    /// For totals that are whole numbers: about a tenth of the rate that one unit makes between two readings, so that
    /// less than one per second does not become zero. The step is cached with its range of elapsed times, because
    /// intervals are mostly alike.
    Whole(Option<(f64, f64, Quantum)>),
    /// Ten digits, if no step is declared.
    Digits,
}

impl Rates {
    pub(crate) fn of(quantum: Quantum, scale: f64) -> Self {
        let rounding = match quantum.value(1.0) {
            _ if quantum == Quantum::Exact => Rounding::Digits,
            step if step < 1.0 => Rounding::Step(Quantum::of(step * scale.abs())),
            _ => Rounding::Whole(None),
        };
        Self { quantum, scale, rounding }
    }

    /// Returns `scale` × the growth of the total per second. Returns NaN if the total went down, was read at no later
    /// time, or if the rate is too large for a double.
    pub(crate) fn rate(&self, before: CounterTotal, now: CounterTotal) -> f64 {
        let elapsed_ms = now.read_ms - before.read_ms;
        if elapsed_ms > 0.0 && now.total >= before.total {
            // The difference of two multiples of a step is a multiple too: rounding removes the error of subtracting
            // decimals.
            let increase = self.quantum.keep(now.total - before.total);
            let rate = self.scale * increase * 1000.0 / elapsed_ms;
            if rate.is_finite() { rate } else { f64::NAN }
        } else {
            f64::NAN
        }
    }

    /// Rounds a rate that was measured over `elapsed_ms`.
    pub(crate) fn rounded(&mut self, rate: f64, elapsed_ms: f64) -> f64 {
        if !rate.is_finite() || rate == 0.0 {
            return rate;
        }
        let step = match self.rounding {
            Rounding::Step(step) if step.keep(rate) != 0.0 => step,
            Rounding::Step(_) => self.natural(elapsed_ms).0,
            Rounding::Digits => {
                const DIGITS: i32 = 10;
                decimal(rate.abs().log10().floor() as i32 + 1 - DIGITS)
            }
            Rounding::Whole(Some((from, until, step))) if from < elapsed_ms && elapsed_ms <= until => step,
            Rounding::Whole(_) => {
                let (step, from, until) = self.natural(elapsed_ms);
                self.rounding = Rounding::Whole(Some((from, until, step)));
                step
            }
        };
        step.keep(rate)
    }

    /// Returns a step of about a tenth of the rate that one unit of the total makes in `elapsed_ms`, and the range of
    /// times with the same step. The step changes half-way between powers of ten, where no usual interval lies.
    fn natural(&self, elapsed_ms: f64) -> (Quantum, f64, f64) {
        let one = self.scale.abs() * self.quantum.value(1.0) * 100.0;
        let power = (one / elapsed_ms).log10().round();
        (decimal(power as i32), one / 10f64.powf(power + 0.5), one / 10f64.powf(power - 0.5))
    }
}

/// Returns 10 to a power, as a step.
fn decimal(power: i32) -> Quantum {
    Quantum::of(10f64.powi(power.clamp(-15, 300)))
}

#[cfg(test)]
mod tests {
    use crate::{Schema, StoredField};

    fn rates(fields: StoredField, rows: &[(i64, f64, f64)]) -> Vec<f64> {
        let schema = Schema::new("s", vec![fields]);
        let at_ms: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let delays: Vec<f64> = rows.iter().map(|row| row.1).collect();
        let mut readings: Vec<f64> = rows.iter().map(|row| row.2).collect();
        schema.derive(0, None, &at_ms, &delays, &mut readings);
        readings
    }

    fn rate(scale: f64, rows: [(i64, f64, f64); 2]) -> f64 {
        rates(StoredField::counter("x", scale), &rows)[1]
    }

    #[test]
    fn the_first_reading_a_reset_and_a_stopped_clock_give_no_rate() {
        assert!(rates(StoredField::counter("x", 1.0), &[(1000, 0.0, 5.0)])[0].is_nan());
        assert!(rate(1.0, [(0, 0.0, 6.0), (1000, 0.0, 5.0)]).is_nan());
        assert!(rate(1.0, [(1000, 0.0, 4.0), (1000, 0.0, 5.0)]).is_nan());
        assert_eq!(rate(100.0, [(0, 0.0, 4.0), (2000, 0.0, 5.0)]), 50.0);
        assert_eq!(rate(1.0, [(0, 0.0, 4.0), (2000, 0.0, 4.0)]), 0.0);
        assert!(rate(1e300, [(0, 0.0, 0.0), (2000, 0.0, 1e300)]).is_nan(), "an overflow gives no value");
    }

    #[test]
    fn a_rate_uses_the_read_times_of_its_totals_and_not_the_wall_clock() {
        // The total was read 19 s late, so it covers 21 s.
        assert_eq!(rate(100.0, [(0, 0.0, 0.0), (2000, 19_000.0, 21.0)]), 100.0);
        // The wall clock went back by an hour, then ahead.
        assert_eq!(rate(1.0, [(3_600_000, 0.0, 5.0), (1000, 3_600_000.0, 15.0)]), 10.0);
        assert_eq!(rate(1.0, [(0, 0.0, 5.0), (3_601_000, -3_600_000.0, 15.0)]), 10.0);
    }

    #[test]
    fn a_total_of_unknown_read_time_gives_no_rate_at_it_or_after_it() {
        let rates = rates(
            StoredField::counter("x", 1.0),
            &[(0, 0.0, 1.0), (1000, 0.0, 2.0), (2000, f64::NAN, 40.0), (3000, 0.0, 41.0), (4000, 0.0, 42.0)],
        );
        assert_eq!(rates.iter().map(|rate| rate.is_nan()).collect::<Vec<_>>(), [true, false, true, true, false]);
    }

    #[test]
    fn means_and_sums_of_gauges_are_rounded_to_the_declared_precision() {
        let rounded = |precision, values: &[f64]| {
            let schema = Schema::new("s", vec![StoredField { precision, ..StoredField::gauge("x") }]);
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
    fn a_rate_has_no_binary_rounding_errors() {
        let cpu = StoredField { precision: 0.0001, ..StoredField::counter("x", 100.0) };
        assert_eq!(rates(cpu.clone(), &[(0, 0.0, 5700.08), (10_000, 0.0, 5700.12)])[1], 0.4);
        assert_eq!(rates(cpu.clone(), &[(0, 0.3, 0.0), (10_000, 0.1, 10.0)])[1], 100.0, "a step is 0.01 %");
        assert_eq!(rates(cpu.clone(), &[(0, 0.0, 0.0), (76_000, 0.0, 0.0366)])[1], 0.05);
        assert_eq!(rates(cpu, &[(0, 0.0, 0.0), (3000, 0.0, 1.0)])[1], 33.33);
        let waiting = StoredField { precision: 0.01, ..StoredField::counter("x", 1.0) };
        assert_eq!(rates(waiting, &[(0, 0.0, 0.0), (60_000, 0.0, 0.2)])[1], 0.00333, "little is not nothing");
        let requests = StoredField { precision: 1.0, ..StoredField::counter("x", 1.0) };
        assert_eq!(rates(requests, &[(0, 0.0, 0.0), (10_000, 0.2, 4.0)])[1], 0.4);
        let bytes = StoredField { precision: 1.0, ..StoredField::counter("x", 1.0) };
        assert_eq!(rates(bytes, &[(0, 0.0, 0.0), (10_000, 7.3, 21_474_836_480.0)])[1], 2_145_917_128.5);
        assert_eq!(rate(1.0, [(0, 0.0, 0.1), (300, 0.0, 2.2)]), 7.0, "to the bit it is 7.000000000000001");
    }
}
