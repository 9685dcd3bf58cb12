//! Lines through samples, and smoothing: `deriv`, `predict_linear`, `double_exponential_smoothing`.

use super::sums::Sum;
use crate::source::Samples;

/// Returns the slope of the line that fits samples best, and its height at a time.
pub(super) fn line(samples: Samples<'_>, at_ms: i64) -> Option<(f64, f64)> {
    let [first, _, ..] = samples.values else { return None };
    let (mut x_sum, mut y_sum, mut xy_sum, mut x2_sum) =
        (Sum::default(), Sum::default(), Sum::default(), Sum::default());
    let mut is_flat = true;
    for (sample_ms, y) in samples.at_ms.iter().zip(samples.values) {
        is_flat &= y == first;
        let x = sample_ms.saturating_sub(at_ms) as f64 / 1000.0;
        x_sum = x_sum.add(x);
        y_sum = y_sum.add(*y);
        xy_sum = xy_sum.add(x * y);
        x2_sum = x2_sum.add(x * x);
    }
    // A NaN differs from itself, but one alone makes no slope.
    if is_flat {
        return Some(if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, *first) });
    }
    let count = samples.values.len() as f64;
    let of = |sum: Sum| sum.sum + sum.lost;
    let (x, y, xy, x2) = (of(x_sum), of(y_sum), of(xy_sum), of(x2_sum));
    let slope = (xy - x * y / count) / (x2 - x * x / count);
    Some((slope, y / count - slope * x / count))
}

/// Returns the last value of samples after double exponential smoothing (Holt's linear method).
pub(super) fn smoothed(values: &[f64], smoothing: f64, trend: f64) -> Option<f64> {
    let [first, second, ..] = values else { return None };
    let (mut before, mut level, mut slope) = (0.0, *first, second - first);
    for (nth, value) in values.iter().skip(1).enumerate() {
        if nth > 0 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        let next = smoothing * value + (1.0 - smoothing) * (level + slope);
        (before, level) = (level, next);
    }
    Some(level)
}
