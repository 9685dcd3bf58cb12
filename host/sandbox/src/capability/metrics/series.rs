use super::claims::MetricClaim;
use super::descriptor::{Descriptor, MetricKind};
use dropsonde_model::text::is_harmful;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One metric of a plugin with all its series.
#[derive(Debug)]
pub struct MetricFamily {
    claim: MetricClaim,
    by_labels: Mutex<HashMap<Box<str>, Arc<Series>>>,
    /// The family's handle in one instance of the plugin.
    pub(super) handle: Handle,
}

/// One set of label values, with the recorded value.
#[derive(Debug)]
pub struct Series {
    labels: Box<str>,
    value: SeriesValue,
    pub(super) handle: Handle,
}

/// A value. Only the plugin's thread writes it; any thread may read it.
#[derive(Debug)]
enum SeriesValue {
    Counter(AtomicU64),
    Gauge(AtomicU64),
    Histogram {
        bounds: Arc<Descriptor>,
        /// The count of each bucket, the infinite one last; not cumulative.
        buckets: Box<[AtomicU64]>,
        sum: AtomicU64,
    },
}

/// The value of a series when it was read.
#[derive(Debug, Clone, PartialEq)]
pub enum SeriesReading {
    /// The number of a counter or gauge. NaN: the gauge is not set.
    Number(f64),
    /// The observations in each bucket, the infinite one last, not cumulative; and their sum.
    Histogram { buckets: Vec<u64>, sum: f64 },
}

/// A handle that is valid in one instance of the plugin only.
#[derive(Debug, Default)]
pub(super) struct Handle(AtomicU64);

// === impl Handle ===

impl Handle {
    pub(super) fn get(&self, instance: u32) -> Option<u32> {
        let both = self.0.load(Relaxed);
        // Instances count from 1, so 0 means no handle.
        (both >> 32 == u64::from(instance)).then_some(both as u32)
    }

    pub(super) fn set(&self, instance: u32, handle: u32) {
        self.0.store(u64::from(instance) << 32 | u64::from(handle), Relaxed);
    }
}

// === impl MetricFamily ===

impl MetricFamily {
    pub(super) fn new(claim: MetricClaim) -> Self {
        Self { claim, by_labels: Mutex::default(), handle: Handle::default() }
    }

    pub fn descriptor(&self) -> &Arc<Descriptor> {
        self.claim.descriptor()
    }

    /// Returns all series, sorted by their labels.
    pub fn series(&self) -> Vec<Arc<Series>> {
        let mut series: Vec<_> = self.lock().values().cloned().collect();
        series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        series
    }

    pub(super) fn get(&self, labels: &str) -> Option<Arc<Series>> {
        self.lock().get(labels).cloned()
    }

    pub(super) fn add(&self, labels: Box<str>) -> Arc<Series> {
        let series = Arc::new(Series::new(self.descriptor(), labels.clone()));
        self.lock().insert(labels, series.clone());
        series
    }

