use super::Tally;
use crate::{ChannelStats, Failure};
use serde::{Deserialize, Serialize};

/// Open channels by pattern. After 256 patterns, further ones count as `other`; a blank pattern counts as `unknown`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelCounters(Tally);

/// An open channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelEntry {
    /// The pattern of its name, such as `room.*`.
    pub pattern: String,
}

/// An application that can list its open channels.
pub trait ChannelLister {
    /// Returns all open channels, one entry each.
    fn open_channels(&mut self) -> Result<Vec<ChannelEntry>, Failure>;

    /// Returns the statistics of the open channels.
    fn channel_stats(&mut self) -> Result<ChannelStats, Failure> {
        let mut counters = ChannelCounters::default();
        for ChannelEntry { pattern } in self.open_channels()? {
            counters.opened(&pattern, 1);
        }
        Ok(counters.stats())
    }
}

impl ChannelCounters {
    pub fn opened(&mut self, pattern: &str, count: u64) {
        self.0.add(pattern, i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts closed channels. The number of open channels never falls below zero.
    pub fn closed(&mut self, pattern: &str, count: u64) {
        self.0.add(pattern, -i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn stats(&self) -> ChannelStats {
        ChannelStats { total_active: self.0.sum(), by_pattern: self.0.counts() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_that_are_closed_are_no_longer_there() {
        let mut channels = ChannelCounters::default();
        ["room.*", "room.*", "", "dm"].into_iter().for_each(|pattern| channels.opened(pattern, 1));
        ["dm", "dm", "never opened"].into_iter().for_each(|pattern| channels.closed(pattern, 1));
        let by_pattern = vec![("room.*".to_owned(), 2), ("unknown".to_owned(), 1)];
        assert_eq!(channels.stats(), ChannelStats { total_active: 3, by_pattern });
    }

    #[test]
    fn a_list_of_channels_is_counted_the_same() {
        struct Rooms;
        impl ChannelLister for Rooms {
            fn open_channels(&mut self) -> Result<Vec<ChannelEntry>, Failure> {
                Ok(["a", "b", "a"].map(|pattern| ChannelEntry { pattern: pattern.to_owned() }).into())
            }
        }
        let by_pattern = vec![("a".to_owned(), 2), ("b".to_owned(), 1)];
        assert_eq!(Rooms.channel_stats(), Ok(ChannelStats { total_active: 3, by_pattern }));
    }
}
