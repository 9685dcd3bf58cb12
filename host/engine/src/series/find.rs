//! Finds series by their labels: labelled series of the store, and the fields of samples under the names that they have
//! on `/metrics`.

use super::field_index::IndexedField;
use crate::Engine;
use crate::plugins::FieldMetric;
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_promql::{Matcher, ValuePattern};
use dropsonde_store::{
    FoundSeries, InstanceId, LabelMatcher, LabelValues, ReadingScale, SeriesColumn, SeriesSelection,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Returns how many series some selectors select at most. It takes less time and memory than [`select`].
pub fn count(engine: &Engine, selectors: &[Vec<Matcher>]) -> usize {
    let of_selector = |matchers: &Vec<Matcher>| {
        let mut count = engine.store.count_series(&of_store(matchers));
        engine.fields.current(engine).select(matchers, |_, _| count += 1);
        count
    };
    selectors.iter().map(of_selector).sum()
}

/// Finds the series that one of some selectors selects and that have samples in a window. May read files.
pub fn select(engine: &Engine, selectors: &[Vec<Matcher>], window: &Range<i64>) -> SeriesSelection {
    let mut found: HashMap<Labels, FoundSeries> = HashMap::new();
    for matchers in selectors {
        for series in engine.store.find_series(&of_store(matchers)).into_iter().chain(samples(
            engine,
            matchers,
            &IndexedField::series_labels,
        )) {
            found.entry(series.labels.clone()).or_insert(series);
        }
    }
    SeriesSelection::of(found.into_values().collect(), window)
}

/// Finds the series that matchers select, in any order; if `has_samples`, with the fields of samples. May read files.
pub(super) fn find(engine: &Engine, matchers: &[Matcher], has_samples: bool) -> Vec<FoundSeries> {
    let mut found = engine.store.find_series(&of_store(matchers));
    if has_samples {
        found.extend(samples(engine, matchers, &IndexedField::series_labels));
    }
    found
}

fn of_store(matchers: &[Matcher]) -> Vec<LabelMatcher> {
    matchers.iter().map(of_matcher).collect()
}

fn of_matcher(matcher: &Matcher) -> LabelMatcher {
    let values = match matcher.pattern() {
        ValuePattern::AnyOf(values) => match &values[..] {
            [one] => LabelValues::Is(one.clone()),
            _ => LabelValues::AnyOf(values.clone()),
        },
        ValuePattern::BeginsWith(start) => LabelValues::BeginsWith(start.clone()),
        pattern @ ValuePattern::Regex(_) => {
            let pattern = pattern.clone();
            LabelValues::Test(Arc::new(move |value| pattern.has(value)))
        }
    };
    LabelMatcher { name: matcher.name.clone(), values, is_negated: matcher.is_negated() }
}

/// Returns the names of all labels, sorted.
pub fn label_names(engine: &Engine) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = engine.store.label_names().into_iter().collect();
    for instance in engine.tracked.list().iter().filter(|instance| !engine.store.frames(&instance.id).is_empty()) {
        names.extend(instance.labels.iter().map(|(name, _)| name.to_owned()));
        names.extend(["id", "sampler", NAME].map(str::to_owned));
    }
    names
}

/// Returns all values of a label, sorted.
pub fn label_values(engine: &Engine, name: &str) -> BTreeSet<String> {
    let mut values: BTreeSet<String> = engine.store.label_values(name).into_iter().collect();
    if matches!(name, NAME | "sampler") {
        engine.fields.current(engine).select(&[], |field, metric| {
            let value = if name == NAME { &*metric.name } else { &**field.frame.schema().sampler() };
            if !values.contains(value) {
                values.insert(value.to_owned());
            }
        });
        return values;
    }
    for instance in engine.tracked.list().iter().filter(|instance| !engine.store.frames(&instance.id).is_empty()) {
        let value = if name == "id" { Some(instance.id.as_str()) } else { instance.labels.get(name) };
        values.extend(value.map(str::to_owned));
    }
    values
}

/// Returns the fields of samples that matchers select, as series with the labels that `labels` gives them.
pub(super) fn samples(
    engine: &Engine,
    matchers: &[Matcher],
    labels: &dyn Fn(&IndexedField, &FieldMetric) -> Labels,
) -> Vec<FoundSeries> {
    let mut found: Vec<FoundSeries> = Vec::new();
    // If a sampler has changed its fields or its interval, several of its frames have columns of one series.
    let mut in_several: BTreeMap<(InstanceId, Arc<str>, &str), FoundSeries> = BTreeMap::new();
    let index = engine.fields.current(engine);
    index.select(matchers, |field, metric| {
        let sampler = field.frame.schema().sampler();
        let series = || FoundSeries {
            labels: labels(field, metric),
            metric_type: if metric.is_counter { MetricType::Counter } else { MetricType::Gauge },
            columns: Vec::new(),
        };
        let (frame, column) = (field.frame.clone(), field.column);
        let column = SeriesColumn { frame, column, scale: metric.scale() };
        if !field.has_several_frames {
            found.push(FoundSeries { columns: vec![column], ..series() });
            return;
        }
        let key = (field.instance.clone(), sampler.clone(), metric.name.as_str());
        in_several.entry(key).or_insert_with(series).columns.push(column);
    });
    found.extend(in_several.into_values());
    found
}

impl FieldMetric {
    /// Returns the conversion from a field's readings to the values on `/metrics`.
    pub(super) fn scale(&self) -> ReadingScale {
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