    /// Returns the labels as `key="value",…`, escaped and in one line, as both text formats have them.
    pub(super) fn labels(&self, values: &[String]) -> Box<str> {
        let mut labels = String::new();
        for (key, value) in self.descriptor().labels.iter().zip(values) {
            if !labels.is_empty() {
                labels.push(',');
            }
            let _ = write!(labels, "{key}=\"");
            for c in value.chars() {
                match c {
                    '"' | '\\' => labels.extend(['\\', c]),
                    '\n' => labels.push_str("\\n"),
                    c if is_harmful(c) => labels.push('\u{fffd}'),
                    c => labels.push(c),
                }
            }
            labels.push('"');
        }
        labels.into()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Series>>> {
        self.by_labels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Series ===

impl Series {
    fn new(descriptor: &Arc<Descriptor>, labels: Box<str>) -> Self {
        let value = match descriptor.kind {
            MetricKind::Counter => SeriesValue::Counter(AtomicU64::new(0.0_f64.to_bits())),
            MetricKind::Gauge => SeriesValue::Gauge(AtomicU64::new(f64::NAN.to_bits())),
            MetricKind::Histogram => SeriesValue::Histogram {
                bounds: descriptor.clone(),
                buckets: (0..=descriptor.buckets.len()).map(|_| AtomicU64::new(0)).collect(),
                sum: AtomicU64::new(0.0_f64.to_bits()),
            },
        };
        Self { labels, value, handle: Handle::default() }
    }

    /// Returns the labels as `key="value",…`, escaped; empty if there are none.
    pub fn labels(&self) -> &str {
        &self.labels
    }

    pub fn read(&self) -> SeriesReading {
        match &self.value {
            SeriesValue::Counter(bits) | SeriesValue::Gauge(bits) => {
                SeriesReading::Number(f64::from_bits(bits.load(Relaxed)))
            }
            SeriesValue::Histogram { buckets, sum, .. } => SeriesReading::Histogram {
                buckets: buckets.iter().map(|bucket| bucket.load(Relaxed)).collect(),
                sum: f64::from_bits(sum.load(Relaxed)),
            },
        }
    }

    /// Adds to a counter, sets a gauge, or observes a value for a histogram. Returns false if the value is not valid
    /// for the metric.
    pub(super) fn record(&self, value: f64) -> bool {
        let add = |total: &AtomicU64| {
            let sum = f64::from_bits(total.load(Relaxed)) + value;
            if sum.is_finite() {
                // No other thread writes.
                total.store(sum.to_bits(), Relaxed);
            }
            sum.is_finite()
        };
        match &self.value {
            SeriesValue::Counter(total) => value >= 0.0 && add(total),
            SeriesValue::Gauge(bits) => {
                bits.store(value.to_bits(), Relaxed);
                true
            }
            SeriesValue::Histogram { bounds, buckets, sum } => {
                if value.is_nan() || !add(sum) {
                    return false;
                }
                let bucket = bounds.buckets.partition_point(|bound| *bound < value);
                if let Some(bucket) = buckets.get(bucket) {
                    bucket.store(bucket.load(Relaxed) + 1, Relaxed);
                }
                true
            }
        }
    }

    /// Makes a gauge unknown; other kinds keep their values.
    pub(super) fn lose(&self) {
        if let SeriesValue::Gauge(bits) = &self.value {
            bits.store(f64::NAN.to_bits(), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::metrics::MetricNames;

    fn family(kind: MetricKind, buckets: &[f64]) -> MetricFamily {
        let name = if kind == MetricKind::Counter { "x_total" } else { "x" }.to_owned();
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let descriptor = Descriptor { name, help: "Help.".to_owned(), kind, labels, buckets: buckets.to_vec() };
        MetricFamily::new(MetricNames::default().claim(&"p".into(), descriptor.checked().unwrap()).unwrap())
    }

    #[test]
    fn labels_cannot_leave_their_quotes() {
        let values = ["\"} 1\nforged 2\r\u{2028}".to_owned(), "a\\".to_owned()];
        assert_eq!(
            &*family(MetricKind::Gauge, &[]).labels(&values),
            "a=\"\\\"} 1\\nforged 2\u{fffd}\u{fffd}\",b=\"a\\\\\""
        );
    }

    #[test]
    fn a_counter_only_grows_and_stays_a_number() {
        let series = family(MetricKind::Counter, &[]).add("".into());
        assert!(series.record(2.0) && series.record(0.5));
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(!series.record(bad), "{bad}");
        }
        assert!(series.record(f64::MAX));
        assert!(!series.record(f64::MAX), "more than a number can be");
        assert_eq!(series.read(), SeriesReading::Number(f64::MAX + 2.5));
    }

    #[test]
    fn a_gauge_is_unknown_until_it_is_set_and_once_it_is_lost() {
        let series = family(MetricKind::Gauge, &[]).add("".into());
        let is_unknown = || matches!(series.read(), SeriesReading::Number(value) if value.is_nan());
        assert!(is_unknown());
        assert!(series.record(-3.0));
        assert_eq!(series.read(), SeriesReading::Number(-3.0));
        series.lose();
        assert!(is_unknown());
    }

    #[test]
    fn a_value_on_a_bound_is_in_its_bucket() {
        let series = family(MetricKind::Histogram, &[1.0, 2.0]).add("".into());
        for value in [0.0, 1.0, 1.5, 2.0, 9.0] {
            assert!(series.record(value));
        }
        assert!(!series.record(f64::NAN) && !series.record(f64::INFINITY));
        assert_eq!(series.read(), SeriesReading::Histogram { buckets: vec![2, 2, 1], sum: 13.5 });
    }
}
