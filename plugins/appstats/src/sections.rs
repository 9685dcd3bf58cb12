//! Turns events into the sections of the snapshot.

use dropsonde_guest::counters::{
    CacheCounters, ChannelCounters, EnvelopeCounters, HistoryGauges, PresenceGauges, TokenCounters,
};
use dropsonde_guest::{Event, Stats};
use serde::{Deserialize, Serialize};

/// The sections for which the application has sent events.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sections {
    channels: Option<ChannelCounters>,
    envelopes: Option<EnvelopeCounters>,
    presence: Option<PresenceGauges>,
    history: Option<HistoryGauges>,
    tokens: Option<TokenCounters>,
    cache: Option<CacheCounters>,
}

/// The known event names.
pub(crate) const NAMES: [&str; 13] = [
    "channel.opened",
    "channel.closed",
    "envelope.published",
    "presence.joined",
    "presence.left",
    "history.buffered",
    "token.issued",
    "token.revoked",
    "token.expired",
    "cache.hit",
    "cache.miss",
    "cache.evicted",
    "cache.size",
];

impl Sections {
    /// Counts an event. Returns whether its name is known.
    pub(crate) fn take(&mut self, event: &Event, now_ms: u64) -> bool {
        let (at_ms, times) = (event.at_ms, times(event.value));
        let text = |name: &str| event.attribute(name).unwrap_or_default();
        let is_agent = text("kind") == "agent";
        let Self { channels, envelopes, presence, history, tokens, cache } = self;
        match event.name.as_str() {
            "channel.opened" => channels.get_or_insert_default().opened(text("pattern"), times),
            "channel.closed" => channels.get_or_insert_default().closed(text("pattern"), times),
            "envelope.published" => envelopes.get_or_insert_default().sent(text("aspect"), times, at_ms, now_ms),
            "presence.joined" => presence.get_or_insert_default().joined(is_agent, times),
            "presence.left" => presence.get_or_insert_default().left(is_agent, times),
            "history.buffered" => {
                let capacity = text("capacity").parse().unwrap_or(0);
                history.get_or_insert_default().set(amount(event.value), capacity);
            }
            "token.issued" => tokens.get_or_insert_default().issued(times, at_ms, now_ms),
            "token.revoked" => tokens.get_or_insert_default().revoked(times, at_ms, now_ms),
            "token.expired" => tokens.get_or_insert_default().expired(times),
            "cache.hit" => cache.get_or_insert_default().hit(times),
            "cache.miss" => cache.get_or_insert_default().missed(times),
            "cache.evicted" => cache.get_or_insert_default().evicted(times, at_ms, now_ms),
            "cache.size" => {
                let entries = text("entries").parse().unwrap_or(0);
                cache.get_or_insert_default().set_size(amount(event.value), entries);
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn stats(&self, now_ms: u64) -> Stats {
        let channels = self.channels.as_ref().map(ChannelCounters::stats);
        let open = channels.as_ref().map_or(0, |channels| channels.total_active);
        Stats {
            envelopes: self.envelopes.as_ref().map(|counters| counters.stats(now_ms)),
            presence: self.presence.map(|gauges| gauges.stats(open)),
            history: self.history.map(|gauges| gauges.stats()),
            tokens: self.tokens.as_ref().map(|counters| counters.stats(now_ms)),
            cache: self.cache.as_ref().map(|counters| counters.stats(now_ms)),
            channels,
        }
    }
}

/// Returns how often an event counts. An invalid number counts zero times.
fn times(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// Returns an amount. An invalid number is zero.
fn amount(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    /// An event: name, value, attributes.
    type Told<'a> = (&'a str, f64, &'a [(&'a str, &'a str)]);

    fn told(events: &[Told<'_>]) -> Stats {
        let mut sections = Sections::default();
        for (name, value, attributes) in events {
            let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let event =
                Event { at_ms: NOW, name: (*name).to_owned(), subject: String::new(), value: *value, attributes };
            sections.take(&event, NOW);
        }
        let saved = serde_json::to_vec(&sections).unwrap();
        let again: Sections = serde_json::from_slice(&saved).unwrap();
        assert_eq!(again.stats(NOW), sections.stats(NOW), "a restart changes nothing");
        sections.stats(NOW)
    }

    #[test]
    fn the_known_names_are_those_that_count() {
        let take = |name: &str| {
            let event =
                Event { at_ms: NOW, name: name.to_owned(), subject: String::new(), value: 1.0, attributes: Vec::new() };
            Sections::default().take(&event, NOW)
        };
        for name in NAMES {
            assert!(take(name), "{name}");
        }
        assert!(!take("chanel.opened") && !take(""));
    }

    #[test]
    fn of_what_it_was_not_told_it_knows_nothing() {
        assert_eq!(told(&[("weather.changed", 3.0, &[])]), Stats::default());
    }

    #[test]
    fn every_event_of_the_table_does_what_the_table_says() {
        let stats = told(&[
            ("channel.opened", 1.0, &[("pattern", "room.*")]),
            ("channel.opened", 3.0, &[("pattern", "dm")]),
            ("channel.closed", 1.0, &[("pattern", "dm")]),
            ("envelope.published", 120.0, &[("aspect", "chat")]),
            ("presence.joined", 5.0, &[]),
            ("presence.joined", 1.0, &[("kind", "agent")]),
            ("presence.left", 1.0, &[("kind", "user")]),
            ("history.buffered", 25.0, &[("capacity", "100")]),
            ("token.issued", 9.0, &[]),
            ("token.revoked", 2.0, &[]),
            ("token.expired", 3.0, &[]),
            ("cache.hit", 3.0, &[]),
            ("cache.miss", 1.0, &[]),
            ("cache.evicted", 7.0, &[]),
            ("cache.size", 4096.0, &[("entries", "12")]),
        ]);
        let (channels, envelopes) = (stats.channels.unwrap(), stats.envelopes.unwrap());
        assert_eq!(channels.total_active, 3);
        assert_eq!(channels.by_pattern, [("dm".to_owned(), 2), ("room.*".to_owned(), 1)]);
        assert_eq!((envelopes.rate_per_second, &*envelopes.by_aspect[0].0), (2.0, "chat"));
        let presence = stats.presence.unwrap();
        assert_eq!((presence.total_users, presence.total_agents), (4, 1));
        assert!((presence.average_per_channel - 5.0 / 3.0).abs() < 1e-12);
        assert_eq!(stats.history.unwrap().buffer_utilization_pct, 25.0);
        let tokens = stats.tokens.unwrap();
        assert_eq!((tokens.issued_last_hour, tokens.revoked_last_hour, tokens.active_count), (9, 2, 4));
        let cache = stats.cache.unwrap();
        assert_eq!((cache.hit_rate_pct, cache.size_bytes, cache.size_entries), (75.0, 4096, 12));
        assert_eq!(cache.evictions_last_hour, 7);
    }

    /// A list of all events: time, name, count.
    struct Naive(Vec<(u64, &'static str, u64)>);

    impl Naive {
        /// Returns the number of events of a name in the `steps` steps of `step_ms` that end with the current one.
        fn within(&self, what: &str, step_ms: u64, steps: u64, now_ms: u64) -> u64 {
            let first = (now_ms / step_ms + 1).saturating_sub(steps);
            let of_it = self.0.iter().filter(|(at_ms, name, _)| *name == what && at_ms / step_ms >= first);
            of_it.map(|(_, _, count)| count).sum()
        }

        fn all(&self, what: &str) -> u64 {
            self.0.iter().filter(|(_, name, _)| *name == what).map(|(_, _, count)| count).sum()
        }
    }

    #[test]
    fn two_hours_of_an_application_are_counted_as_a_list_of_all_events_would() {
        const NAMES: [&str; 6] =
            ["envelope.published", "token.issued", "token.revoked", "cache.hit", "cache.miss", "cache.evicted"];
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = |most: u64| {
            // xorshift, with the same numbers in every run.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % most
        };
        let (mut sections, mut naive) = (Sections::default(), Naive(Vec::new()));
        for second in 0..7200 {
            let now = NOW + second * 1000 + next(1000);
            for _ in 0..next(6) {
                let name = NAMES[next(6) as usize];
                // Some events come up to two minutes late: too late for the minute, in time for the hour.
                let at_ms = if next(4) == 0 { now - next(120_000) } else { now };
                let count = 1 + next(5);
                let attributes = vec![("aspect".to_owned(), "chat".to_owned())];
                let event =
                    Event { at_ms, name: name.to_owned(), subject: String::new(), value: count as f64, attributes };
                sections.take(&event, now);
                naive.0.push((at_ms, name, count));
            }
            if second % 60 != 59 {
                continue;
            }
            if second % 600 == 599 {
                let saved = serde_json::to_vec(&sections).unwrap();
                assert!(saved.len() < 64 << 10, "it can be saved: {} bytes", saved.len());
                sections = serde_json::from_slice(&saved).unwrap();
            }
            let stats = sections.stats(now);
            let (envelopes, tokens, cache) = (stats.envelopes.unwrap(), stats.tokens.unwrap(), stats.cache.unwrap());
            let last_hour = |what: &str| naive.within(what, 10_000, 360, now) as i64;
            assert_eq!(envelopes.rate_per_second, naive.within("envelope.published", 1000, 60, now) as f64 / 60.0);
            assert_eq!(envelopes.by_aspect, [("chat".to_owned(), naive.all("envelope.published") as i64)]);
            assert_eq!(
                (tokens.issued_last_hour, tokens.revoked_last_hour),
                (last_hour("token.issued"), last_hour("token.revoked"))
            );
            let (hits, misses) = (naive.all("cache.hit") as f64, naive.all("cache.miss") as f64);
            assert_eq!(cache.hit_rate_pct, hits / (hits + misses) * 100.0);
            assert_eq!(cache.evictions_last_hour, last_hour("cache.evicted"));
        }
    }

    #[test]
    fn numbers_that_make_no_sense_do_no_harm() {
        for value in [f64::NAN, f64::INFINITY, -1e300, 1e300] {
            for name in ["channel.opened", "channel.closed", "cache.size", "history.buffered", "token.issued"] {
                told(&[(name, value, &[("capacity", "-3"), ("entries", "many")])]);
            }
        }
    }
}
