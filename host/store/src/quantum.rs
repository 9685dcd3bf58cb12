/// The step that a field's readings are rounded to. It converts values to whole numbers of steps and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quantum {
    /// No step: every bit counts.
    Exact,
    /// A step of 1 / n, with n as its value: 100 for a precision of 0.01. Dividing by 100 gives the double nearest to
    /// the decimal; multiplying by 0.01 does not.
    Part(f64),
    /// A step above 1, or one that is not 1 / n.
    Multiple(f64),
}

/// 1.5 × 2⁵². Adding and subtracting it rounds a number below 2⁵¹ to a whole number, ties to even.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// The bound below which [`ROUND`] works.
const SMALL: f64 = (1u64 << 51) as f64;

/// Doubles represent all whole numbers up to this one.
const WHOLE: f64 = (1u64 << 53) as f64;

/// Returns the nearest whole number to a number for which [`rounds`] is true.
#[inline]
pub(crate) fn nearest(steps: f64) -> f64 {
    (steps + ROUND) - ROUND + 0.0 // -0 is 0
}

/// Returns whether a number is small enough to be rounded by [`nearest`].
#[inline]
pub(crate) fn rounds(steps: f64) -> bool {
    steps.abs() < SMALL
}

impl Quantum {
    /// Returns the step for a declared precision. A `precision` ≤ 0 means no step.
    pub(crate) fn of(precision: f64) -> Self {
        if !(precision > 0.0 && precision.is_finite()) {
            return Self::Exact;
        }
        let parts = (1.0 / precision).round();
        if (1.0..=WHOLE).contains(&parts) && (parts * precision - 1.0).abs() < 1e-9 {
            Self::Part(parts)
        } else {
            Self::Multiple(precision)
        }
    }

    /// Returns a value as a number of steps, rounded to a whole number. Beyond 2⁵³ there is nothing to round.
    #[inline]
    pub(crate) fn steps(self, value: f64) -> f64 {
        let steps = self.unrounded(value);
        if self == Self::Exact {
            steps
        } else if rounds(steps) {
            nearest(steps)
        } else if steps.abs() < WHOLE {
            steps.round_ties_even()
        } else {
            steps
        }
    }

    #[inline]
    pub(crate) fn unrounded(self, value: f64) -> f64 {
        match self {
            Self::Exact => value,
            Self::Part(parts) => value * parts,
            Self::Multiple(step) => value / step,
        }
    }

    #[inline]
    pub(crate) fn value(self, steps: f64) -> f64 {
        match self {
            Self::Exact => steps,
            Self::Part(parts) => steps / parts,
            Self::Multiple(step) => steps * step,
        }
    }

    /// Returns a reading rounded to the step; NaN if the reading is not finite.
    #[inline]
    pub(crate) fn keep(self, reading: f64) -> f64 {
        if !reading.is_finite() {
            return f64::NAN;
        }
        let kept = match self {
            Self::Exact => reading,
            _ => self.value(self.steps(reading)),
        };
        if kept.is_finite() { kept + 0.0 } else { reading }
    }

    /// Returns a value as a whole number of steps, if that converts back to the same bits.
    #[inline]
    pub(crate) fn whole(self, value: f64) -> Option<i64> {
        let steps = self.steps(value);
        let whole = steps.abs() < WHOLE && steps == (steps as i64) as f64;
        (whole && self.value(steps).to_bits() == value.to_bits()).then_some(steps as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_rounded_to_the_nearest_decimal_double() {
        assert_eq!(Quantum::of(0.01).keep(0.285_1), 0.29);
        assert_eq!(Quantum::of(0.01).keep(12.349_9), 12.35);
        assert_eq!(Quantum::of(5.0).keep(12.6), 15.0);
        assert_eq!(Quantum::of(0.0).keep(0.1 + 0.2), 0.1 + 0.2);
        assert_eq!(Quantum::of(1.0).keep(3e15 + 0.5), 3e15, "ties to even, where the fast way ends, too");
    }

    #[test]
    fn nan_and_infinity_become_gaps_and_minus_zero_becomes_zero() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Quantum::of(1.0).keep(odd).is_nan());
        }
        assert!(Quantum::of(1.0).keep(-0.3).is_sign_positive());
        assert!(Quantum::Exact.keep(-0.0).is_sign_positive());
        for extreme in [f64::MAX, f64::MIN_POSITIVE / 4.0, WHOLE + 2.0] {
            assert_eq!(Quantum::Exact.keep(extreme), extreme);
        }
        assert_eq!(Quantum::of(0.01).keep(f64::MAX), f64::MAX);
    }

    #[test]
    fn rounded_readings_convert_to_whole_steps_and_back_to_the_bit() {
        for quantum in [Quantum::of(0.01), Quantum::of(5.0), Quantum::of(0.3), Quantum::of(1.0)] {
            for reading in [0.0, -1.005, 17.3, 1e9, 123_456_789.123, WHOLE - 1.0, WHOLE * 4.0, 1e300, -2e-310] {
                let kept = quantum.keep(reading);
                match quantum.whole(kept) {
                    Some(whole) => assert_eq!(quantum.value(whole as f64).to_bits(), kept.to_bits()),
                    None => assert!(reading.abs() >= 1e15, "{quantum:?} {reading}"),
                }
            }
        }
        assert_eq!(Quantum::Exact.whole(0.5), None);
    }
}
