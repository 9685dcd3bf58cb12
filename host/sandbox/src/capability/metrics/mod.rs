//! `metrics`: a plugin's own Prometheus metrics.
//!
//! * `descriptor`: what a metric is, and what names and labels are taken; `names`: that it is the same for everyone.
//! * `series`: what was recorded.
//! * `handles`: the numbers one instance of a plugin knows them by.

mod descriptor;
mod handles;
mod names;
mod series;

pub use descriptor::{BadDescriptor, DEFAULT_BUCKETS, Descriptor, MetricKind, family};
pub use handles::MetricHandles;
pub use names::{Claim, Conflict, MetricNames};
pub use series::{MetricFamily, Recorded, Series};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What names, help and label values of one series may take on average, in bytes.
const BYTES_PER_SERIES: usize = 512;

/// What a series or a family takes beside its texts, about.
const OVERHEAD: usize = 128;

/// In bytes: longer ones are no labels but texts.
const LONGEST_VALUE: usize = 256;

/// Metrics of one plugin, whatever their series.
const MOST_FAMILIES: usize = 1000;

/// The metrics of one worker, whichever instance of the plugin recorded them. They end with it.
#[derive(Debug, Clone)]
pub struct PluginMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plugin: Arc<str>,
    names: MetricNames,
    /// How many series there may be.
    most: usize,
    table: Mutex<Table>,
    instances: AtomicU32,
    overflowed: AtomicU64,
    wrong_handles: AtomicU64,
    wrong_values: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// By the name of the family: a counter and another that differ by `_total` are one.
    families: BTreeMap<String, Arc<MetricFamily>>,
    series: usize,
    bytes: usize,
}

/// Why nothing was registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// The name, a label or the buckets are not taken, and why.
    #[error("{0}")]
    InvalidName(String),
    /// The name means something else already; or these are not the family's labels.
    #[error("{0}")]
    Conflict(String),
    /// So many are taken at most.
    #[error("at most {0} are taken")]
    TooMany(usize),
}

impl Default for PluginMetrics {
    fn default() -> Self {
        Self::new("", MetricNames::default(), 10_000)
    }
}

impl PluginMetrics {
    /// None yet. `names` are those of all the host's plugins, `most` is how many series there may be.
    pub fn new(plugin: impl Into<Arc<str>>, names: MetricNames, most: usize) -> Self {
        Self(Arc::new(Inner {
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

    /// By name.
    pub fn families(&self) -> Vec<Arc<MetricFamily>> {
        self.lock().families.values().cloned().collect()
    }

    /// As Prometheus counts them: each bucket of a histogram is one.
    pub fn series(&self) -> usize {
        self.lock().series
    }

    /// How often something was refused because there was too much already.
    pub fn overflowed(&self) -> u64 {
        self.0.overflowed.load(Relaxed)
    }

    /// How often a handle meant nothing.
    pub fn wrong_handles(&self) -> u64 {
        self.0.wrong_handles.load(Relaxed)
    }

    /// How often a value meant nothing for its metric.
    pub fn wrong_values(&self) -> u64 {
        self.0.wrong_values.load(Relaxed)
    }

    /// The instance that set the gauges is no more, and nobody knows what they would be.
    pub(crate) fn lose_gauges(&self) {
        for series in self.families().iter().flat_map(|family| family.series()) {
            series.lose();
        }
    }

    fn register(&self, descriptor: Descriptor) -> Result<Arc<MetricFamily>, NotRegistered> {
        let descriptor = descriptor.checked().map_err(|why| NotRegistered::InvalidName(why.to_string()))?;
        let mut table = self.lock();
        if let Some(family) = table.families.get(descriptor.family()) {
            let same = Conflict::check("this plugin", family.descriptor(), &descriptor);
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
        self.reserve(&mut self.lock(), family.descriptor().series(), labels.len() + OVERHEAD)?;
        Ok(family.add(labels))
    }

    /// What it was, if it was there.
    fn unregister(&self, name: &str) -> Option<Arc<MetricFamily>> {
        let mut table = self.lock();
        table.families.get(family(name)).filter(|known| known.descriptor().name == name)?;
        let family = table.families.remove(family(name))?;
        let series = family.series();
        table.series -= series.len() * family.descriptor().series();
        table.bytes -= text(family.descriptor());
        table.bytes -= series.iter().map(|series| series.labels().len() + OVERHEAD).sum::<usize>();
        Some(family)
    }

    fn reserve(&self, table: &mut Table, series: usize, bytes: usize) -> Result<(), NotRegistered> {
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

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes a descriptor keeps.
fn text(descriptor: &Descriptor) -> usize {
    let labels: usize = descriptor.labels.iter().map(String::len).sum();
    OVERHEAD + descriptor.name.len() + descriptor.help.len() + labels + descriptor.buckets.len() * size_of::<f64>()
}
