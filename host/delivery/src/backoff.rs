//! The pauses between attempts.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The longest time that a server may ask to wait.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// The pauses between attempts: each is twice as long as the one before, up to a minute.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the pause after one more failure; longer, if the server asks for that.
    pub(crate) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let pause = SHORTEST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_a_server_can_ask_for_more() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.pause(None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.pause(Some(Duration::from_secs(90))).as_secs(), 90);
        assert_eq!(backoff.pause(Some(Duration::from_secs(90_000))).as_secs(), 600);
        backoff.reset();
        assert_eq!(backoff.pause(None).as_secs(), 1);
    }
}
