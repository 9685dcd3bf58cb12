//! `metrics`: a plugin's own Prometheus metrics.
//!
//! * `descriptor`: the definition of a metric, with the rules for names and labels. `claims`: makes sure that a
//!   name means the same for every plugin.
//! * `series`: the recorded values.
//! * `handles`: the numbers by which an instance of a plugin refers to its metrics.

mod claims;
mod descriptor;
mod handles;
mod series;

pub use claims::{MetricClaim, MetricConflict, MetricNames};
pub use descriptor::{BadDescriptor, DEFAULT_BUCKETS, Descriptor, MetricKind, family};
pub use handles::MetricHandles;
pub use series::{MetricFamily, Series, SeriesReading};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of names, help and label values that a series may take on average.
const BYTES_PER_SERIES: usize = 512;

/// Bytes that a series or a family takes besides its texts, approximately.
const OVERHEAD: usize = 128;

/// Longest label value, in bytes.
const LONGEST_VALUE: usize = 256;

/// Most metrics of one plugin, regardless of their series.
const MOST_FAMILIES: usize = 1000;

/// The metrics of one worker, recorded by all instances of its plugin. They end with the worker.
#[derive(Debug, Clone)]
pub struct PluginMetrics(Arc<PluginMetricsInner>);

#[derive(Debug)]
struct PluginMetricsInner {
    plugin: Arc<str>,
    names: MetricNames,
    /// Most series.
    most: usize,
    table: Mutex<FamilyTable>,
    instances: AtomicU32,
    overflowed: AtomicU64,
    wrong_handles: AtomicU64,
    wrong_values: AtomicU64,
}

#[derive(Debug, Default)]
struct FamilyTable {
    /// Families by name. A counter and another metric whose names differ only by `_total` have the same name here.
    families: BTreeMap<String, Arc<MetricFamily>>,
    series: usize,
    bytes: usize,
}

/// Why a metric or a series was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// The name, a label or the buckets break a rule.
    #[error("{0}")]
    InvalidName(String),
    /// The name has another meaning already; or the handle or the number of label values is wrong.
    #[error("{0}")]
    Conflict(String),
    /// A limit is reached.
    #[error("at most {0} are allowed")]
    TooMany(usize),
}

impl Default for PluginMetrics {
    fn default() -> Self {
        Self::new("", MetricNames::default(), 10_000)
    }
}

impl PluginMetrics {
    /// Returns an empty set of metrics. `names` are the names of all the host's plugins, `most` is the limit of series.
    pub fn new(plugin: impl Into<Arc<str>>, names: MetricNames, most: usize) -> Self {
        Self(Arc::new(PluginMetricsInner {
            plugin: plugin.into(),
            names,
            most,
            table: Mutex::default(),
            instances: AtomicU32::new(0),
            overflowed: AtomicU64::new(0),
            wrong_handles: AtomicU64::new(0),
            wrong_values: AtomicU64::new(0),
        }))
    }

    /// Returns all families, sorted by name.
    pub fn families(&self) -> Vec<Arc<MetricFamily>> {
        self.lock().families.values().cloned().collect()
    }

    /// Returns the number of series as Prometheus counts them: each bucket of a histogram is one.
    pub fn series(&self) -> usize {
        self.lock().series
    }

    /// Returns the bytes that all metrics take: in memory, and as text for Prometheus.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Returns how often a metric or series was refused because of a limit.
    pub fn overflowed(&self) -> u64 {
        self.0.overflowed.load(Relaxed)
    }

    /// Returns how often a handle was not valid.
    /// Returns the limit of series.
    pub(crate) fn most(&self) -> usize {
        self.0.most
    }

    /// Counts values with wrong handles, which were ignored.
    pub(crate) fn ignore(&self, count: u64) {
        self.0.wrong_handles.fetch_add(count, Relaxed);
    }

    pub fn wrong_handles(&self) -> u64 {
        self.0.wrong_handles.load(Relaxed)
    }

    /// Returns how often a value was not valid for its metric.
    pub fn wrong_values(&self) -> u64 {
        self.0.wrong_values.load(Relaxed)
    }

