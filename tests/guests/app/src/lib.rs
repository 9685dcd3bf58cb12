//! The tests' application: a source whose sections are what its configuration says, and an observer that counts events
//! as open channels, by their names and in their order.
//!
//! An event `die` panics; `fail` has polls fail from then on, `work` no longer. Its configuration can have every poll
//! hang. It is a sampler too, of how many events came out of order.

use dropsonde_guest::{
    CacheStats, ChannelStats, Config, EnvelopeStats, Event, Failure, Field, HistoryStats, Observer, PresenceStats,
    Reading, Sampler, Source, Stats, Tick, TokenStats, export_plugin,
};
use std::hint::black_box;

#[derive(Default)]
struct App {
    settings: Settings,
    events: Vec<(String, i64)>,
    /// How often an event's value was not one more than the one before of the same subject.
    disorder: f64,
    last: std::collections::HashMap<String, f64>,
    fails: bool,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    channels: Option<i64>,
    rate: Option<f64>,
    average: Option<f64>,
    utilization: Option<f64>,
    issued: Option<i64>,
    hit_rate: Option<f64>,
    entries: i64,
    hangs: bool,
}

impl Source for App {
    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.settings = config.parse()?;
        Ok(())
    }

    fn collect(&mut self, _tick: &Tick) -> Result<Stats, Failure> {
        if self.settings.hangs {
            loop {
                black_box(&self.settings);
            }
        }
        if self.fails {
            return Err(Failure::unavailable("told to fail"));
        }
        let Settings { channels, rate, average, utilization, issued, hit_rate, entries, .. } = self.settings;
        let told = self.events.iter().map(|(_, count)| count).sum();
        let channels = channels.or((!self.events.is_empty()).then_some(told));
        Ok(Stats {
            channels: channels.map(|total_active| ChannelStats { total_active, by_pattern: self.events.clone() }),
            envelopes: rate.map(|rate_per_second| EnvelopeStats { rate_per_second, by_aspect: Vec::new() }),
            presence: average.map(|average_per_channel| PresenceStats {
                total_users: 2,
                total_agents: 1,
                average_per_channel,
            }),
            history: utilization
                .map(|buffer_utilization_pct| HistoryStats { total_envelopes_buffered: 10, buffer_utilization_pct }),
            tokens: issued.map(|issued_last_hour| TokenStats {
                issued_last_hour,
                revoked_last_hour: 1,
                active_count: 5,
            }),
            cache: hit_rate.map(|hit_rate_pct| CacheStats {
                hit_rate_pct,
                size_bytes: 1024,
                size_entries: entries,
                evictions_last_hour: 3,
            }),
        })
    }
}

impl Observer for App {
    #[allow(clippy::panic, reason = "one of the events")]
    fn observe(&mut self, _tick: &Tick, events: &[Event]) -> Result<(), Failure> {
        for event in events {
            match event.name.as_str() {
                "die" => panic!("told to"),
                "fail" => self.fails = true,
                "work" => self.fails = false,
                name => match self.events.iter_mut().find(|(known, _)| known == name) {
                    Some((_, count)) => *count += 1,
                    None => self.events.push((name.to_owned(), 1)),
                },
            }
            let before = self.last.insert(event.subject.clone(), event.value).unwrap_or(event.value - 1.0);
            self.disorder += f64::from(event.value != before + 1.0);
        }
        Ok(())
    }
}

impl Sampler for App {
    fn fields(&self) -> Vec<Field> {
        vec![Field::gauge("disorder", "Events that came before those they follow")]
    }

    fn sample(&mut self, _instance: &str) -> Result<Reading, Failure> {
        Ok(Reading::from([self.disorder]))
    }
}

export_plugin!(App: Source, Observer, Sampler);
