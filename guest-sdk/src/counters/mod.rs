//! Building blocks for counting: sliding windows that store no events, bounded tallies, and sums of counters.
//!
//! The caller passes the time, in milliseconds since 1970: `at_ms` is the time of the event, `now_ms` is the host's
//! clock from [`Tick`](crate::Tick). An event before the window does not count; an event in the future counts as
//! happening now. All of these types can be saved with [`state`](crate::state) and continue after a restart. None
//! panics or grows without limit on any input.
//!
//! # Layout
//!
//! * [`Window`]: counts events within a recent time. [`Tally`]: counts by name.
//! * [`EnvelopeCounters`], [`TokenCounters`], [`CacheCounters`], [`ChannelCounters`], [`PresenceGauges`],
//!   [`HistoryGauges`]: one section of [`Stats`](crate::Stats) each.
//! * [`ChannelLister`]: the channel section, for an application that can list its channels.
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