    /// Makes all gauges unknown, because the instance that set them has ended.
    pub(crate) fn lose_gauges(&self) {
        for series in self.families().iter().flat_map(|family| family.series()) {
            series.lose();
        }
    }

    fn register(&self, descriptor: Descriptor) -> Result<Arc<MetricFamily>, NotRegistered> {
        let descriptor = descriptor.checked().map_err(|why| NotRegistered::InvalidName(why.to_string()))?;
        let mut table = self.lock();
        if let Some(family) = table.families.get(descriptor.family()) {
            let same = MetricConflict::check("this plugin", family.descriptor(), &descriptor);
            return same.map(|()| family.clone()).map_err(|why| NotRegistered::Conflict(why.to_string()));
        }
        if table.families.len() >= MOST_FAMILIES {
            return Err(self.overflow(MOST_FAMILIES));
        }
        let bytes = text(&descriptor);
        self.reserve(&mut table, 0, bytes)?;
        match self.0.names.claim(&self.0.plugin, descriptor) {
            Ok(claim) => {
                let family = Arc::new(MetricFamily::new(claim));
                table.families.insert(family.descriptor().family().to_owned(), family.clone());
                Ok(family)
            }
            Err(why) => {
                table.bytes -= bytes;
                Err(NotRegistered::Conflict(why.to_string()))
            }
        }
    }

    fn with_labels(&self, family: &MetricFamily, values: &[String]) -> Result<Arc<Series>, NotRegistered> {
        let labels = &family.descriptor().labels;
        if values.len() != labels.len() {
            let (name, given) = (&family.descriptor().name, values.len());
            return Err(NotRegistered::Conflict(format!("{given} values for the labels {labels:?} of {name}")));
        }
        if values.iter().any(|value| value.len() > LONGEST_VALUE) {
            return Err(self.overflow(LONGEST_VALUE));
        }
        let labels = family.labels(values);
        if let Some(series) = family.get(&labels) {
            return Ok(series);
        }
        self.reserve(
            &mut self.lock(),
            family.descriptor().series(),
            text_of_series(family.descriptor(), labels.len()),
        )?;
        Ok(family.add(labels))
    }

    /// Removes a metric and returns it, if there was one of this name.
    fn unregister(&self, name: &str) -> Option<Arc<MetricFamily>> {
        let mut table = self.lock();
        table.families.get(family(name)).filter(|known| known.descriptor().name == name)?;
        let family = table.families.remove(family(name))?;
        let series = family.series();
        table.series -= series.len() * family.descriptor().series();
        table.bytes -= text(family.descriptor());
        table.bytes -= series.iter().map(|one| text_of_series(family.descriptor(), one.labels().len())).sum::<usize>();
        Some(family)
    }

    fn reserve(&self, table: &mut FamilyTable, series: usize, bytes: usize) -> Result<(), NotRegistered> {
        if table.series + series > self.0.most || table.bytes + bytes > self.0.most.saturating_mul(BYTES_PER_SERIES) {
            return Err(self.overflow(self.0.most));
        }
        table.series += series;
        table.bytes += bytes;
        Ok(())
    }

    fn overflow(&self, most: usize) -> NotRegistered {
        self.0.overflowed.fetch_add(1, Relaxed);
        NotRegistered::TooMany(most)
    }

    fn lock(&self) -> MutexGuard<'_, FamilyTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the bytes that a series takes: in memory, and as text for Prometheus, where its name and labels are on each
/// line.
fn text_of_series(descriptor: &Descriptor, labels: usize) -> usize {
    /// A number, a bucket's bound, a suffix and punctuation.
    const REST: usize = 40;
    OVERHEAD + descriptor.series() * (descriptor.name.len() + labels + REST)
}

/// Returns the bytes that a descriptor takes.
fn text(descriptor: &Descriptor) -> usize {
    let labels: usize = descriptor.labels.iter().map(String::len).sum();
    OVERHEAD + descriptor.name.len() + descriptor.help.len() + labels + descriptor.buckets.len() * size_of::<f64>()
}
