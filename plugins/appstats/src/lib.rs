//! An application as a whole, from the events it tells: `POST /v1/sources/appstats/events`.
//!
//! | event | attributes | what it means |
//! |---|---|---|
//! | `channel.opened`, `channel.closed` | `pattern` | a channel is open, or is no longer |
//! | `envelope.published` | `aspect` | a message was sent |
//! | `presence.joined`, `presence.left` | `kind`: `user` (when it is not said) or `agent` | someone is there, or is no longer |
//! | `history.buffered` | `capacity` | so many messages are kept (`value`), of as many as there is room for |
//! | `token.issued`, `token.revoked`, `token.expired` | | a token lets in, or does no longer |
//! | `cache.hit`, `cache.miss`, `cache.evicted` | | the cache had it, had it not, let go of it |
//! | `cache.size` | `entries` | the cache takes so many bytes (`value`) |
//!
//! What is counted is counted `value` times, once when there is none. A section the application has told nothing of is none. Events of
//! other names are counted by name in `appstats_unknown_events_total`, which the plugin's page shows, and logged once each. What
//! it counted is saved at every poll: a restart loses what came after the last one.

mod sections;
mod unknown;

use dropsonde_guest::{Config, Event, Failure, Observer, Source, Stats, Tick, export_plugin, log, state};
use sections::Sections;
use unknown::UnknownEvents;

#[derive(Debug, Default)]
struct Appstats {
    sections: Sections,
    unknown: UnknownEvents,
    /// Something was told since it was saved.
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
                // Written by another version: it begins anew.
                Err(error) => log::warn(format!("what was saved cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn collect(&mut self, tick: &Tick) -> Result<Stats, Failure> {
        if self.changed {
            let saved = serde_json::to_vec(&self.sections)?;
            match state::save(&saved) {
                Ok(()) => self.changed = false,
                Err(why) => log::warn(format!("a restart would begin with what was saved before: {why}")),
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
