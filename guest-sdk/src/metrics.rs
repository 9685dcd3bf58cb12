//! The plugin's own Prometheus metrics. The host adds the label `plugin`.
//!
//! ```
//! use dropsonde_guest::metrics::{self, Batch};
//!
//! # fn main() -> Result<(), metrics::RegisterError> {
//! let requests = metrics::counters("shop_requests_total", "Requests by page.", &["page"])?;
//! let stock = metrics::gauge("shop_stock", "Articles in stock.")?;
//! let start_page = requests.with(&["/"])?;
//! start_page.add(1.0);
//! stock.set(12.0);
//!
//! // Many at once cost less than one by one.
//! let mut batch = Batch::default();
//! batch.add(start_page, 3.0);
//! batch.set(stock, 9.0);
//! batch.record();
//! # assert_eq!(metrics::recorded("shop_requests_total", &["/"]), Some(4.0));
//! # Ok(())
//! # }
//! ```
//!
//! Register a metric in `init`, or when it is first needed: the same again returns the same metric. When an instance of
//! the plugin ends and the next one begins, counters and histograms keep their values. If the instance ended with an
//! error, its gauges are absent until they are set again. Natively, values are kept per thread, and `recorded` returns
//! them.

#[cfg(target_family = "wasm")]
use crate::glue::dropsonde::plugin::metrics as host;

use std::fmt;
use std::marker::PhantomData;

/// Most points passed to the host at once: they fit into what one call may pass.
const BATCH: usize = 4096;

/// Why a metric or a series was not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// The name, a label or the buckets break a rule; the text says which.
    InvalidName(String),
    /// The name has another meaning already, for this plugin or another one; or the number of label values is wrong.
    Conflict(String),
    /// A limit is reached: of series, of families, or of the bytes of a label value. The number is the limit.
    TooMany(u32),
}

/// A counter: a total that only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter(u32);

/// A gauge: a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge(u32);

/// A histogram: counts observed values by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram(u32);

/// A metric with labels: one [`Counter`], [`Gauge`] or [`Histogram`] for each set of label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family<T> {
    handle: u32,
    of: PhantomData<T>,
}

/// A batch of values to record together.
#[derive(Debug, Clone, Default)]
pub struct Batch(Vec<(u32, f64)>);

/// Registers a counter without labels. `name` ends in `_total`.
pub fn counter(name: &str, help: &str) -> Result<Counter, RegisterError> {
    counters(name, help, &[])?.with(&[])
}

pub fn counters(name: &str, help: &str, labels: &[&str]) -> Result<Family<Counter>, RegisterError> {
    register(name, help, host::MetricKind::Counter, labels, &[])
}

pub fn gauge(name: &str, help: &str) -> Result<Gauge, RegisterError> {
    gauges(name, help, &[])?.with(&[])
}

pub fn gauges(name: &str, help: &str, labels: &[&str]) -> Result<Family<Gauge>, RegisterError> {
    register(name, help, host::MetricKind::Gauge, labels, &[])
}

/// Registers a histogram without labels. `buckets` are upper bounds, ascending; if empty, they go from 5 ms to 10 s.
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, RegisterError> {
    histograms(name, help, &[], buckets)?.with(&[])
}

pub fn histograms(
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<Family<Histogram>, RegisterError> {
    register(name, help, host::MetricKind::Histogram, labels, buckets)
}

/// Removes a metric with all its series. Returns whether there was one of this name.
pub fn unregister(name: &str) -> bool {
    host::unregister(name)
}

/// Returns a natively recorded value: a counter's total, a gauge's value, or a histogram's sum.
#[cfg(not(target_family = "wasm"))]
pub fn recorded(name: &str, labels: &[&str]) -> Option<f64> {
    host::recorded(name, labels)
}

fn register<T>(
    name: &str,
    help: &str,
    kind: host::MetricKind,
    labels: &[&str],
    buckets: &[f64],
) -> Result<Family<T>, RegisterError> {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    let (name, help, buckets) = (name.to_owned(), help.to_owned(), buckets.to_vec());
    let handle = host::register(&host::Options { name, help, kind, labels, buckets })?;
    Ok(Family { handle, of: PhantomData })
}

// === impl Family ===

impl<T: Series> Family<T> {
    /// Returns the series with these label values, in the order of the labels.
    pub fn with(&self, values: &[&str]) -> Result<T, RegisterError> {
        let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        Ok(T::from_handle(host::with_labels(self.handle, &values)?))
    }
}

/// A [`Counter`], [`Gauge`] or [`Histogram`].
pub trait Series: Copy + sealed::Sealed {
    #[doc(hidden)]
    fn from_handle(handle: u32) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! series {
    ($($series:ident),*) => {
        $(
            impl sealed::Sealed for $series {}
            impl Series for $series {
                fn from_handle(handle: u32) -> Self {
                    Self(handle)
                }
            }
        )*
    };
}
series!(Counter, Gauge, Histogram);

// === impl Counter ===

impl Counter {
    /// Adds `by`, which must not be negative. The host ignores and counts any other value.
    pub fn add(self, by: f64) {
        host::record(self.0, by);
    }

    pub fn inc(self) {
        self.add(1.0);
    }
}

// === impl Gauge ===

impl Gauge {
    /// Sets the value. NaN means unknown.
    pub fn set(self, value: f64) {
        host::record(self.0, value);
    }
}

// === impl Histogram ===

impl Histogram {
    pub fn observe(self, value: f64) {
        host::record(self.0, value);
    }
}

// === impl Batch ===

impl Batch {
    pub fn add(&mut self, counter: Counter, by: f64) {
        self.0.push((counter.0, by));
    }

    pub fn set(&mut self, gauge: Gauge, value: f64) {
        self.0.push((gauge.0, value));
    }

    pub fn observe(&mut self, histogram: Histogram, value: f64) {
        self.0.push((histogram.0, value));
    }

    /// Passes all values to the host. The batch is empty afterwards and can be used again.
    pub fn record(&mut self) {
        for points in self.0.chunks(BATCH) {
            host::record_many(points);
        }
        self.0.clear();
    }
}

// === impl RegisterError ===

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName(why) | Self::Conflict(why) => f.write_str(why),
            Self::TooMany(most) => write!(f, "at most {most} are allowed"),
        }
    }
}

