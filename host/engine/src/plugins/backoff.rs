//! Backoff and quarantine of a plugin whose calls end badly: the plugin waits before the next call, longer each time,
//! and then goes into quarantine. An answered call, or enough time, resets this. An instance that is set aside
//! (`batches`) is retried with the same [`backoff`].
//!
//! A call *ends badly* if the plugin's instance ends during the call, or while it is started for the call. A call
//! *comes back* if the plugin answers it, even with a failure.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// The wait after the first failure.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);

/// The longest pause of a quarantine. After this time without quarantine, the next one begins with the shortest pause
/// again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// While other calls come back, this many times as many calls may end badly before quarantine. The search for one
/// instance that ends calls needs some ten calls that end badly.
const BESIDE_OTHERS: usize = 100;

/// The recent failures of a plugin, which decide on backoff and quarantine.
#[derive(Debug)]
pub(crate) struct RecentFailures {
    /// The number of failures in a row within the window that leads to quarantine.
    most: usize,
    window: Duration,
    /// The calls that ended badly within the window.
    all: VecDeque<Instant>,
    /// The failures within the window since a call last came back: ticks or starts in which none did.
    in_a_row: VecDeque<Instant>,
}

/// The outcome of a plugin's calls in one tick, or of its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PollOutcome {
    /// Whether a call came back with an answer, which may be a failure.
    pub(crate) came_back: bool,
    /// The number of calls that ended badly.
    pub(crate) ended_badly: usize,
    /// The number of retries that ended badly, of instances that are set aside. Such ends are expected; they count only
    /// if no call came back.
    pub(crate) tried_in_vain: usize,
}

/// The consequence of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Consequence {
    GoOn,
    Wait(Duration),
    /// The reason for quarantine.
    Quarantine(String),
}

/// Returns the wait after `times` failures in a row. It is up to a quarter longer or shorter at random, so that plugins
/// that failed together do not retry together.
pub(crate) fn backoff(times: usize) -> Duration {
    let doublings = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    jittered(FIRST.saturating_mul(1 << doublings).min(LONGEST))
}

fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(wait) % 1024;
    wait.mul_f64(0.75 + random as f64 / 2048.0)
}

/// The pauses after which a plugin in quarantine is tried again. Each is about twice as long as the one before.
#[derive(Debug)]
pub(crate) struct QuarantinePauses {
    first: Duration,
    /// The retries since the plugin last ran for [`LONGEST_PAUSE`].
    times: u32,
    /// The time when quarantine last ended.
    lifted: Option<Instant>,
}

impl QuarantinePauses {
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, times: 0, lifted: None }
    }

    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        if self.lifted.take().is_some_and(|lifted| now.duration_since(lifted) > LONGEST_PAUSE) {
            self.times = 0;
        }
        let pause = self.first.saturating_mul(1 << self.times.min(16)).min(LONGEST_PAUSE);
        self.times = self.times.saturating_add(1);
        jittered(pause).min(LONGEST_PAUSE)
    }

    /// Notes that quarantine has ended. Returns the number of retries.
    pub(crate) fn lift(&mut self, now: Instant) -> u32 {
        self.lifted = Some(now);
        self.times
    }

    /// Begins with the shortest pause again, because an operator released the plugin.
    pub(crate) fn reset(&mut self) {
        (self.times, self.lifted) = (0, None);
    }
}

