//! Metrics that the host itself, native services and plugins registered. Metrics of one name are one family.

use crate::tracked::PluginName;
use dropsonde_openmetrics::{ExpositionText, FamilyKind, label};
use dropsonde_sandbox::{MetricFamily, MetricKind, PluginMetrics, SeriesReading, family};
use prometheus::proto;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// All series of one name.
#[derive(Default)]
struct RegisteredFamily {
    native: Vec<proto::MetricFamily>,
    /// Each with the position of its plugin.
    of_plugins: Vec<(usize, Arc<MetricFamily>)>,
}

/// A plugin whose series are written.
struct Registrant {
    /// The label that names it.
    label: String,
    /// The bytes of series that may still be written.
    left: u64,
}

/// Writes all families, sorted by name. With each plugin: the bytes of its series that are written; it may be some more.
pub(super) fn write(
    native: impl IntoIterator<Item = proto::MetricFamily>,
    of_plugins: impl IntoIterator<Item = (PluginName, PluginMetrics, u64)>,
    text: &mut ExpositionText,
) {
    let mut plugins = Vec::new();
    let mut families: BTreeMap<String, RegisteredFamily> = BTreeMap::new();
    for native in native {
        families.entry(family(native.name()).to_owned()).or_default().native.push(native);
    }
    for (name, metrics, left) in of_plugins {
        let mut labels = Vec::new();
        label(&mut labels, "plugin", &name);
        for metric in metrics.families() {
            let family = families.entry(metric.descriptor().family().to_owned()).or_default();
            family.of_plugins.push((plugins.len(), metric));
        }
        plugins.push(Registrant { label: String::from_utf8(labels).unwrap_or_default(), left });
    }
    for family in families.values() {
        write_family(family, &mut plugins, text);
    }
}

fn write_family(family: &RegisteredFamily, plugins: &mut [Registrant], text: &mut ExpositionText) {
    let native = family.native.iter().map(|native| (native.name(), native.help(), kind_of(native)));
    let of_plugins = family.of_plugins.iter().map(|(_, metric)| {
        let descriptor = metric.descriptor();
        (descriptor.name.as_str(), descriptor.help.as_str(), kind_of_plugins(descriptor.kind))
    });
    // All agree, except metrics that were registered past the registry's own rules. Then the first one decides.
    let Some((name, help, kind)) = native.chain(of_plugins).next() else { return };
    if kind == FamilyKind::Unknown {
        return;
    }
    let mut is_there = false;
    // A series must not appear twice.
    let mut written = HashSet::new();
    for native in family.native.iter().filter(|native| kind_of(native) == kind && native.name() == name) {
        for series in native.get_metric() {
            let labels = labels(series);
            if !written.contains(&labels) {
                begin(&mut is_there, text, name, help, kind);
                write_native(text, name, kind, &labels, series);
                written.insert(labels);
            }
        }
    }
    for (nth, metric) in &family.of_plugins {
        let descriptor = metric.descriptor();
        let Some(plugin) = plugins.get_mut(*nth) else { continue };
        if kind_of_plugins(descriptor.kind) != kind || descriptor.name != name {
            continue;
        }
        for series in metric.series() {
            if plugin.left == 0 {
                break;
            }
            let (labels, before) = ([plugin.label.as_str(), series.labels()], text.bytes.len());
            match series.read() {
                SeriesReading::Number(value) if value.is_nan() => {}
                SeriesReading::Number(value) => {
                    begin(&mut is_there, text, name, help, kind);
                    text.sample(&[name], &labels, value);
                }
                SeriesReading::Histogram { buckets, sum } => {
                    begin(&mut is_there, text, name, help, kind);
                    text.histogram(name, &labels, &descriptor.buckets, &buckets, sum);
                }
            }
            if plugin.left < u64::MAX {
                plugin.left = plugin.left.saturating_sub((text.bytes.len() - before) as u64);
            }
        }
    }
}

/// Writes the head of a family before its first series, so that a family without series is left out.
fn begin(is_there: &mut bool, text: &mut ExpositionText, name: &str, help: &str, kind: FamilyKind) {
    if !std::mem::replace(is_there, true) {
        text.family(name, help, kind);
    }
}

fn labels(series: &proto::Metric) -> String {
    let mut labels = Vec::new();
    for pair in series.get_label() {
        if !labels.is_empty() {
            labels.push(b',');
        }
        label(&mut labels, pair.name(), pair.value());
    }
    String::from_utf8(labels).unwrap_or_default()
}

fn write_native(text: &mut ExpositionText, name: &str, kind: FamilyKind, labels: &str, series: &proto::Metric) {
    match kind {
        FamilyKind::Counter => text.sample(&[name], &[labels], series.get_counter().get_value()),
        FamilyKind::Gauge => text.sample(&[name], &[labels], series.get_gauge().get_value()),
        // `write_family` leaves these out.
        FamilyKind::Unknown => {}
        FamilyKind::Histogram => {
            let histogram = series.get_histogram();
            let mut bounds: Vec<f64> = histogram.get_bucket().iter().map(|bucket| bucket.upper_bound()).collect();
            let cumulative: Vec<u64> = histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count()).collect();
            let before = std::iter::once(0).chain(cumulative.iter().copied());
            let mut buckets: Vec<u64> =
                cumulative.iter().zip(before).map(|(all, before)| all.saturating_sub(before)).collect();
            bounds.pop_if(|last| *last == f64::INFINITY);
            if buckets.len() == bounds.len() {
                let counted = cumulative.last().copied().unwrap_or(0);
                buckets.push(histogram.get_sample_count().saturating_sub(counted));
            }
            text.histogram(name, &[labels], &bounds, &buckets, histogram.get_sample_sum());
        }
        FamilyKind::Summary => {
            let summary = series.get_summary();
            for quantile in summary.get_quantile() {
                let at = format!("quantile=\"{:?}\"", quantile.quantile());
                text.sample(&[name], &[labels, &at], quantile.value());
            }
            text.sample(&[name, "_sum"], &[labels], summary.sample_sum());
            text.sample(&[name, "_count"], &[labels], summary.sample_count() as f64);
        }
    }
}

fn kind_of(family: &proto::MetricFamily) -> FamilyKind {
    match family.get_field_type() {
        proto::MetricType::COUNTER => FamilyKind::Counter,
        proto::MetricType::GAUGE => FamilyKind::Gauge,
        proto::MetricType::HISTOGRAM => FamilyKind::Histogram,
        proto::MetricType::SUMMARY => FamilyKind::Summary,
        proto::MetricType::UNTYPED => FamilyKind::Unknown,
    }
}

fn kind_of_plugins(kind: MetricKind) -> FamilyKind {
    match kind {
        MetricKind::Counter => FamilyKind::Counter,
        MetricKind::Gauge => FamilyKind::Gauge,
        MetricKind::Histogram => FamilyKind::Histogram,
    }
}
