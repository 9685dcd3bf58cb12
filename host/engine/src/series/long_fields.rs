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

/// The most bytes of a question: databases take no longer ones.
const LONGEST: usize = 8 << 10;

/// Rates cover at least so many intervals: between two samples there is none.
const INTERVALS_OF_RATE: i64 = 4;

/// Returns the questions for the fields of some instances in a window, bucket by bucket: the value at the last moment of a
/// bucket is that of the bucket. An answer's series have the labels `id`, [`FIELD`], and `instance`; of bands also `FIELD`
/// with `_min` or `_max` at its end. Instances that are known here are those of this host; others may be anywhere.
pub fn questions(
    engine: &Engine,
    database: &dyn LongHistory,
    ids: &[InstanceId],
    query: &Query,
    bands: bool,
) -> Vec<String> {
    let is_own = |id: &&InstanceId| !engine.store.frames(id).is_empty();
    let (own, others): (Vec<&InstanceId>, Vec<&InstanceId>) = ids.iter().partition(is_own);
    let is_asked = |name: &str| query.fields.as_ref().is_none_or(|asked| asked.iter().any(|field| field == name));
    let mut questions: Vec<String> = Vec::new();
    for (ids, is_own) in [(own, true), (others, false)].into_iter().filter(|(ids, _)| !ids.is_empty()) {
        let selector = selector(engine, database, &ids, is_own);
        let mut open = String::new();
        for (name, field) in fields(engine, &ids).iter().filter(|(name, _)| is_asked(name)) {
            let ends = [("_min", Aggregation::Min), ("_max", Aggregation::Max)];
            let values = [("", field.stored.aggregation)].into_iter().chain(ends.into_iter().filter(|_| bands));
            for (end, aggregation) in values {
                let value = field.value(aggregation, &selector, query.step_ms);
                let label = quoted(&format!("{name}{end}"));
                let part = format!("label_replace({value}, {}, {label}, \"\", \"\")", quoted(FIELD));
                if !open.is_empty() && open.len() + part.len() > LONGEST {
                    questions.push(std::mem::take(&mut open));
                }
                open = if open.is_empty() { part } else { format!("{open} or {part}") };
            }
        }
        questions.extend(Some(open).filter(|open| !open.is_empty()));
    }
    questions
}

/// A field, with the metric that a database has of it.
struct LongField {
    stored: StoredField,
    metric: FieldMetric,
    interval_ms: i64,
}

/// Returns the fields of instances, by name; of instances that are not known here, those of all samplers.
fn fields(engine: &Engine, ids: &[&InstanceId]) -> BTreeMap<Arc<str>, LongField> {
    let declared = declared(engine);
    let frames: Vec<_> = ids.iter().flat_map(|id| engine.store.frames(id)).collect();
    let of_frames = frames.iter().map(|frame| {
        let schema = frame.schema();
        let known = declared.iter().find(|(name, fields)| **name == **schema.sampler() && fields.schema == *schema);
        (schema, known.map_or_else(|| customary(schema), |(_, fields)| fields.metrics.clone()), frame.interval_ms())
    });
    let usual_ms = engine.options.load().poll.interval.as_ms();
    let of_all = declared.iter().map(|(_, fields)| (&fields.schema, fields.metrics.clone(), usual_ms));
    let mut found: BTreeMap<Arc<str>, LongField> = BTreeMap::new();
    for (schema, metrics, interval_ms) in of_frames.chain(of_all.filter(|_| frames.is_empty())) {
        for (field, metric) in schema.fields().iter().zip(&*metrics) {
            let known = found.entry(field.name.clone());
            let known =
                known.or_insert_with(|| LongField { stored: field.clone(), metric: metric.clone(), interval_ms });
            known.interval_ms = known.interval_ms.max(interval_ms);
        }
    }
    found
}

/// Returns the matchers of the series of instances; `is_own`: of those of this host alone.
fn selector(engine: &Engine, database: &dyn LongHistory, ids: &[&InstanceId], is_own: bool) -> String {
    let options = engine.options.load();
    let name = options.external_name();
    let own = [(INSTANCE, &*name)].into_iter();
    let own = own.chain(database.labels().iter().map(|(name, value)| (&**name, &**value)));
    let own = own.filter(|_| is_own).map(|(name, value)| Matcher::equal(name, value));
    let matchers: Vec<String> = own
        .chain([Matcher::any_of("id", ids.iter().map(|id| id.as_str()))])
        .map(|matcher| matcher.to_string())
        .collect();
    format!("{{{}}}", matchers.join(","))
}

impl LongField {
    /// Returns the value of the field over a bucket, in the field's own unit.
    fn value(&self, aggregation: Aggregation, selector: &str, step_ms: i64) -> String {
        let FieldMetric { name, factor, .. } = &self.metric;
        match self.stored.kind {
            // A rate is one value over the bucket: so are the ends of its band.
            Kind::Counter { scale } => {
                let range_ms = step_ms.max(self.interval_ms.saturating_mul(INTERVALS_OF_RATE));
                let scale = if scale == 1.0 { String::new() } else { format!(" * {scale}") };
                format!("avg by (id, {INSTANCE}) (rate({name}{selector}[{range_ms}ms])){scale}")
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
                format!("avg by (id, {INSTANCE}) ({function}({name}{selector}[{step_ms}ms])){factor}")
            }
        }
    }
}
