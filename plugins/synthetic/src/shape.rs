//! Shapes of series, by time in seconds.

use std::f64::consts::TAU;

/// Returns a number from 0 to 1 that is always the same for the same arguments.
pub(crate) fn noise(seed: u64, nth: u64) -> f64 {
    // splitmix64
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(nth.wrapping_mul(0xd1b5_4a32_d192_ed03));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Returns the number of whole periods until a time.
pub(crate) fn period(at: f64, seconds: f64) -> u64 {
    (at / seconds) as u64
}

/// Returns a wave from -1 to 1. `phase`: from 0 to 1.
pub(crate) fn wave(at: f64, seconds: f64, phase: f64) -> f64 {
    // The remainder first: the sine of a large number is less exact.
    (((at / seconds).fract() + phase) * TAU).sin()
}

/// Returns the area under `1 + wave(…)`, from a time that is the same for all.
fn area(at: f64, seconds: f64, phase: f64, height: f64) -> f64 {
    at - height * seconds / TAU * (((at / seconds).fract() + phase) * TAU).cos()
}

/// A running total whose rate is a wave around a mean. It begins again at 0 at the end of each life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Total {
    /// Per second.
    pub(crate) mean: f64,
    /// How far the rate swings, as a share of the mean below 1.
    pub(crate) swing: f64,
    pub(crate) seconds: f64,
    pub(crate) phase: f64,
    /// How long the total grows, in seconds, and when it first began.
    pub(crate) life: f64,
    pub(crate) born: f64,
}

// === impl Total ===

impl Total {
    pub(crate) fn at(&self, at: f64) -> f64 {
        let began = at - (at - self.born).rem_euclid(self.life);
        let area = |at| area(at, self.seconds, self.phase, self.swing);
        (self.mean * (area(at) - area(began))).max(0.0).floor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_spread_evenly_from_0_to_1() {
        let mean = (0..10_000).map(|nth| noise(7, nth)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..10_000).all(|nth| (0.0..1.0).contains(&noise(7, nth))));
    }

    #[test]
    fn a_total_grows_by_its_mean_and_begins_again_at_the_end_of_its_life() {
        let total = Total { mean: 50.0, swing: 0.5, seconds: 600.0, phase: 0.3, life: 7200.0, born: 100.0 };
        let values: Vec<f64> = (0..14_400).map(|second| total.at(1_800_000_000.0 + f64::from(second))).collect();
        let falls: Vec<f64> = values.windows(2).filter(|pair| pair[1] < pair[0]).map(|pair| pair[1]).collect();
        assert_eq!(falls.len(), 2);
        assert!(falls.iter().all(|value| *value <= 80.0), "{falls:?}");
        let most = values.iter().copied().fold(0.0, f64::max);
        assert!((most / 7200.0 - 50.0).abs() < 1.0, "{most}");
    }
}
