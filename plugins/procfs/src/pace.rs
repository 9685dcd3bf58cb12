//! CPU time as it is shown: in steps, and never faster than time.

use crate::clock::Moment;
use serde::{Deserialize, Serialize};

/// Steps per second of CPU time. The host rounds totals to this step, so no further rounding can move 100 % up or down.
const STEPS_PER_SECOND: f64 = 10_000.0;

/// One step in seconds: the field's precision.
pub(crate) const STEP: f64 = 0.0001;

/// Most seconds to carry into the next interval. A call may take a second, so a reading can be that late. Carrying more
/// would show a load that is over.
const MOST_CARRIED: f64 = 1.0;

/// A total of CPU seconds that grows at most by the time between two readings, times a number of CPUs.
///
/// The kernel counts in ticks, and a reading takes a moment: a fully busy machine may count 10.01 s in one interval of
/// 10 s, and 9.99 s in the next. Seconds beyond the time of an interval count in the next one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace {
    shown: u64,
    /// Seconds that are counted but not shown yet.
    owed: f64,
    at: Moment,
}

// === impl Pace ===

impl Pace {
    pub(crate) fn start(seconds: f64, at: Moment) -> Self {
        let mut pace = Self { at, ..Self::default() };
        pace.owed = seconds.max(0.0);
        pace.show(u64::MAX);
        pace
    }

    /// Counts seconds to show with a later reading.
    pub(crate) fn owe(&mut self, seconds: f64) {
        self.owed += seconds.max(0.0);
    }

    /// Counts seconds, and returns the total in seconds that is shown now. `cpus` is the number of CPUs that can be
    /// busy; `None` if it is not known.
    pub(crate) fn advance(&mut self, seconds: f64, now: Moment, cpus: Option<f64>) -> f64 {
        self.owe(seconds);
        match now.since(&self.at).zip(cpus) {
            Some((elapsed, cpus)) => {
                self.show(steps(elapsed * cpus));
                self.owed = self.owed.min(MOST_CARRIED * cpus);
            }
            None => self.show(u64::MAX),
        }
        self.at = now;
        self.shown as f64 / STEPS_PER_SECOND
    }

    pub(crate) fn at(&self) -> Moment {
        self.at
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.shown as f64 / STEPS_PER_SECOND
    }

    fn show(&mut self, most: u64) {
        let steps = steps(self.owed).min(most);
        self.shown = self.shown.saturating_add(steps);
        self.owed = (self.owed - steps as f64 / STEPS_PER_SECOND).max(0.0);
    }
}

/// Returns the number of whole steps. A hundredth is not exact as a double, so a value just below a step counts as that
/// step.
fn steps(seconds: f64) -> u64 {
    const DUST: f64 = 1e-4;
    (seconds * STEPS_PER_SECOND + DUST).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_guest::Tick;

    fn at(ms: u64) -> Moment {
        let tick = Tick { at_ms: 0, monotonic_ns: ms * 1_000_000, budget_ms: 100, interval_ms: 10_000 };
        Moment::of(&tick, None)
    }

    #[test]
    fn what_is_beyond_time_is_shown_in_the_next_interval() {
        let mut pace = Pace::start(5.0, at(0));
        assert_eq!(pace.advance(10.02, at(10_000), Some(1.0)), 15.0);
        assert_eq!(pace.advance(9.97, at(20_000), Some(1.0)), 24.99);
    }

    #[test]
    fn a_busy_machine_is_wholly_busy_though_ticks_and_readings_are_late_and_early() {
        let mut pace = Pace::start(0.0, at(0));
        let mut before = (0.0, 0);
        for (nth, (counted, late)) in [(10.01, 3), (9.99, 0), (10.0, 7), (10.02, 1), (9.98, 2)].iter().enumerate() {
            let now = (nth as u64 + 1) * 10_000 + late;
            let total = pace.advance(*counted, at(now), Some(1.0));
            let percent = 100.0 * (total - before.0) / ((now - before.1) as f64 / 1000.0);
            assert!(percent <= 100.0 + 1e-9 && percent > 99.8, "{percent}");
            before = (total, now);
        }
    }

    #[test]
    fn a_load_that_is_over_is_not_shown_for_long() {
        let mut pace = Pace::start(0.0, at(0));
        assert_eq!(pace.advance(1000.0, at(1000), Some(1.0)), 1.0);
        assert_eq!(pace.advance(0.0, at(1500), Some(1.0)), 1.5);
        assert_eq!(pace.advance(0.0, at(2000), Some(1.0)), 2.0);
        assert_eq!(pace.advance(0.0, at(3000), Some(1.0)), 2.0);
    }

    #[test]
    fn without_a_clock_or_cpus_nothing_is_held_back() {
        let mut pace = Pace::start(1.0, Moment::default());
        assert_eq!(pace.advance(50.0, at(1000), Some(1.0)), 51.0);
        assert_eq!(pace.advance(50.0, at(2000), None), 101.0);
    }

    #[test]
    fn a_large_total_grows_as_precisely_as_a_small_one() {
        let mut pace = Pace::start(11_983_687_725.63, at(0));
        let before = pace.seconds();
        let total = pace.advance(0.3, at(10_000), Some(1.0));
        assert!((total - before - 0.3).abs() < 1e-5, "{}", total - before);
    }
}
