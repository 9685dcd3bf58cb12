use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock, passed in so that tests own time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    pub fn system() -> Self {
        Self(Arc::new(|| match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }))
    }

    /// Starts at a time and follows tokio's clock, which tests can pause.
    pub fn starting_at(start_ms: i64) -> Self {
        let start = tokio::time::Instant::now();
        Self(Arc::new(move || start_ms + start.elapsed().as_millis() as i64))
    }

    /// Milliseconds since 1970 UTC.
    pub fn now_ms(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now_ms()).finish()
    }
}

/// When to poll: at once, then at multiples of the interval plus a phase that differs from plugin to plugin, so that
/// they do not all wake at once. A tick that comes too late is skipped and counted, never queued.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    interval_ms: i64,
    phase_ms: i64,
    /// The tick under way.
    current_ms: Option<i64>,
}

impl Schedule {
    pub fn new(name: &str, interval: Duration) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        // Enough to spread the work, too little to be seen on a chart.
        let spread = (interval_ms / 10).clamp(1, 250);
        Self { interval_ms, phase_ms: i64::from(fnv(name)) % spread, current_ms: None }
    }

    /// The next tick and how many were missed since the last one.
    pub fn next(&mut self, now_ms: i64) -> (i64, u64) {
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
            // Only after the first, which was at once: a rate over next to no time would be noise.
            due = due.saturating_add(self.interval_ms);
        }
        // The clock was set back: start over from where it is now.
        if due - now_ms > 2 * self.interval_ms {
            due = grid_after(now_ms);
        }
        let mut missed = 0;
        if now_ms > due {
            let next = grid_after(now_ms.saturating_sub(1));
            missed = u64::try_from((next - due) / self.interval_ms).unwrap_or(0);
            due = next;
        }
        self.current_ms = Some(due);
        (due, missed)
    }
}

/// A small stable hash: phases stay the same from start to start.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule { interval_ms: 1000, phase_ms: 7, current_ms: None }
    }

    #[test]
    fn the_first_tick_is_at_once_and_the_next_on_the_grid() {
        let mut schedule = schedule();
        assert_eq!(schedule.next(5_300), (5_300, 0));
        assert_eq!(schedule.next(5_301), (6_007, 0));
        assert_eq!(schedule.next(6_010), (7_007, 0));
    }

    #[test]
    fn the_second_tick_keeps_its_distance_from_the_first() {
        let mut schedule = schedule();
        schedule.next(5_950);
        assert_eq!(schedule.next(5_951), (7_007, 0));
    }

    #[test]
    fn late_ticks_are_skipped_and_counted() {
        let mut schedule = schedule();
        schedule.next(0);
        schedule.next(1);
        assert_eq!(schedule.next(4_500), (5_007, 3), "2007, 3007 and 4007 are gone");
        assert_eq!(schedule.next(5_008), (6_007, 0));
    }

    #[test]
    fn a_clock_that_was_set_back_or_ahead_does_not_stop_the_polls() {
        let mut schedule = schedule();
        schedule.next(1_000_000);
        assert_eq!(schedule.next(500_000).0, 500_007);
        let (due, _) = schedule.next(9_000_000_000);
        assert_eq!(due, 9_000_000_007);
    }

    #[test]
    fn phases_differ_and_stay() {
        let phase = |name| Schedule::new(name, Duration::from_secs(10)).phase_ms;
        assert_eq!(phase("procfs"), phase("procfs"));
        assert_ne!(phase("procfs"), phase("scrape"));
        assert!(phase("procfs") < 250);
    }
}
