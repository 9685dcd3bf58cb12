//! /proc/loadavg and /proc/uptime, and the kernel's tick.

pub(crate) const LOADAVG: &str = "/proc/loadavg";
pub(crate) const UPTIME: &str = "/proc/uptime";

/// `USER_HZ`: in how many ticks a second the kernel counts CPU and start times towards user space. It is 100 on every
/// architecture that runs this (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn ticks_to_seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// The averages over 1, 5 and 15 minutes.
pub(crate) fn parse_loadavg(text: &str) -> [Option<f64>; 3] {
    let mut words = text.split_whitespace();
    std::array::from_fn(|_| words.next().and_then(|word| word.parse().ok()))
}

/// Seconds since boot.
pub(crate) fn parse_uptime(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
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
}
