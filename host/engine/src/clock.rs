use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock, which anybody may set, and a steady clock, which nobody can set. A clock is passed in, so that tests
/// control time.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> i64 + Send + Sync>,
    steady: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// Returns the clocks of the operating system.
    pub fn system() -> Self {
        let wall = || match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        // CLOCK_BOOTTIME goes on while the machine is suspended.
        let steady = || Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
        Self { wall: Arc::new(wall), steady: Arc::new(steady) }
    }

    /// Returns a clock that starts at a time and follows tokio's clock, which tests can pause.
    pub fn starting_at(start_ms: i64) -> Self {
        Self::set_by(move || start_ms)
    }

    /// Returns a clock that follows tokio's clock. Its start may change at any time, as if somebody set the wall clock.
    pub fn set_by(start_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let start = tokio::time::Instant::now();
        let wall = move || start_ms().saturating_add(start.elapsed().as_millis() as i64);
        Self { wall: Arc::new(wall), steady: Arc::new(move || start.elapsed()) }
    }

    /// Returns the wall clock's time, in milliseconds since 1970 UTC.
    pub fn now_ms(&self) -> i64 {
        (self.wall)()
    }

    /// Returns the steady clock's time. Only the difference between two results means something.
    pub fn steady(&self) -> Duration {
        (self.steady)()
    }

    /// Returns the stamp of readings that are taken now for the tick at `due_ms`. Its time is the tick's, as long as
    /// that is within a tenth of the interval, else the current time.
    pub fn stamp(&self, due_ms: i64, interval: Duration) -> Stamp {
        // The steady clock is read last: if the thread is held up in between, `steady` is too late, never too early.
        let (now_ms, steady) = (self.now_ms(), self.steady());
        let tolerance_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX) / 10;
        let late_ms = now_ms.saturating_sub(due_ms);
        if late_ms.saturating_abs() <= tolerance_ms {
            Stamp { at_ms: due_ms, late_ms, steady }
        } else {
            Stamp { at_ms: now_ms, late_ms: 0, steady }
        }
    }
}

/// The time at which a poll begins to take readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The time under which the readings are stored, in milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// The delay after `at_ms` by the wall clock, in milliseconds.
    pub late_ms: i64,
    /// The time by the steady clock.
    pub steady: Duration,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now_ms()).finish()
    }
}

/// The schedule of a plugin's polls: at once, then at multiples of the interval plus a phase. The phase differs from
/// plugin to plugin, so that they do not all wake at once. A tick that comes too late is skipped and counted, never
/// queued.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    interval_ms: i64,
    phase_ms: i64,
    /// The time of the last tick returned by [`next`](Self::next).
    current_ms: Option<i64>,
    /// The time of the last call of [`next`](Self::next), by the steady clock.
    asked: Duration,
}

impl Schedule {
    pub fn new(name: &str, interval: Duration) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        // Enough to spread the work, too little to be seen on a chart.
        let spread = (interval_ms / 10).clamp(1, 250);
        Self { interval_ms, phase_ms: i64::from(fnv(name)) % spread, current_ms: None, asked: Duration::ZERO }
    }

    /// Returns the next tick and the number of ticks missed since the last one. That number never exceeds what the
    /// passed time had room for, however far the wall clock was set.
    pub fn next(&mut self, now_ms: i64, steady: Duration) -> (i64, u64) {
        let passed = steady.saturating_sub(std::mem::replace(&mut self.asked, steady));
        let Some(current) = self.current_ms else {
            self.current_ms = Some(now_ms);
            return (now_ms, 0);
        };
        let grid_after = |at: i64| {
            let steps = at.saturating_sub(self.phase_ms).div_euclid(self.interval_ms).saturating_add(1);
            steps.saturating_mul(self.interval_ms).saturating_add(self.phase_ms)
        };
        let mut due = grid_after(current);
        if due - current < self.interval_ms / 10 {
            // Happens only after the first tick, which was at once. A rate over so short a time would be noise.
            due = due.saturating_add(self.interval_ms);
        }
        // The wall clock was set back: the schedule starts over from its current time.
        if due - now_ms > 2 * self.interval_ms {
            due = grid_after(now_ms);
        }
        let mut missed = 0;
        if now_ms > due {
            let next = grid_after(now_ms.saturating_sub(1));
            let time_for = passed.as_millis() / u128::from(self.interval_ms.unsigned_abs());
            missed = u64::try_from((next - due) / self.interval_ms).unwrap_or(0);
            missed = missed.min(u64::try_from(time_for).unwrap_or(u64::MAX));
            due = next;
        }
        self.current_ms = Some(due);
        (due, missed)
    }
}

/// Returns a small stable hash (FNV-1a), so that phases stay the same from start to start.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule { interval_ms: 1000, phase_ms: 7, current_ms: None, asked: Duration::ZERO }
    }

    /// Returns the next tick while nobody sets the wall clock.
    fn next(schedule: &mut Schedule, now_ms: i64) -> (i64, u64) {
        schedule.next(now_ms, Duration::from_millis(now_ms.unsigned_abs()))
    }

    #[test]
    fn the_first_tick_is_at_once_and_later_ticks_are_on_the_grid() {
        let mut schedule = schedule();
        assert_eq!(next(&mut schedule, 5_300), (5_300, 0));
        assert_eq!(next(&mut schedule, 5_301), (6_007, 0));
        assert_eq!(next(&mut schedule, 6_010), (7_007, 0));
    }

    #[test]
    fn the_second_tick_keeps_its_distance_from_the_first() {
        let mut schedule = schedule();
        next(&mut schedule, 5_950);
        assert_eq!(next(&mut schedule, 5_951), (7_007, 0));
    }

    #[test]
    fn late_ticks_are_skipped_and_counted() {
        let mut schedule = schedule();
        next(&mut schedule, 0);
        next(&mut schedule, 1);
        assert_eq!(next(&mut schedule, 4_500), (5_007, 3), "2007, 3007 and 4007 are gone");
        assert_eq!(next(&mut schedule, 5_008), (6_007, 0));
    }

    #[test]
    fn polls_go_on_after_the_clock_was_set_back_or_ahead() {
        let mut schedule = schedule();
        schedule.next(1_000_000, Duration::ZERO);
        assert_eq!(schedule.next(500_000, Duration::from_secs(1)), (500_007, 0));
        assert_eq!(
            schedule.next(9_000_000_000, Duration::from_secs(4)),
            (9_000_000_007, 3),
            "there was time for three"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn readings_up_to_a_tenth_of_the_interval_late_have_the_time_of_their_tick() {
        let clock = Clock::starting_at(1_000_000);
        let stamp = |due_ms| clock.stamp(due_ms, Duration::from_secs(1));
        assert_eq!((stamp(999_900).at_ms, stamp(999_900).late_ms), (999_900, 100));
        assert_eq!((stamp(999_899).at_ms, stamp(999_899).late_ms), (1_000_000, 0));
        assert_eq!(stamp(8_200_000).at_ms, 1_000_000, "the clock was set back during the wait for the tick");
    }

    #[test]
    fn phases_differ_between_names_and_stay_the_same_for_a_name() {
        let phase = |name| Schedule::new(name, Duration::from_secs(10)).phase_ms;
        assert_eq!(phase("procfs"), phase("procfs"));
        assert_ne!(phase("procfs"), phase("scrape"));
        assert!(phase("procfs") < 250);
    }
}
