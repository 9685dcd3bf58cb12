//! Functions of numbers that Go computes in its own way: Prometheus' answers depend on it.

use std::f64::consts::{LN_2, LN_10};

/// The smaller of two numbers; NaN if one is NaN.
pub(super) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// The larger of two numbers; NaN if one is NaN.
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The natural logarithm. Numbers below 2.2e-308 have lost their leading digits; Go, on amd64, takes them for numbers just
/// above 2^-1023.
pub(super) fn ln(value: f64) -> f64 {
    if !value.is_subnormal() || value < 0.0 {
        return value.ln();
    }
    let mantissa = f64::from_bits(value.to_bits() | (1022 << 52));
    mantissa.ln() - 1022.0 * LN_2
}

pub(super) fn log10(value: f64) -> f64 {
    if value.is_subnormal() { ln(value) / LN_10 } else { value.log10() }
}

/// From here on, squares lose all digits of what is added to them.
const LARGE: f64 = (1_u64 << 28) as f64;

pub(super) fn asinh(value: f64) -> f64 {
    let size = value.abs();
    let of_size = if size > LARGE || size.is_nan() {
        size.ln() + LN_2
    } else if size > 2.0 {
        (2.0 * size + 1.0 / ((size * size + 1.0).sqrt() + size)).ln()
    } else if size < 1.0 / LARGE {
        size
    } else {
        (size + size * size / (1.0 + (size * size + 1.0).sqrt())).ln_1p()
    };
    of_size.copysign(value)
}

pub(super) fn acosh(value: f64) -> f64 {
    if value < 1.0 || value.is_nan() {
        f64::NAN
    } else if value >= LARGE {
        value.ln() + LN_2
    } else if value > 2.0 {
        (2.0 * value - 1.0 / (value + (value * value - 1.0).sqrt())).ln()
    } else {
        let beyond = value - 1.0;
        (beyond + (2.0 * beyond + beyond * beyond).sqrt()).ln_1p()
    }
}
