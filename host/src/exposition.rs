//! Samples as Prometheus metrics: one series per field, instance and sampler.

use crate::core::Core;
use crate::snapshot::{METRICS, Number};
use dropsonde_store::{Frame, Row};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeMap;

/// Frames that gave nothing for this many of their intervals are no longer exposed.
const STALE_INTERVALS: i64 = 3;

/// Everything there is, in the text format 0.0.4.
pub(crate) fn text(core: &Core) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = core.metrics.registry.gather();
    families.extend(history(core));
    families.extend(workers(core));
    families.extend(snapshot(core));
    families.extend(samples(core));
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

/// What plugins' instances are doing.
fn workers(core: &Core) -> [MetricFamily; 2] {
    let live: Vec<_> =
        core.plugins.list().iter().filter_map(|plugin| plugin.worker()).filter(|worker| worker.is_live()).collect();
    let busy = live.iter().filter(|worker| worker.is_busy()).count() as u64;
    let idle = (live.len() as u64).saturating_sub(busy);
    let draining = core.plugins.list().iter().map(|plugin| plugin.draining() as u64).sum();
    let states =
        [("busy", busy), ("idle", idle), ("draining", draining)].map(|(state, n)| ([label("state", state)], n));
    let states: Vec<(&[LabelPair], u64)> = states.iter().map(|(labels, n)| (&labels[..], *n)).collect();
    [
        count("workers_active", "Live instances of plugins.", false, &[(&[], live.len() as u64)]),
        count(
            "workers",
            "Instances of plugins, by what they do; draining: replaced, and not ended yet.",
            false,
            &states,
        ),
    ]
}

/// What all sources say together, once there is any.
fn snapshot(core: &Core) -> Vec<MetricFamily> {
    if core.snapshots.is_empty() {
        return Vec::new();
    }
    let document = core.snapshots.document(core.clock.now_ms());
    let gauge = |number: &Number| {
        let mut family = MetricFamily::default();
        family.set_name(format!("dropsonde_snapshot_{}", number.metric));
        family.set_help(number.help.to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(vec![series(false, (number.value)(&document.aggregate), &[])]);
        family
    };
    METRICS.iter().map(gauge).collect()
}

/// What the store and its archive have, counted where they are.
fn history(core: &Core) -> Vec<MetricFamily> {
    let (usage, archive) = (core.store.recent_usage(), core.store.archive());
    let counter = |name: &str, help: &str, series: &[(&[LabelPair], u64)]| count(name, help, true, series);
    let gauge = |name: &str, help: &str, value: u64| count(name, help, false, &[(&[], value)]);
    let mut families = vec![
        gauge("history_rows", "Rows of all instances, in memory and on disk.", usage.rows),
        gauge("history_block_bytes", "Compressed rows in memory.", usage.block_bytes),
        gauge("history_cell_bytes", "Aggregates in memory, for long windows.", usage.cell_bytes),
        gauge("history_block_cache_bytes", "Unpacked history kept for the next query.", usage.cache_bytes),
        counter(
            "history_block_cache_total",
            "Blocks of history that were found unpacked, or were not.",
            &[(&[label("result", "hit")], usage.cache_hits), (&[label("result", "miss")], usage.cache_misses)],
        ),
        counter(
            "history_unreadable_total",
            "Blocks that could not be read when asked for.",
            &[(&[], usage.unreadable)],
        ),
    ];
    if archive.on {
        families.extend([
            gauge("history_disk_bytes", "Files of history.", archive.size),
            gauge("history_unstored_rows", "Rows that wait to be written.", archive.unstored_rows),
            counter("history_flushes_total", "Writes that went well.", &[(&[], archive.flushes)]),
            counter("history_written_bytes_total", "Bytes written, without merging.", &[(&[], archive.bytes)]),
            counter(
                "history_lost_rows_total",
                "Rows let go of before they could be written.",
                &[(&[], archive.lost_rows)],
            ),
        ]);
        let failed: Vec<_> = ["full", "read_only", "denied", "io"]
            .map(|reason| ([label("reason", reason)], archive.failed.get(reason).copied().unwrap_or(0)))
            .into();
        let failed: Vec<(&[LabelPair], u64)> = failed.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        families.push(counter("history_write_failures_total", "Writes that failed, and why.", &failed));
    }
    families
}

fn count(name: &str, help: &str, is_counter: bool, all: &[(&[LabelPair], u64)]) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("dropsonde_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(if is_counter { MetricType::COUNTER } else { MetricType::GAUGE });
    family.set_metric(all.iter().map(|(labels, value)| series(is_counter, *value as f64, labels)).collect());
    family
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

/// Looks at the time first: the row of an old frame may be in a file.
fn fresh(frame: &Frame, now_ms: i64) -> Option<Row> {
    let is_fresh = |at_ms| now_ms - at_ms <= STALE_INTERVALS * frame.interval_ms();
    frame.latest_at_ms().filter(|&at_ms| is_fresh(at_ms))?;
    frame.latest()
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
