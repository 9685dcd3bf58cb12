//! Samples as Prometheus metrics: one series per field, instance and sampler.

use crate::core::Core;
use dropsonde_store::{Frame, Row};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeMap;

/// Frames that gave nothing for this many of their intervals are no longer exposed.
const STALE_INTERVALS: i64 = 3;

/// Everything there is, in the text format 0.0.4.
pub(crate) fn text(core: &Core) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = core.metrics.registry.gather();
    families.extend(samples(core));
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

/// The newest rows of all instances.
fn samples(core: &Core) -> Vec<MetricFamily> {
    let mut families = BTreeMap::new();
    let now_ms = core.clock.now_ms();
    for instance in core.tracked.list() {
        for frame in core.store.frames(&instance.id) {
            let Some(row) = fresh(&frame, now_ms) else { continue };
            let Some(fields) = core.plugins.fields_of(frame.schema()) else { continue };
            let mut labels: Vec<_> = instance.labels.iter().map(|(key, value)| label(key, value)).collect();
            labels.push(label("id", instance.id.as_str()));
            labels.push(label("sampler", frame.schema().sampler()));
            for ((metric, &value), &total) in fields.metrics.iter().zip(&row.values).zip(&row.totals) {
                let reading = if metric.is_counter { total } else { value * metric.factor };
                if reading.is_nan() {
                    continue;
                }
                let family = families.entry(metric.name.clone()).or_insert_with(|| family(metric));
                // Two samplers may disagree what kind of metric a name is; whoever comes first is right.
                if (family.get_field_type() == MetricType::COUNTER) == metric.is_counter {
                    family.mut_metric().push(series(metric.is_counter, reading, &labels));
                }
            }
        }
    }
    families.into_values().collect()
}

fn fresh(frame: &Frame, now_ms: i64) -> Option<Row> {
    frame.latest().filter(|row| now_ms - row.at_ms <= STALE_INTERVALS * frame.interval_ms())
}

fn family(metric: &crate::plugins::Metric) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.clone());
    family.set_help(metric.help.clone());
    family.set_field_type(if metric.is_counter { MetricType::COUNTER } else { MetricType::GAUGE });
    family
}

fn series(is_counter: bool, value: f64, labels: &[LabelPair]) -> Metric {
    let mut series = Metric::from_label(labels.to_vec());
    if is_counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        series.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        series.set_gauge(gauge);
    }
    series
}

fn label(key: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(key.to_owned());
    label.set_value(value.to_owned());
    label
}
