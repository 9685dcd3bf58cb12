//! Parses /proc/loadavg and /proc/uptime, converts the kernel's ticks, and measures the time between two moments.

use dropsonde_guest::Tick;
use serde::{Deserialize, Serialize};

pub(crate) const LOADAVG: &str = "/proc/loadavg";
pub(crate) const UPTIME: &str = "/proc/uptime";

/// `USER_HZ`: the ticks per second in which the kernel reports CPU times and start times to user space. It is 100 on
/// every architecture that runs this (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The time of a reading, on clocks that do not jump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Nanoseconds on the host's clock. It is not saved, because the clock begins anew when the host does.
    #[serde(skip)]
    monotonic_ns: Option<u64>,
    /// Seconds since boot.
    pub(crate) uptime: Option<f64>,
}

// === impl Moment ===

impl Moment {
    pub(crate) fn of(tick: &Tick, uptime: Option<f64>) -> Self {
        Self { monotonic_ns: Some(tick.monotonic_ns), uptime }
    }

    /// Returns a moment of which only the time since boot is known.
    pub(crate) fn after_boot(uptime: Option<f64>) -> Self {
        Self { monotonic_ns: None, uptime }
    }

    /// Returns the seconds between an earlier moment and this one, if a clock was read at both.
    pub(crate) fn since(&self, earlier: &Self) -> Option<f64> {
        let by_clock = self.monotonic_ns.zip(earlier.monotonic_ns).and_then(|(now, before)| now.checked_sub(before));
        let by_uptime = || self.uptime.zip(earlier.uptime).map(|(now, before)| now - before);
        by_clock.map(|nanoseconds| nanoseconds as f64 / 1e9).or_else(by_uptime).filter(|seconds| *seconds >= 0.0)
    }
}

pub(crate) fn ticks_to_seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// Returns the load averages over 1, 5 and 15 minutes.
pub(crate) fn parse_loadavg(text: &str) -> [Option<f64>; 3] {
    let mut words = text.split_whitespace();
    std::array::from_fn(|_| words.next().and_then(|word| word.parse().ok()))
}

/// Returns the seconds since boot.
pub(crate) fn parse_uptime(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Returns the age of something, in seconds; both arguments are seconds since boot. A start after now is impossible and
/// has no age: in a container that shows its own uptime, processes have the start times of the machine.
pub(crate) fn age(uptime: f64, started: f64) -> Option<f64> {
    // Ticks are coarser than the uptime, so a process that just started may seem to start a moment later.
    const TICK: f64 = 0.01;
    let age = uptime - started;
    (age >= -TICK).then_some(age.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_averages_are_the_first_three_words() {
        assert_eq!(parse_loadavg("0.53 1.02 12.91 3/187 12903\n"), [Some(0.53), Some(1.02), Some(12.91)]);
        assert_eq!(parse_loadavg("0.53 x"), [Some(0.53), None, None]);
        assert_eq!(parse_loadavg(""), [None; 3]);
    }

    #[test]
    fn uptime_is_the_first_word_not_the_idle_time() {
        assert_eq!(parse_uptime("1832.25 2129.86\n"), Some(1832.25));
        assert_eq!(parse_uptime("\n"), None);
    }

    #[test]
    fn what_begins_after_now_has_no_age() {
        assert_eq!(age(300.45, 200.25), Some(300.45 - 200.25));
        assert_eq!(age(300.455, 300.46), Some(0.0), "it began in this very tick");
        assert_eq!(age(300.45, 1_209_890.0), None);
    }

    #[test]
    fn a_new_host_measures_by_uptime_because_its_clock_began_anew() {
        let moment = |monotonic_ns, uptime| Moment { monotonic_ns, uptime };
        let before = moment(Some(90_000_000_000), Some(1000.0));
        assert_eq!(moment(Some(92_500_000_000), Some(1002.0)).since(&before), Some(2.5));
        let saved = serde_json::to_string(&before).unwrap();
        let restored: Moment = serde_json::from_str(&saved).unwrap();
        assert_eq!(moment(Some(1_000_000_000), Some(1030.0)).since(&restored), Some(30.0));
        assert_eq!(moment(Some(1_000_000_000), None).since(&restored), None);
        assert_eq!(moment(None, Some(3.0)).since(&restored), None, "a machine that was started again");
    }
}
