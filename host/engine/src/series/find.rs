//! Finds series by their labels: labelled series of the store, and the fields of samples under the names that they have
//! on `/metrics`.

use crate::Engine;
use crate::plugins::{FieldMetric, Fields, PluginStatus};
use dropsonde_model::{Labels, MetricType};
use dropsonde_promql::{Matcher, ValuePattern};
use dropsonde_store::{
    FoundSeries, Frame, LabelMatcher, LabelValues, ReadingScale, SeriesColumn, SeriesSelection, StoredField,
};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

const NAME: &str = "__name__";

/// Finds the series that one of some selectors selects and that have samples in a window. May read files.
pub fn select(engine: &Engine, selectors: &[Vec<Matcher>], window: &Range<i64>) -> SeriesSelection {
    let mut found: HashMap<Labels, FoundSeries> = HashMap::new();
    for matchers in selectors {
        let of_store = engine.store.find_series(&matchers.iter().map(of_matcher).collect::<Vec<_>>());
        for series in of_store.into_iter().chain(samples(engine, matchers)) {
            found.entry(series.labels.clone()).or_insert(series);
        }
    }
    SeriesSelection::of(found.into_values().collect(), window)
}

fn of_matcher(matcher: &Matcher) -> LabelMatcher {
    let values = match matcher.pattern() {
        ValuePattern::AnyOf(values) => match &values[..] {
            [one] => LabelValues::Is(one.clone()),
            _ => LabelValues::AnyOf(values.clone()),
        },
        ValuePattern::BeginsWith(start) => LabelValues::BeginsWith(start.clone()),
        ValuePattern::Regex(regex) => {
            let regex = regex.clone();
            LabelValues::Test(Arc::new(move |value| regex.is_match(value)))
        }
    };
    LabelMatcher { name: matcher.name.clone(), values, is_negated: matcher.is_negated() }
}

/// Returns the fields of samples that matchers select, as series.
fn samples(engine: &Engine, matchers: &[Matcher]) -> Vec<FoundSeries> {
    let (of_name, of_labels): (Vec<_>, Vec<_>) = matchers.iter().partition(|matcher| matcher.name == NAME);
    let plugins = engine.plugins.list();
    let fields: BTreeMap<&str, Fields> =
        plugins.iter().filter_map(|plugin: &Arc<PluginStatus>| Some((&*plugin.name, plugin.fields()?))).collect();
    let mut all = Vec::new();
    for instance in engine.tracked.list() {
        let selects = |sampler: &str| {
            of_labels.iter().all(|matcher| match matcher.name.as_str() {
                "id" => matcher.matches(instance.id.as_str()),
                "sampler" => matcher.matches(sampler),
                name => matcher.matches(instance.labels.get(name).unwrap_or_default()),
            })
        };
        let mut of_instance: BTreeMap<(String, Arc<str>), FoundSeries> = BTreeMap::new();
        for frame in engine.store.frames(&instance.id) {
            let sampler = frame.schema().sampler().clone();
            if !selects(&sampler) {
                continue;
            }
            for (column, field) in frame.schema().fields().iter().enumerate() {
                let metric = metric(fields.get(&*sampler), &frame, field, column);
                if !of_name.iter().all(|matcher| matcher.matches(&metric.name)) {
                    continue;
                }
                let of_instance = of_instance.entry((metric.name.clone(), sampler.clone())).or_insert_with(|| {
                    let own = [("id", instance.id.as_str()), ("sampler", &sampler), (NAME, &metric.name)];
                    FoundSeries {
                        labels: instance.labels.iter().chain(own).collect(),
                        metric_type: if metric.is_counter { MetricType::Counter } else { MetricType::Gauge },
                        columns: Vec::new(),
                    }
                });
                of_instance.columns.push(SeriesColumn { frame: frame.clone(), column, scale: metric.scale() });
            }
        }
        all.extend(of_instance.into_values());
    }
    all
}

/// Returns the metric of a field: as its plugin declares it now, or by custom if the plugin has gone or has other fields.
fn metric(fields: Option<&Fields>, frame: &Frame, field: &StoredField, column: usize) -> FieldMetric {
    let declared = fields.filter(|fields| fields.schema == *frame.schema());
    let declared = declared.and_then(|fields| fields.metrics.get(column)).cloned();
    declared.unwrap_or_else(|| {
        let [customary, _] = FieldMetric::of_kept(field);
        customary
    })
}

impl FieldMetric {
    /// Returns the conversion from a field's readings to the values on `/metrics`.
    fn scale(&self) -> ReadingScale {
        match self.decimals {
            Some(decimals) => {
                let places = i32::try_from(decimals.places).unwrap_or(i32::MAX);
                ReadingScale::Steps { steps: decimals.units, parts: 10_f64.powi(places) }
            }
            None if self.is_counter || self.factor == 1.0 => ReadingScale::Same,
            None => ReadingScale::Times(self.factor),
        }
    }
}
