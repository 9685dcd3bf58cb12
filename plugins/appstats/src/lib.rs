//! Describes an application as a whole, from the events that it sends: `POST /v1/sources/appstats/events`.
//!
//! | event | attributes | meaning |
//! |---|---|---|
//! | `channel.opened`, `channel.closed` | `pattern` | a channel was opened or closed |
//! | `envelope.published` | `aspect` | a message was sent |
//! | `presence.joined`, `presence.left` | `kind`: `user` (the default) or `agent` | a user or agent joined or left |
//! | `history.buffered` | `capacity` | the buffer contains `value` messages, and has room for `capacity` |
//! | `token.issued`, `token.revoked`, `token.expired` | | a token was issued, was revoked, or has expired |
//! | `cache.hit`, `cache.miss`, `cache.evicted` | | the cache had an entry, did not have it, or evicted it |
//! | `cache.size` | `entries` | the cache takes `value` bytes |
//!
//! An event counts `value` times; without a value, once. A section without any event is none. Events with unknown names
//! are counted by name in `appstats_unknown_events_total`, which the plugin's page shows, and each name is logged once.
//! The counters are saved at every poll: a restart loses the events after the last one.

mod sections;
mod unknown;

use dropsonde_guest::{Config, Event, Failure, Observer, Source, Stats, Tick, export_plugin, log, state};
use sections::Sections;
use unknown::UnknownEvents;

#[derive(Debug, Default)]
struct Appstats {
    sections: Sections,
    unknown: UnknownEvents,
    /// Whether events came after the last save.
    changed: bool,
}

impl Source for Appstats {
    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        config.parse::<Nothing>()?;
        if let Some(saved) = state::load() {
            match serde_json::from_slice(&saved) {
                Ok(sections) => self.sections = sections,
                // Another version saved it. The counters begin at zero.
                Err(error) => log::warn(format!("cannot read the saved counters, which begin at zero: {error}")),
            }
        }
        Ok(())
    }

    fn collect(&mut self, tick: &Tick) -> Result<Stats, Failure> {
        if self.changed {
            let saved = serde_json::to_vec(&self.sections)?;
            match state::save(&saved) {
                Ok(()) => self.changed = false,
                Err(why) => log::warn(format!("cannot save the counters; a restart would lose recent events: {why}")),
            }
        }
        Ok(self.sections.stats(tick.at_ms))
    }
}

impl Observer for Appstats {
    fn observe(&mut self, tick: &Tick, events: &[Event]) -> Result<(), Failure> {
        for event in events {
            if !self.sections.take(event, tick.at_ms) {
                self.unknown.count(&event.name);
            }
        }
        self.changed |= !events.is_empty();
        Ok(())
    }
}

export_plugin!(Appstats: Source, Observer);
