//! Building blocks for counting: sliding windows that keep no events, bounded tallies, and sums of counters.
//!
//! Time is given, in ms since 1970: `at_ms` is when something happened, `now_ms` the host's clock as [`Tick`](crate::Tick)
//! has it. What happened longer ago than a window reaches is no longer in it; what is said to happen in the future counts
//! as happening now. All of them can be saved with [`state`](crate::state) and go on after a restart, and none panics or
//! grows on any input.
//!
//! # Layout
//!
//! * [`Window`]: how many within the last while. [`Tally`]: how many by name.
//! * [`EnvelopeCounters`], [`TokenCounters`], [`CacheCounters`], [`ChannelCounters`], [`PresenceGauges`],
//!   [`HistoryGauges`]: a section of [`Stats`](crate::Stats) each.
//! * [`ChannelLister`]: the same for an application that can list its channels.
//! * [`SumOfCounters`]: for samplers, the running total over parts that come and go.

mod cache;
mod channels;
mod envelopes;
mod gauges;
mod sum;
mod tally;
mod tokens;
mod window;

pub use cache::CacheCounters;
pub use channels::{ChannelCounters, ChannelEntry, ChannelLister};
pub use envelopes::EnvelopeCounters;
pub use gauges::{HistoryGauges, PresenceGauges};
pub use sum::{CounterValue, SumOfCounters};
pub use tally::Tally;
pub use tokens::TokenCounters;
pub use window::Window;