impl std::error::Error for RegisterError {}

impl From<host::RegisterError> for RegisterError {
    fn from(error: host::RegisterError) -> Self {
        match error {
            host::RegisterError::InvalidName(why) => Self::InvalidName(why),
            host::RegisterError::Conflict(why) => Self::Conflict(why),
            host::RegisterError::TooMany(most) => Self::TooMany(most),
        }
    }
}

/// A replacement of the host's functions, for one thread, without the host's rules for names.
#[cfg(not(target_family = "wasm"))]
mod host {
    use std::cell::RefCell;
    use std::collections::HashMap;

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(super) enum MetricKind {
        Counter,
        Gauge,
        Histogram,
    }

    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct Options {
        pub(super) name: String,
        pub(super) help: String,
        pub(super) kind: MetricKind,
        pub(super) labels: Vec<String>,
        pub(super) buckets: Vec<f64>,
    }

    /// The host's errors. This replacement returns only conflicts.
    #[allow(dead_code, reason = "as the host's own")]
    pub(super) enum RegisterError {
        InvalidName(String),
        Conflict(String),
        TooMany(u32),
    }

    #[derive(Default)]
    struct Metrics {
        families: Vec<Option<Options>>,
        handles: HashMap<(u32, Vec<String>), u32>,
        series: Vec<(u32, f64)>,
    }

    thread_local! {
        static METRICS: RefCell<Metrics> = RefCell::default();
    }

    pub(super) fn register(options: &Options) -> Result<u32, RegisterError> {
        METRICS.with_borrow_mut(|metrics| {
            let named = |known: &Option<Options>| known.as_ref().is_some_and(|known| known.name == options.name);
            match metrics.families.iter().position(named) {
                Some(index) if metrics.families.get(index).is_some_and(|known| known.as_ref() == Some(options)) => {
                    Ok(index as u32)
                }
                Some(_) => Err(RegisterError::Conflict(format!("{} has another meaning already", options.name))),
                None => {
                    metrics.families.push(Some(options.clone()));
                    Ok(metrics.families.len() as u32 - 1)
                }
            }
        })
    }

    pub(super) fn with_labels(family: u32, values: &[String]) -> Result<u32, RegisterError> {
        METRICS.with_borrow_mut(|metrics| {
            let known = metrics.families.get(family as usize).and_then(Option::as_ref);
            if known.is_none_or(|known| known.labels.len() != values.len()) {
                return Err(RegisterError::Conflict(format!("{} values do not fit the family's labels", values.len())));
            }
            let next = metrics.series.len() as u32;
            let handle = *metrics.handles.entry((family, values.to_vec())).or_insert(next);
            if handle == next {
                metrics.series.push((family, 0.0));
            }
            Ok(handle)
        })
    }

    pub(super) fn record(series: u32, value: f64) {
        METRICS.with_borrow_mut(|metrics| {
            let Some((family, recorded)) = metrics.series.get_mut(series as usize) else { return };
            match metrics.families.get(*family as usize) {
                Some(Some(family)) if family.kind == MetricKind::Gauge => *recorded = value,
                _ => *recorded += value,
            }
        });
    }

    pub(super) fn record_many(points: &[(u32, f64)]) {
        for &(series, value) in points {
            record(series, value);
        }
    }

    pub(super) fn unregister(name: &str) -> bool {
        METRICS.with_borrow_mut(|metrics| {
            let named = |known: &&mut Option<Options>| known.as_ref().is_some_and(|known| known.name == name);
            metrics.families.iter_mut().find(named).and_then(Option::take).is_some()
        })
    }

    pub(super) fn recorded(name: &str, labels: &[&str]) -> Option<f64> {
        METRICS.with_borrow(|metrics| {
            let named = |known: &Option<Options>| known.as_ref().is_some_and(|known| known.name == name);
            let family = metrics.families.iter().position(named)? as u32;
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            let series = *metrics.handles.get(&(family, labels))?;
            metrics.series.get(series as usize).map(|(_, value)| *value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natively_what_was_recorded_can_be_looked_at() {
        let pages = counters("pages_total", "Pages.", &["path"]).unwrap();
        pages.with(&["/"]).unwrap().inc();
        pages.with(&["/"]).unwrap().add(2.0);
        assert_eq!(recorded("pages_total", &["/"]), Some(3.0));
        assert_eq!(recorded("pages_total", &["/other"]), None);
        assert!(matches!(gauge("pages_total", "Pages."), Err(RegisterError::Conflict(_))));
        assert!(pages.with(&[]).is_err());
        let level = gauge("level", "Level.").unwrap();
        let mut batch = Batch::default();
        batch.set(level, 2.0);
        batch.set(level, 1.0);
        batch.record();
        assert_eq!(recorded("level", &[]), Some(1.0));
        assert!(unregister("level") && !unregister("level"));
        assert_eq!(recorded("level", &[]), None);
    }
}
