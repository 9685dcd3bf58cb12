//! The sampler `scrape`: an instance is a target whose metrics are fetched over HTTP, in Prometheus' text format or
//! OpenMetrics.
//!
//! # Layout
//!
//! * `config`: the configuration. `presets`: mappings that come with the plugin.
//! * `discovery`, `relabel`: targets that files and servers list.
//! * `keep`: samples that are kept as series.

mod config;
mod discovery;
mod keep;
mod presets;
mod relabel;
mod yaml;

use config::{ScrapeConfig, Settings, TargetSettings};
use dropsonde_guest::http::{Progress, Request};
use dropsonde_guest::log::Troubles;
use dropsonde_guest::{Aggregation, Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick};
use dropsonde_openmetrics::ExpositionFormat;
use keep::{KeptScrape, KeptSeries};
use mapping::{Mapping, Scrape, ScrapedSeries, all_fields};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use targets::{LastRequest, Round, Visit};

/// The formats that are read, the better one first.
const ACCEPT: &str =
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.8,text/plain;q=0.5,*/*;q=0.1";

#[derive(Debug, Default)]
struct Scraper {
    settings: Settings,
    fields: Vec<Field>,
    /// The position of each field.
    positions: HashMap<String, usize>,
    /// The targets that each discovery listed last.
    listed: Vec<Vec<TargetSettings>>,
    /// Whether a list cannot be read: then a target that is not known may be in it.
    is_list_missing: bool,
    targets: BTreeMap<String, Target>,
    troubles: Troubles,
}

#[derive(Debug)]
struct Target {
    config: TargetSettings,
    series: ScrapedSeries,
    kept: KeptSeries,
    last: LastRequest,
}

/// What came of the scrape of a target.
struct Visited {
    mapping: Rc<Mapping>,
    /// None before the response's head.
    scrape: Option<Scrape>,
    /// None if no samples are kept.
    kept: Option<KeptScrape>,
}

// === impl Scraper ===

impl Sampler for Scraper {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        config.parse::<ScrapeConfig>()?.needs()
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.settings = config.parse::<ScrapeConfig>()?.settings()?;
        self.fields = vec![
            Field::gauge("up", "Whether the last scrape of the target succeeded: 1 or 0")
                .aggregation(Aggregation::Min)
                .precision(1.0),
            Field::gauge("scrape_duration_ms", "Time that the scrape of the target took").unit("ms").precision(0.01),
        ];
        self.fields.extend(all_fields(&self.settings.mappings)?);
        self.positions = self.fields.iter().map(|field| field.name.clone()).zip(0..).collect();
        self.listed = self.settings.discoveries.iter().map(|_| Vec::new()).collect();
        self.find_targets();
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        self.fields.clone()
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        self.find_targets();
        let instance = |target: &Target| Instance {
            id: target.config.id.clone(),
            labels: target.config.labels.clone().into_iter().collect(),
        };
        Ok(self.targets.values().map(instance).collect())
    }

    fn sample(&mut self, _: &str) -> Result<Reading, Failure> {
        Err(Failure::unavailable("targets are scraped together"))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let mut readings = Readings::empty(instances.len(), self.fields.len());
        let mut round = Round::default();
        for (row, id) in instances.iter().enumerate() {
            let Some(Target { config, last, kept, .. }) = self.targets.get_mut(id) else {
                let unknown = match self.is_list_missing {
                    true => Failure::unavailable("the list of targets cannot be read"),
                    false => Failure::Gone,
                };
                readings.failures.push((row as u32, unknown));
                continue;
            };
            if last.is_due(tick, config.how.request.interval) {
                let request = Request::get(&config.url).header("accept", ACCEPT);
                let mapping = config.how.mapping.clone();
                let visited = Visited { mapping, scrape: None, kept: kept.begin(&config.how) };
                round.ask(row, request, &config.how.request, visited);
            } else {
                kept.repeat(id);
            }
        }
        for visit in round.go(tick, Visited::take) {
            if let Some(id) = instances.get(visit.row) {
                self.finish(id, visit, &mut readings);
            }
        }
        Ok(readings)
    }
}

impl Scraper {
    /// Updates the targets. What is known of the series of a target stays, unless the target has changed. A list that
    /// cannot be read leaves the targets that it had.
    fn find_targets(&mut self) {
        self.is_list_missing = false;
        for (discovery, listed) in self.settings.discoveries.iter().zip(&mut self.listed) {
            let found = discovery.targets();
            self.is_list_missing |= found.is_err();
            self.troubles.report(&discovery.list.to_string(), found.as_ref().err().map(|why| why.reason().to_owned()));
            if let Ok(found) = found {
                *listed = found;
            }
        }
        let mut before = std::mem::take(&mut self.targets);
        for config in self.settings.targets.iter().chain(self.listed.iter().flatten()) {
            if self.targets.contains_key(&config.id) {
                continue;
            }
            let same = before.remove(&config.id).filter(|target| target.config == *config);
            let target = same.unwrap_or_else(|| Target::new(config.clone()));
            self.targets.insert(config.id.clone(), target);
        }
        for id in before.into_keys().filter(|id| !self.targets.contains_key(id)) {
            self.troubles.forget(&of_target(&id));
            self.troubles.forget(&format!("samples of target {id}"));
        }
    }

    /// Writes the row of a target.
    fn finish(&mut self, id: &str, mut visit: Visit<Visited>, readings: &mut Readings) {
        let Some(target) = self.targets.get_mut(id) else { return };
        let mut kept = visit.found.kept.take();
        let read = match (visit.failure.take(), visit.found.scrape.take()) {
            (None, Some(scrape)) => {
                let read = target.series.end(scrape, &mut |line| kept.iter_mut().for_each(|kept| kept.take(line)));
                read.and_then(|read| kept.as_ref().map_or(Ok(()), KeptScrape::check).map(|()| read))
            }
            (Some(why), _) => Err(why),
            (None, None) => Err("no answer in time".to_owned()),
        };
        let not_kept = kept.and_then(|kept| target.kept.end(id, kept, read.is_ok(), visit.total_ms));
        self.troubles.report(&format!("samples of target {id}"), not_kept);
        let Some(row) = visit.row(readings, self.fields.len()) else { return };
        if let [up, duration, ..] = row {
            *up = f64::from(u8::from(read.is_ok()));
            *duration = visit.total_ms;
        }
        for (mapped, value) in visit.found.mapping.fields.iter().zip(read.iter().flatten()) {
            let position = self.positions.get(&mapped.field.name);
            if let Some(place) = position.and_then(|position| row.get_mut(*position)) {
                *place = *value;
            }
        }
        self.troubles.report(&of_target(id), read.err());
    }
}

/// Returns how the log names a target.
fn of_target(id: &str) -> String {
    format!("target {id}")
}

// === impl Target ===

impl Target {
    fn new(config: TargetSettings) -> Self {
        let series = ScrapedSeries::new(config.how.mapping.clone());
        Self { config, series, kept: KeptSeries::default(), last: LastRequest::default() }
    }
}

// === impl Visited ===

impl Visited {
    fn take(&mut self, progress: &Progress<'_>) -> Result<(), String> {
        match progress {
            Progress::Head(head) if head.status == 200 => {
                let format = match head.header("content-type") {
                    Some(kind) if kind.starts_with("application/openmetrics-text") => ExpositionFormat::OpenMetrics,
                    _ => ExpositionFormat::Text,
                };
                self.scrape = Some(Scrape::new(self.mapping.clone(), format));
                Ok(())
            }
            Progress::Head(head) => Err(format!("the server answered with status {}", head.status)),
            Progress::Body(piece) => {
                let Self { scrape: Some(scrape), kept, .. } = self else { return Ok(()) };
                scrape.push(piece, &mut |line| kept.iter_mut().for_each(|kept| kept.take(line)))?;
                kept.as_ref().map_or(Ok(()), KeptScrape::check)
            }
            Progress::Sent | Progress::End(_) => Ok(()),
        }
    }
}

dropsonde_guest::export_sampler!(Scraper);
