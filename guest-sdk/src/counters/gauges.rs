use crate::{HistoryStats, PresenceStats};
use serde::{Deserialize, Serialize};

/// The number of users and agents that are present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceGauges {
    users: u64,
    agents: u64,
}

/// The number of buffered messages, and the capacity of the buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryGauges {
    buffered: u64,
    capacity: u64,
}

impl PresenceGauges {
    pub fn joined(&mut self, is_agent: bool, number: u64) {
        let count = if is_agent { &mut self.agents } else { &mut self.users };
        *count = count.saturating_add(number);
    }

    /// Removes users or agents. Their number never falls below zero.
    pub fn left(&mut self, is_agent: bool, number: u64) {
        let count = if is_agent { &mut self.agents } else { &mut self.users };
        *count = count.saturating_sub(number);
    }

    /// Returns the statistics, with the average over the number of open channels. Without an open channel the average
    /// is 0.
    pub fn stats(&self, channels: i64) -> PresenceStats {
        let all = self.users as f64 + self.agents as f64;
        PresenceStats {
            total_users: i64::try_from(self.users).unwrap_or(i64::MAX),
            total_agents: i64::try_from(self.agents).unwrap_or(i64::MAX),
            average_per_channel: if channels > 0 { all / channels as f64 } else { 0.0 },
        }
    }
}

impl HistoryGauges {
    /// Sets the number of buffered messages and the capacity.
    pub fn set(&mut self, buffered: u64, capacity: u64) {
        *self = Self { buffered, capacity };
    }

    pub fn stats(&self) -> HistoryStats {
        let share = if self.capacity > 0 { self.buffered as f64 / self.capacity as f64 } else { 0.0 };
        HistoryStats {
            total_envelopes_buffered: i64::try_from(self.buffered).unwrap_or(i64::MAX),
            buffer_utilization_pct: (share * 100.0).min(100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_over_open_channels_and_nobody_leaves_who_did_not_join() {
        let mut presence = PresenceGauges::default();
        [false, false, true].into_iter().for_each(|is_agent| presence.joined(is_agent, 1));
        presence.left(true, 1);
        presence.left(true, 1);
        let stats = presence.stats(4);
        assert_eq!((stats.total_users, stats.total_agents, stats.average_per_channel), (2, 0, 0.5));
        assert_eq!(presence.stats(0).average_per_channel, 0.0);
    }

    #[test]
    fn a_buffer_is_never_more_than_full() {
        let mut history = HistoryGauges::default();
        assert_eq!(history.stats().buffer_utilization_pct, 0.0);
        history.set(3, 12);
        assert_eq!(history.stats(), HistoryStats { total_envelopes_buffered: 3, buffer_utilization_pct: 25.0 });
        history.set(20, 10);
        assert_eq!(history.stats().buffer_utilization_pct, 100.0);
    }
}
