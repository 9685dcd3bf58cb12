//! The time that retention uses. A clock that was set ahead by mistake, or that a machine started with, must not cost
//! history. A jump ahead, or a time without a host, counts only after the clock has run steadily for as long, a day at
//! most.

use crate::codec::{ByteReader, CorruptData, put_i64};

const HOUR_MS: i64 = 3_600_000;

/// A longer time between two checks of the clock counts as a jump, not as time that passed.
const JUMP_MS: i64 = HOUR_MS;

/// After running steadily for this long, a clock is trusted whatever time it shows.
const STEADY_MS: i64 = 24 * HOUR_MS;

/// The state of the clock. It survives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrustedClock {
    /// The trusted time: retention uses no later one.
    trusted_ms: i64,
    /// The time that the clock showed at the last check.
    seen_ms: i64,
    /// How long the clock has run steadily since it jumped, in milliseconds.
    steady_ms: i64,
}

impl TrustedClock {
    pub(super) fn new(now_ms: i64) -> Self {
        Self { trusted_ms: now_ms, seen_ms: now_ms, steady_ms: 0 }
    }

    /// Checks the clock. Returns the trusted time.
    pub(super) fn check(&mut self, now_ms: i64) -> i64 {
        let passed_ms = now_ms.saturating_sub(self.seen_ms);
        let was_ahead = self.seen_ms.saturating_sub(self.trusted_ms) > JUMP_MS;
        self.seen_ms = now_ms;
        match passed_ms {
            0..=JUMP_MS => {
                self.steady_ms = self.steady_ms.saturating_add(passed_ms);
                self.trusted_ms = self.trusted_ms.saturating_add(passed_ms);
            }
            // A clock that is corrected in small steps, or a machine that runs for some hours a day.
            _ if passed_ms.saturating_abs() <= JUMP_MS || (passed_ms > 0 && was_ahead) => {}
            _ => self.steady_ms = 0,
        }
        let off_ms = now_ms.saturating_sub(self.trusted_ms).saturating_abs();
        if off_ms <= JUMP_MS || self.steady_ms >= off_ms.min(STEADY_MS) {
            self.trusted_ms = now_ms;
        }
        self.trusted_ms
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let mut reader = ByteReader(value);
        let mut next = || -> Result<i64, CorruptData> { reader.i64() };
        Some(Self { trusted_ms: next().ok()?, seen_ms: next().ok()?, steady_ms: next().ok()? })
    }

    pub(super) fn write(self) -> Vec<u8> {
        let mut out = Vec::new();
        [self.trusted_ms, self.seen_ms, self.steady_ms].into_iter().for_each(|ms| put_i64(&mut out, ms));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const MINUTE_MS: i64 = 60_000;
    const DAY_MS: i64 = 24 * HOUR_MS;

    /// Checks the clock once a minute. Returns the trusted time at the end.
    fn run(clock: &mut TrustedClock, from_ms: i64, minutes: i64) -> i64 {
        (0..=minutes).map(|minute| clock.check(from_ms + minute * MINUTE_MS)).last().unwrap()
    }

    #[test]
    fn a_steady_clock_is_trusted() {
        let mut clock = TrustedClock::new(NOW);
        assert_eq!(run(&mut clock, NOW, 600), NOW + 10 * HOUR_MS);
    }

    #[test]
    fn a_clock_set_a_year_ahead_is_trusted_only_after_a_day() {
        let mut clock = TrustedClock::new(NOW);
        let ahead = NOW + 365 * DAY_MS;
        assert_eq!(run(&mut clock, ahead, 23 * 60), NOW + 23 * HOUR_MS, "time passes by it");
        assert_eq!(run(&mut { clock }, NOW + DAY_MS, 1), NOW + DAY_MS + MINUTE_MS, "then it is right again");
        assert_eq!(run(&mut clock, ahead + 23 * HOUR_MS, 60), ahead + DAY_MS);
    }

    #[test]
    fn two_hours_without_a_host_are_trusted_after_two_hours_with_one() {
        let mut clock = TrustedClock::new(NOW);
        let start = NOW + 2 * HOUR_MS;
        assert_eq!(run(&mut clock, start, 119), NOW + 119 * MINUTE_MS);
        assert_eq!(run(&mut clock, start + 119 * MINUTE_MS, 1), start + 2 * HOUR_MS);
    }

    #[test]
    fn a_clock_that_returns_to_the_trusted_time_is_trusted_at_once() {
        let mut clock = TrustedClock::new(NOW);
        let booted = NOW - 56 * 365 * DAY_MS;
        assert_eq!(run(&mut clock, booted, 10), NOW + 10 * MINUTE_MS, "time passes all the same");
        assert_eq!(run(&mut clock, NOW + 12 * MINUTE_MS, 1), NOW + 13 * MINUTE_MS);
    }

    #[test]
    fn on_a_machine_that_runs_eight_hours_a_day_trusted_time_lags_at_most_three_days() {
        let mut clock = TrustedClock::new(NOW);
        for day in 1..100 {
            let evening = run(&mut clock, NOW + day * DAY_MS, 8 * 60);
            assert!(NOW + day * DAY_MS - evening <= 3 * DAY_MS, "day {day}");
        }
    }

    #[test]
    fn a_clock_corrected_in_small_steps_is_trusted() {
        let mut clock = TrustedClock::new(NOW);
        let ahead = NOW + 2 * HOUR_MS;
        for minute in 0..=121 {
            clock.check(ahead + minute * MINUTE_MS);
            clock.check(ahead + minute * MINUTE_MS - 500);
        }
        assert_eq!(clock.check(ahead + 122 * MINUTE_MS), ahead + 122 * MINUTE_MS);
    }

    #[test]
    fn the_state_of_the_clock_survives_a_restart() {
        let mut clock = TrustedClock::new(NOW);
        clock.check(NOW + 3 * DAY_MS);
        assert_eq!(TrustedClock::read(&clock.write()), Some(clock));
        assert_eq!(TrustedClock::read(b""), None);
    }
}
