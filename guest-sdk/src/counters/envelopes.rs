use super::{Tally, Window};
use crate::EnvelopeStats;
use serde::{Deserialize, Serialize};

/// Sent messages: the rate per second over the last minute, and the number of each aspect since the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvelopeCounters {
    last_minute: Window,
    by_aspect: Tally,
}

/// The length of the window in seconds; each step is one second.
const SECONDS: u64 = 60;

impl Default for EnvelopeCounters {
    fn default() -> Self {
        Self { last_minute: Window::new(1000, SECONDS), by_aspect: Tally::default() }
    }
}

impl EnvelopeCounters {
    /// Counts `count` messages that were sent at `at_ms`.
    pub fn sent(&mut self, aspect: &str, count: u64, at_ms: u64, now_ms: u64) {
        self.last_minute.add(count, at_ms, now_ms);
        self.by_aspect.add(aspect, i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn stats(&self, now_ms: u64) -> EnvelopeStats {
        let rate_per_second = self.last_minute.sum(now_ms) as f64 / SECONDS as f64;
        EnvelopeStats { rate_per_second, by_aspect: self.by_aspect.counts() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_sixty_seconds_and_not_sixty_times_it() {
        let mut envelopes = EnvelopeCounters::default();
        let start = 1_700_000_000_000;
        for second in 0..3600 {
            envelopes.sent("chat", 5, start + second * 1000, start + second * 1000);
        }
        let now = start + 3_599_000;
        assert_eq!(envelopes.stats(now).rate_per_second, 5.0);
        assert_eq!(envelopes.stats(now + 30_000).rate_per_second, 2.5);
        assert_eq!(envelopes.stats(now + 60_000).rate_per_second, 0.0);
        assert_eq!(envelopes.stats(now).by_aspect, [("chat".to_owned(), 18_000)], "since the start");
    }
}
