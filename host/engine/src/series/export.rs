//! All series of history, as other servers get them.

use super::field_index::Revisions;
use super::promql_source::{INSTANCE, PromqlSource, as_scraped};
use crate::Engine;
use crate::plugins::FieldMetric;
use crate::rules::INSTANCE_OF_RULES;
use crate::tracked::noted_labels;
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_store::inspect::Export;
use dropsonde_store::{FoundSeries, ReadingScale};
use std::collections::BTreeMap;

/// The state of the set of all series. Another state means that series, or their labels, may be others.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesState {
    fields: Revisions,
    store: u64,
}

impl SeriesState {
    pub fn now(engine: &Engine) -> Self {
        Self { fields: Revisions::now(engine), store: engine.store.series_revision() }
    }
}

/// Returns all series of history, in any order, with labels that are the same for no other host: those that a
/// Prometheus gives them that scrapes this host, and `instance` also for the results of rules.
pub fn exported(engine: &Engine) -> Vec<FoundSeries> {
    let source = PromqlSource::new(engine, usize::MAX);
    let own = source.own(INSTANCE).unwrap_or_default();
    source.find_all(&|labels| tell_apart(labels, own))
}

/// Returns all series of history in files, like [`exported`]. `external_name`: the name of their host.
pub fn exported_from(export: &Export, external_name: &str) -> Vec<FoundSeries> {
    let known = noted_labels(&export.notes);
    let mut found: BTreeMap<Labels, FoundSeries> = BTreeMap::new();
    for frame in &export.frames {
        let (instance, schema) = (frame.instance(), frame.schema());
        let is_of_rule = instance.as_str() == INSTANCE_OF_RULES;
        let mut add = |labels: Labels, metric_type, column, scale| {
            let labels = if is_of_rule { labels } else { as_scraped(&labels, external_name) };
            let labels = tell_apart(labels, external_name);
            let series = found.entry(labels.clone());
            let series = series.or_insert_with(|| FoundSeries { labels, metric_type, columns: Vec::new() });
            series.columns.push(frame.column(column, scale));
        };
        match schema.series() {
            Some(series) => {
                for (column, (labels, metric_type)) in series.into_iter().enumerate() {
                    add(labels, metric_type, column, ReadingScale::Same);
                }
            }
            None => {
                for (column, field) in schema.fields().iter().enumerate() {
                    let [metric, _] = FieldMetric::of_kept(field);
                    let own = known.get(instance).into_iter().flat_map(Labels::iter);
                    let labels =
                        own.chain([("id", instance.as_str()), ("sampler", schema.sampler()), (NAME, &metric.name)]);
                    let metric_type = if metric.is_counter { MetricType::Counter } else { MetricType::Gauge };
                    add(labels.collect(), metric_type, column, metric.scale());
                }
            }
        }
    }
    found.into_values().collect()
}

/// Adds the name of the host, if it is missing: results of rules have no such label.
fn tell_apart(labels: Labels, external_name: &str) -> Labels {
    match labels.get(INSTANCE) {
        Some(_) => labels,
        None => labels.iter().chain([(INSTANCE, external_name)]).collect(),
    }
}
