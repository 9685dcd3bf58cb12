//! Fields of samples in a database that has them as series: the questions for them in PromQL.

use super::field_index::{customary, declared};
use super::promql_source::INSTANCE;
use crate::Engine;
use crate::long_history::LongHistory;
use crate::plugins::FieldMetric;
use dropsonde_model::Kind;
use dropsonde_promql::Matcher;
use dropsonde_promql::quoted::quoted;
use dropsonde_store::{Aggregation, InstanceId, Query, StoredField};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that tells the fields of an answer apart, and what of a field it is: its value, or an end of its band.
pub const FIELD: &str = "dropsonde_field";

/// Returns the question for the fields of some instances in a window, bucket by bucket: the value at the last moment of a
/// bucket is that of the bucket. An answer's series have the labels `id` and [`FIELD`]; of bands also `FIELD` with
/// `_min` or `_max` at its end. None if no field is known.
pub fn question(
    engine: &Engine,
    database: &dyn LongHistory,
    ids: &[InstanceId],
    query: &Query,
    bands: bool,
) -> Option<String> {
    let fields = fields(engine, ids);
    let is_asked = |name: &str| query.fields.as_ref().is_none_or(|asked| asked.iter().any(|field| field == name));
    let has_frames = ids.iter().any(|id| !engine.store.frames(id).is_empty());
    let selector = selector(engine, database, ids, has_frames);
    let mut parts: Vec<String> = Vec::new();
    for (name, (field, metric)) in fields.iter().filter(|(name, _)| is_asked(name)) {
        let ends = [("_min", Aggregation::Min), ("_max", Aggregation::Max)];
        let values = [("", field.aggregation)].into_iter().chain(ends.into_iter().filter(|_| bands));
        for (end, aggregation) in values {
            let value = value(field, metric, aggregation, &selector, query.step_ms);
            parts.push(format!(
                "label_replace({value}, {}, {}, \"\", \"\")",
                quoted(FIELD),
                quoted(&format!("{name}{end}"))
            ));
        }
    }
    (!parts.is_empty()).then(|| parts.join(" or "))
}

/// Returns the fields of instances with their metrics, by name; of instances that are not known here, those of all
/// samplers.
fn fields(engine: &Engine, ids: &[InstanceId]) -> BTreeMap<Arc<str>, (StoredField, FieldMetric)> {
    let declared = declared(engine);
    let frames: Vec<_> = ids.iter().flat_map(|id| engine.store.frames(id)).collect();
    let of_frames = frames.iter().map(|frame| {
        let schema = frame.schema();
        let known = declared.iter().find(|(name, fields)| **name == **schema.sampler() && fields.schema == *schema);
        (schema, known.map_or_else(|| customary(schema), |(_, fields)| fields.metrics.clone()))
    });
    let of_all = declared.iter().map(|(_, fields)| (&fields.schema, fields.metrics.clone()));
    let mut found = BTreeMap::new();
    for (schema, metrics) in of_frames.chain(of_all.filter(|_| frames.is_empty())) {
        for (field, metric) in schema.fields().iter().zip(&*metrics) {
            found.entry(field.name.clone()).or_insert_with(|| (field.clone(), metric.clone()));
        }
    }
    found
}

/// Returns the matchers of the series of instances. Instances that are known here are those of this host.
fn selector(engine: &Engine, database: &dyn LongHistory, ids: &[InstanceId], is_own: bool) -> String {
    let options = engine.options.load();
    let name = options.external_name();
    let own = [(INSTANCE, &*name)].into_iter();
    let own = own.chain(database.labels().iter().map(|(name, value)| (&**name, &**value)));
    let own = own.filter(|_| is_own).map(|(name, value)| Matcher::equal(name, value));
    let matchers: Vec<String> = own
        .chain([Matcher::any_of("id", ids.iter().map(InstanceId::as_str))])
        .map(|matcher| matcher.to_string())
        .collect();
    format!("{{{}}}", matchers.join(","))
}

/// Returns the value of a field over a bucket, in the field's own unit.
fn value(field: &StoredField, metric: &FieldMetric, aggregation: Aggregation, selector: &str, step_ms: i64) -> String {
    let FieldMetric { name, factor, .. } = metric;
    match field.kind {
        // A rate is one value over the bucket: so are the ends of its band.
        Kind::Counter { scale } => {
            let scale = if scale == 1.0 { String::new() } else { format!(" * {scale}") };
            format!("avg by (id) (rate({name}{selector}[{step_ms}ms])){scale}")
        }
        Kind::Gauge => {
            let function = match aggregation {
                Aggregation::Mean => "avg_over_time",
                Aggregation::Min => "min_over_time",
                Aggregation::Max => "max_over_time",
                Aggregation::Last => "last_over_time",
                Aggregation::Sum => "sum_over_time",
            };
            let factor = if *factor == 1.0 { String::new() } else { format!(" / {factor}") };
            format!("avg by (id) ({function}({name}{selector}[{step_ms}ms])){factor}")
        }
    }
}
