//! Puts the series that a sampler reports into history.

use crate::Engine;
use crate::tracked::{API, PluginName, PolledInstance};
use dropsonde_model::Labels;
use dropsonde_sandbox::{ReportedSeries, SeriesDefinition, SeriesDefinitions};
use dropsonde_store::{GroupKey, InstanceId, SeriesGroup, SeriesHandle};
use std::collections::HashMap;

/// The series of all instances that one sampler reads.
pub(crate) struct SeriesRecorder {
    sampler: PluginName,
    interval_ms: i64,
    instances: HashMap<InstanceId, InstanceSeries>,
}

/// The series of one instance.
struct InstanceSeries {
    group: SeriesGroup,
    generation: u64,
    /// The labels of the instance.
    labels: Labels,
    /// The definitions that the handles in `handles` refer to.
    definitions: SeriesDefinitions,
    /// The store's handle by the plugin's handle.
    handles: Vec<Option<SeriesHandle>>,
}

/// The points of a call, counted by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PointCounts {
    pub(crate) ok: u64,
    /// The sampler's share of series or memory is used up.
    pub(crate) refused: u64,
    /// Of instances that the sampler was not asked for, or that are no longer polled.
    pub(crate) of_others: u64,
}

impl SeriesRecorder {
    pub(crate) fn new(sampler: PluginName, interval_ms: i64) -> Self {
        Self { sampler, interval_ms, instances: HashMap::new() }
    }

    /// Forgets instances that the sampler no longer reads. Their series end at a time.
    pub(crate) fn keep_only(&mut self, at_ms: i64, is_polled: impl Fn(&InstanceId) -> bool) {
        self.instances.retain(|id, series| {
            let is_polled = is_polled(id);
            if !is_polled {
                series.group.end(at_ms);
            }
            is_polled
        });
    }

    /// Adds what a call reported of a batch of instances. Series that it did not report end.
    pub(crate) fn record(
        &mut self,
        engine: &Engine,
        at_ms: i64,
        batch: &[PolledInstance],
        reported: ReportedSeries,
    ) -> PointCounts {
        let ReportedSeries { definitions, points } = reported;
        let mut counts = PointCounts::default();
        if points.is_empty() && self.instances.is_empty() {
            return counts;
        }
        let mut by_instance: HashMap<String, Vec<(u32, f64)>> = HashMap::with_capacity(points.len());
        for (instance, mut points) in points {
            by_instance.entry(instance).or_default().append(&mut points);
        }
        let sampler = self.sampler.clone();
        for polled in batch {
            let points = by_instance.remove(polled.id.as_str()).unwrap_or_default();
            if points.is_empty() && !self.instances.contains_key(&polled.id) {
                continue;
            }
            // The lock keeps the instance from being untracked meanwhile.
            engine.tracked.while_polled(|is_polled| {
                if !is_polled(polled) {
                    counts.of_others += points.len() as u64;
                    return;
                }
                let series = self.series_of(engine, at_ms, polled, &definitions);
                let known = |(handle, value)| Some((series.handle(handle, polled.id.as_str(), &sampler)?, value));
                let samples: Vec<_> = points.into_iter().filter_map(known).collect();
                let report = series.group.push(at_ms, &samples);
                counts.ok += report.samples;
                counts.refused += report.refused + report.unknown;
                if report.unknown > 0 {
                    series.handles.clear();
                }
            });
        }
        counts.of_others += by_instance.values().map(|points| points.len() as u64).sum::<u64>();
        counts
    }

    /// Returns the series of an instance. If it has begun again, or has other labels, the series begin again too.
    fn series_of(
        &mut self,
        engine: &Engine,
        at_ms: i64,
        polled: &PolledInstance,
        definitions: &SeriesDefinitions,
    ) -> &mut InstanceSeries {
        // The series of an instance that a program tracks use the programs' share.
        let owner = if *polled.owner == *API { &polled.owner } else { &self.sampler };
        let key = || GroupKey {
            instance: polled.id.clone(),
            group: self.sampler.clone(),
            owner: owner.clone(),
            interval_ms: self.interval_ms,
        };
        let new = || InstanceSeries {
            group: engine.store.series_group(key()),
            generation: polled.generation,
            labels: polled.labels.clone(),
            definitions: definitions.clone(),
            handles: Vec::new(),
        };
        let series = self.instances.entry(polled.id.clone()).or_insert_with(new);
        if series.generation != polled.generation || series.labels != polled.labels {
            series.group.end(at_ms);
            *series = new();
        }
        if !series.definitions.is(definitions) {
            series.definitions = definitions.clone();
            series.handles.clear();
        }
        series
    }
}

impl InstanceSeries {
    /// Returns the store's handle for a plugin's handle; `None` if the series has labels that are too long.
    fn handle(&mut self, handle: u32, instance: &str, sampler: &str) -> Option<SeriesHandle> {
        let at = handle as usize;
        if let Some(Some(known)) = self.handles.get(at) {
            return Some(*known);
        }
        let definition = self.definitions.get(handle)?;
        let labels = labels(&definition, &self.labels, instance, sampler);
        let found = self.group.series(&labels, definition.metric_type).ok();
        if self.handles.len() <= at {
            self.handles.resize(at + 1, None);
        }
        *self.handles.get_mut(at)? = found;
        found
    }
}

/// Returns the labels of a series with those of its instance. As in Prometheus, a label of the series that has the name
/// of one of the instance's gets another name; or it wins, if the series keeps its labels.
fn labels(definition: &SeriesDefinition, own: &Labels, instance: &str, sampler: &str) -> Labels {
    let is_left_out = |key: &str| definition.keeps_labels && definition.labels.get(key).is_some();
    let own = || own.iter().filter(|(key, _)| !is_left_out(key));
    let of_host = || own().chain([("id", instance), ("sampler", sampler)]);
    let named = definition.labels.iter().map(|(key, value)| {
        let mut key = key.to_owned();
        while of_host().any(|(own, _)| own == key) {
            key.insert_str(0, "exported_");
        }
        (key, value.to_owned())
    });
    named.chain(of_host().map(|(key, value)| (key.to_owned(), value.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_model::MetricType;

    #[test]
    fn labels_of_a_series_that_its_instance_has_too_are_renamed_or_win() {
        let given = Labels::from([("__name__", "up"), ("id", "7"), ("job", "a"), ("zone", "x")]);
        let definition = |keeps_labels| SeriesDefinition {
            labels: given.clone(),
            metric_type: MetricType::Gauge,
            help: String::new(),
            keeps_labels,
        };
        let own = Labels::from([("job", "mine"), ("team", "a")]);
        let expected = Labels::from([
            ("__name__", "up"),
            ("exported_id", "7"),
            ("exported_job", "a"),
            ("id", "web-1"),
            ("job", "mine"),
            ("sampler", "scrape"),
            ("team", "a"),
            ("zone", "x"),
        ]);
        assert_eq!(labels(&definition(false), &own, "web-1", "scrape"), expected);
        let expected = Labels::from([
            ("__name__", "up"),
            ("exported_id", "7"),
            ("id", "web-1"),
            ("job", "a"),
            ("sampler", "scrape"),
            ("team", "a"),
            ("zone", "x"),
        ]);
        assert_eq!(labels(&definition(true), &own, "web-1", "scrape"), expected);
    }
}
