//! Made-up series for demonstrations and benchmarks. They depend on the time alone: a host that restarts goes on with
//! the same ones.
//!
//! # Layout
//!
//! * `shape`: waves, steps, noise and counters, by time.
//! * `service`: the fields of an instance. `application`: the statistics of an application.

mod application;
mod service;
mod shape;

use dropsonde_guest::{
    CacheStats, ChannelStats, Config, EnvelopeStats, Failure, Field, HistoryStats, Instance, PresenceStats, Reading,
    Readings, Sampler, Source, Tick, TokenStats, export_plugin,
};
use serde::Deserialize;
use service::Service;
use std::collections::HashMap;

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SyntheticConfig {
    /// How many instances there are.
    instances: u32,
    /// The workloads that they are of, in turn.
    workloads: Vec<String>,
    /// Another number makes other series.
    seed: u64,
    /// Every so many calls, one fails. 0: none.
    fails_every: u32,
    /// Whether the plugin also describes an application.
    application: bool,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        let workloads = ["web", "api", "worker", "cache", "search"].map(str::to_owned).to_vec();
        Self { instances: 10, workloads, seed: 1, fails_every: 0, application: true }
    }
}

#[derive(Debug, Default)]
struct Synthetic {
    config: SyntheticConfig,
    services: Vec<Service>,
    /// The position of each instance.
    positions: HashMap<String, usize>,
    calls: u32,
}

impl Synthetic {
    fn statistics<T>(&self, made: impl FnOnce(u64, f64) -> T, tick: &Tick) -> Result<Option<T>, Failure> {
        Ok(self.config.application.then(|| made(self.config.seed, tick.at_ms as f64 / 1000.0)))
    }
}

impl Sampler for Synthetic {
    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.config = config.parse()?;
        let SyntheticConfig { instances, workloads, seed, .. } = &self.config;
        if workloads.is_empty() {
            return Err(Failure::invalid("workloads = [] names none"));
        }
        let named = (0..*instances).zip(workloads.iter().cycle());
        self.services = named.map(|(nth, workload)| Service::new(*seed, nth, workload)).collect();
        self.positions = self.services.iter().map(|service| service.id.clone()).zip(0..).collect();
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        service::fields()
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        let instance = |service: &Service| Instance::new(&service.id).label("workload", &service.workload);
        Ok(self.services.iter().map(instance).collect())
    }

    fn sample(&mut self, _: &str) -> Result<Reading, Failure> {
        Err(Failure::unavailable("the series depend on the time of the tick"))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        self.calls += 1;
        if self.config.fails_every > 0 && self.calls.is_multiple_of(self.config.fails_every) {
            return Err(Failure::unavailable("it fails now and then, as it was told to"));
        }
        let at = tick.at_ms as f64 / 1000.0;
        let mut readings = Readings::default();
        for (row, id) in instances.iter().enumerate() {
            match self.positions.get(id).and_then(|position| self.services.get(*position)) {
                Some(service) => readings.values.extend(service.values(at)),
                None => {
                    readings.failures.push((row as u32, Failure::Gone));
                    readings.values.extend([f64::NAN; service::FIELDS]);
                }
            }
        }
        Ok(readings)
    }
}

impl Source for Synthetic {
    fn channels(&mut self, tick: &Tick) -> Result<Option<ChannelStats>, Failure> {
        self.statistics(application::channels, tick)
    }

    fn envelopes(&mut self, tick: &Tick) -> Result<Option<EnvelopeStats>, Failure> {
        self.statistics(application::envelopes, tick)
    }

    fn presence(&mut self, tick: &Tick) -> Result<Option<PresenceStats>, Failure> {
        self.statistics(application::presence, tick)
    }

    fn history(&mut self, tick: &Tick) -> Result<Option<HistoryStats>, Failure> {
        self.statistics(application::history, tick)
    }

    fn tokens(&mut self, tick: &Tick) -> Result<Option<TokenStats>, Failure> {
        self.statistics(application::tokens, tick)
    }

    fn cache(&mut self, tick: &Tick) -> Result<Option<CacheStats>, Failure> {
        self.statistics(application::cache, tick)
    }
}

export_plugin!(Synthetic: Sampler, Source);

#[cfg(test)]
mod tests {
    use super::*;

    fn synthetic(json: &str) -> Result<Synthetic, Failure> {
        let mut synthetic = Synthetic::default();
        Sampler::init(&mut synthetic, &Config::from_json(json))?;
        Ok(synthetic)
    }

    fn tick(at_ms: u64) -> Tick {
        Tick { at_ms, monotonic_ns: 0, budget_ms: 100, interval_ms: 1000 }
    }

    #[test]
    fn the_same_time_has_the_same_values() {
        let ids: Vec<String> =
            synthetic("{}").unwrap().discover(&tick(0)).unwrap().into_iter().map(|instance| instance.id).collect();
        assert_eq!(ids.len(), 10);
        let read = |json: &str, at_ms| synthetic(json).unwrap().sample_all(&tick(at_ms), &ids).unwrap().values;
        let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        let (now, later) = (1_800_000_000_000, 1_800_000_001_000);
        assert_eq!(bits(read("{}", now)), bits(read("{}", now)));
        assert_ne!(bits(read("{}", now)), bits(read("{}", later)));
        assert_ne!(bits(read("{}", now)), bits(read("{\"seed\": 2}", now)));
    }

    #[test]
    fn every_so_many_calls_one_fails() {
        let mut synthetic = synthetic("{\"fails_every\": 3}").unwrap();
        let outcomes: Vec<bool> = (0..6).map(|_| synthetic.sample_all(&tick(0), &[]).is_ok()).collect();
        assert_eq!(outcomes, [true, true, false, true, true, false]);
    }

    #[test]
    fn instances_are_of_the_workloads_in_turn() {
        let mut synthetic = synthetic("{\"instances\": 3, \"workloads\": [\"a\", \"b\"]}").unwrap();
        let found = synthetic.discover(&tick(0)).unwrap();
        let ids: Vec<_> = found.iter().map(|instance| (instance.id.as_str(), instance.labels[0].1.as_str())).collect();
        assert_eq!(ids, [("a-0", "a"), ("b-1", "b"), ("a-2", "a")]);
    }

    #[test]
    fn an_empty_list_of_workloads_is_refused() {
        assert!(synthetic("{\"workloads\": []}").is_err());
    }
}