impl RecentFailures {
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        Self { most, window, all: VecDeque::new(), in_a_row: VecDeque::new() }
    }

    /// Adds an outcome and returns its consequence.
    pub(crate) fn after(&mut self, went: PollOutcome, now: Instant) -> Consequence {
        let in_vain = !went.came_back && went.ended_badly + went.tried_in_vain > 0;
        if went.came_back {
            self.in_a_row.clear();
        } else if in_vain {
            self.in_a_row.push_back(now);
        }
        self.all.extend(std::iter::repeat_n(now, went.ended_badly));
        for failures in [&mut self.all, &mut self.in_a_row] {
            while failures.pop_front_if(|at| now.duration_since(*at) > self.window).is_some() {}
        }
        let within = humantime::format_duration(self.window);
        if self.in_a_row.len() >= self.most {
            Consequence::Quarantine(format!(
                "its calls ended badly {} times in a row within {within}",
                self.in_a_row.len()
            ))
        } else if self.all.len() >= self.most.saturating_mul(BESIDE_OTHERS) {
            Consequence::Quarantine(format!("{} of its calls ended badly within {within}", self.all.len()))
        } else if in_vain {
            Consequence::Wait(backoff(self.in_a_row.len()))
        } else {
            Consequence::GoOn
        }
    }

    /// Forgets all failures.
    pub(crate) fn reset(&mut self) {
        self.all.clear();
        self.in_a_row.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BADLY: PollOutcome = PollOutcome { came_back: false, ended_badly: 1, tried_in_vain: 0 };
    const WELL: PollOutcome = PollOutcome { came_back: true, ended_badly: 0, tried_in_vain: 0 };
    const MIXED: PollOutcome = PollOutcome { came_back: true, ended_badly: 1, tried_in_vain: 0 };

    fn after(failures: &mut RecentFailures, went: PollOutcome, seconds: u64) -> Consequence {
        failures.after(went, start() + Duration::from_secs(seconds))
    }

    fn start() -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now)
    }

    #[test]
    fn backoff_doubles_up_to_a_bound_with_jitter() {
        for (times, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (usize::MAX, 300.0)] {
            let wait = backoff(times).as_secs_f64();
            assert!((seconds * 0.75..=seconds * 1.25).contains(&wait), "{times}: {wait}");
        }
        let waits: Vec<_> = (0..10).map(|_| backoff(9)).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn quarantine_pauses_double_up_to_an_hour_and_reset_after_an_hour_outside() {
        let (mut pauses, mut now) = (QuarantinePauses::new(Duration::from_secs(60)), start());
        for minutes in [1.0_f64, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let pause = pauses.next(now).as_secs_f64() / 60.0;
            assert!((minutes * 0.75..=(minutes * 1.25).min(60.0)).contains(&pause), "{minutes}: {pause}");
        }
        assert_eq!(pauses.lift(now), 8);
        now += Duration::from_secs(600);
        assert!(pauses.next(now) >= Duration::from_secs(45 * 60), "it did not last");
        pauses.lift(now);
        now += Duration::from_secs(3601);
        assert!(pauses.next(now) <= Duration::from_secs(75));
    }

    #[test]
    fn failures_in_a_row_lead_to_quarantine() {
        let mut failures = RecentFailures::new(3, Duration::from_secs(60));
        assert!(matches!(after(&mut failures, BADLY, 0), Consequence::Wait(_)));
        assert!(matches!(after(&mut failures, BADLY, 10), Consequence::Wait(_)));
        let Consequence::Quarantine(why) = after(&mut failures, BADLY, 20) else { panic!("three are too many") };
        assert_eq!(why, "its calls ended badly 3 times in a row within 1m");
        failures.reset();
        assert!(matches!(after(&mut failures, BADLY, 30), Consequence::Wait(_)), "released, it begins anew");
    }

    #[test]
    fn successful_calls_and_time_prevent_quarantine() {
        let mut failures = RecentFailures::new(3, Duration::from_secs(60));
        for tick in 0..100 {
            assert!(matches!(after(&mut failures, BADLY, tick), Consequence::Wait(_)));
            assert_eq!(after(&mut failures, WELL, tick), Consequence::GoOn);
            if tick == 50 {
                failures.reset();
            }
        }
        let mut slow = RecentFailures::new(3, Duration::from_secs(60));
        assert!((0..100).all(|tick| matches!(after(&mut slow, BADLY, tick * 40), Consequence::Wait(_))));
    }

    #[test]
    fn failures_beside_successful_calls_lead_to_quarantine_after_a_hundred_times_as_many() {
        let mut failures = RecentFailures::new(3, Duration::from_secs(60));
        let went_on = (0..1000).take_while(|_| after(&mut failures, MIXED, 1) == Consequence::GoOn).count();
        assert_eq!(went_on, 3 * BESIDE_OTHERS - 1);
    }

    #[test]
    fn retries_of_set_aside_instances_do_not_lead_to_quarantine_while_other_calls_succeed() {
        let mut failures = RecentFailures::new(3, Duration::from_secs(60));
        let beside = PollOutcome { came_back: true, tried_in_vain: 50, ..PollOutcome::default() };
        assert!((0..1000).all(|_| after(&mut failures, beside, 1) == Consequence::GoOn));
        let alone = PollOutcome { tried_in_vain: 1, ..PollOutcome::default() };
        assert!(matches!(after(&mut failures, alone, 1), Consequence::Wait(_)));
        after(&mut failures, alone, 2);
        assert!(matches!(after(&mut failures, alone, 3), Consequence::Quarantine(_)), "there are no others");
    }

    #[test]
    fn ticks_without_calls_do_not_clear_failures() {
        let mut failures = RecentFailures::new(2, Duration::from_secs(60));
        after(&mut failures, BADLY, 0);
        assert_eq!(after(&mut failures, PollOutcome::default(), 1), Consequence::GoOn);
        assert!(matches!(after(&mut failures, BADLY, 2), Consequence::Quarantine(_)));
    }
}
