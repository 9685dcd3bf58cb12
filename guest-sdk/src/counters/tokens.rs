use super::Window;
use crate::TokenStats;
use serde::{Deserialize, Serialize};

/// Access tokens: issued and revoked within the last hour, and valid now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounters {
    issued: Window,
    revoked: Window,
    active: u64,
}

impl Default for TokenCounters {
    fn default() -> Self {
        Self { issued: last_hour(), revoked: last_hour(), active: 0 }
    }
}

/// Returns a window of one hour, in steps of ten seconds.
pub(super) fn last_hour() -> Window {
    Window::new(10_000, 360)
}

impl TokenCounters {
    pub fn issued(&mut self, count: u64, at_ms: u64, now_ms: u64) {
        self.issued.add(count, at_ms, now_ms);
        self.active = self.active.saturating_add(count);
    }

    pub fn revoked(&mut self, count: u64, at_ms: u64, now_ms: u64) {
        self.revoked.add(count, at_ms, now_ms);
        self.expired(count);
    }

    /// Counts tokens that expired without being revoked. The number of valid tokens never falls below zero.
    pub fn expired(&mut self, count: u64) {
        self.active = self.active.saturating_sub(count);
    }

    pub fn stats(&self, now_ms: u64) -> TokenStats {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        TokenStats {
            issued_last_hour: signed(self.issued.sum(now_ms)),
            revoked_last_hour: signed(self.revoked.sum(now_ms)),
            active_count: signed(self.active),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000;

    #[test]
    fn the_hour_slides_and_late_events_do_not_wipe_newer_ones() {
        let mut tokens = TokenCounters::default();
        tokens.issued(3, START, START);
        tokens.issued(2, START - 1_800_000, START);
        assert_eq!(tokens.stats(START).issued_last_hour, 5);
        assert_eq!(tokens.stats(START + 1_800_000).issued_last_hour, 3);
        assert_eq!(tokens.stats(START + 3_600_000).issued_last_hour, 0);
        assert_eq!(tokens.stats(START + 3_600_000).active_count, 5);
    }

    #[test]
    fn active_is_never_negative() {
        let mut tokens = TokenCounters::default();
        tokens.issued(1, START, START);
        tokens.revoked(3, START, START);
        tokens.expired(2);
        assert_eq!(tokens.stats(START), TokenStats { issued_last_hour: 1, revoked_last_hour: 3, active_count: 0 });
    }
}
