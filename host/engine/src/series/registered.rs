//! Puts the metrics that the host and the plugins registered into history, as `/metrics` shows them.

use super::exposition_group::ExpositionGroup;
use crate::Engine;
use crate::clock::Schedule;
use crate::exposition;
use crate::tracked::PluginName;
use dropsonde_model::names;
use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_sandbox::PluginMetrics;
use dropsonde_store::{GroupKey, InstanceId, InvalidInstanceId};
use glob::Pattern;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The name under which the metrics of the host and of all plugins are in history. No instance can have it.
const INSTANCE: &str = "dropsonde:metrics";

/// The groups of series of the host and of each plugin.
struct RegisteredMetrics {
    instance: InstanceId,
    interval_ms: i64,
    host: ExpositionGroup,
    of_plugins: BTreeMap<PluginName, ExpositionGroup>,
}

/// Records registered metrics at every interval, until the engine stops.
pub(crate) async fn record_in_history(engine: Arc<Engine>, mut stopping: watch::Receiver<bool>) {
    let mut schedule = (Duration::ZERO, Schedule::new("metrics", Duration::from_secs(1)));
    let mut recorded: Option<RegisteredMetrics> = None;
    let shared = engine.clone();
    let writer = shared.horizon.writer();
    loop {
        let interval = engine.options.load().history_of_metrics();
        // While it is off, look now and then whether it is on again.
        let wait = interval.unwrap_or(Duration::from_secs(1));
        if schedule.0 != wait {
            schedule = (wait, Schedule::new("metrics", wait));
            // The first tick of a schedule is at once: there is nothing to record yet.
            schedule.1.next(engine.clock.now_ms(), engine.clock.steady());
        }
        let (due_ms, _) = schedule.1.next(engine.clock.now_ms(), engine.clock.steady());
        writer.next_is_due(due_ms);
        let until_due = u64::try_from(due_ms.saturating_sub(engine.clock.now_ms())).unwrap_or(0);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(until_due)) => {}
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        let (engine, mut before) = (engine.clone(), recorded.take());
        let tick = move || -> Result<Option<RegisteredMetrics>, InvalidInstanceId> {
            let at_ms = engine.clock.stamp(due_ms, wait).at_ms;
            let Some(interval) = interval else {
                before.iter_mut().for_each(|metrics| metrics.end(at_ms));
                return Ok(None);
            };
            let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
            before
                .iter_mut()
                .filter(|metrics| metrics.interval_ms != interval_ms)
                .for_each(|metrics| metrics.end(at_ms));
            let mut metrics = match before.filter(|metrics| metrics.interval_ms == interval_ms) {
                Some(same) => same,
                None => RegisteredMetrics::new(&engine, interval_ms)?,
            };
            let began = Instant::now();
            metrics.record(&engine, at_ms);
            engine.metrics.core.took("host", "metrics_history", began.elapsed());
            Ok(Some(metrics))
        };
        // It reads all metrics, which takes longer than the server's threads may be held up.
        recorded = tokio::task::spawn_blocking(tick).await.ok().and_then(Result::ok).flatten();
    }
}

impl RegisteredMetrics {
    fn new(engine: &Engine, interval_ms: i64) -> Result<Self, InvalidInstanceId> {
        let instance = InstanceId::new(INSTANCE)?;
        let host = group(engine, &instance, names::HOST.into(), interval_ms);
        Ok(Self { instance, interval_ms, host, of_plugins: BTreeMap::new() })
    }

    fn record(&mut self, engine: &Engine, at_ms: i64) {
        let options = engine.options.load();
        let patterns: Vec<Pattern> =
            options.metrics.history_keep.iter().filter_map(|pattern| Pattern::new(pattern).ok()).collect();
        let is_kept = |family: &str| patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(family));
        let add = |group: &mut ExpositionGroup, text: Vec<u8>| {
            // The text is the host's own, so it can be read.
            let read = group.record(&text, ExpositionFormat::Text, at_ms, is_kept);
            debug_assert!(read.is_ok(), "{read:?}");
        };
        let began = Instant::now();
        let mut of_host = exposition::text_of_host(engine);
        of_host.extend(as_scraped(&of_host, began.elapsed()).into_bytes());
        add(&mut self.host, of_host);
        let plugins: BTreeMap<PluginName, PluginMetrics> =
            engine.plugins.list().iter().filter_map(|plugin| Some((plugin.name.clone(), plugin.metrics()?))).collect();
        self.of_plugins.retain(|name, group| {
            let is_there = plugins.contains_key(name);
            if !is_there {
                group.end(at_ms);
            }
            is_there
        });
        for (name, metrics) in plugins {
            let text = exposition::text_of_plugin(&name, &metrics);
            if text.is_empty() && !self.of_plugins.contains_key(&name) {
                continue;
            }
            let new = || group(engine, &self.instance, name.clone(), self.interval_ms);
            add(self.of_plugins.entry(name.clone()).or_insert_with(new), text);
        }
    }

    fn end(&mut self, at_ms: i64) {
        self.host.end(at_ms);
        self.of_plugins.values_mut().for_each(|group| group.end(at_ms));
    }
}

/// Returns the series that a Prometheus adds to each target that it scrapes: dashboards and rules ask for them.
fn as_scraped(exposition: &[u8], took: Duration) -> String {
    let lines = exposition.split(|byte| *byte == b'\n');
    let samples = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).count();
    format!(
        "# TYPE up gauge\nup 1\n# TYPE scrape_duration_seconds gauge\nscrape_duration_seconds {}\n\
         # TYPE scrape_samples_scraped gauge\nscrape_samples_scraped {samples}\n",
        took.as_secs_f64()
    )
}

fn group(engine: &Engine, instance: &InstanceId, owner: Arc<str>, interval_ms: i64) -> ExpositionGroup {
    let key = GroupKey { instance: instance.clone(), group: owner.clone(), owner, interval_ms };
    ExpositionGroup::new(engine.store.series_group(key))
}
