//! Values of instances that are told apart by labels, such as those of a scraped page. They become series in history.
//!
//! ```
//! use dropsonde_guest::series::{self, MetricType};
//!
//! # fn main() -> Result<(), series::DefineError> {
//! let get = series::define("requests_total", MetricType::Counter, "Requests.", &[("method", "GET")])?;
//! let post = series::define("requests_total", MetricType::Counter, "Requests.", &[("method", "POST")])?;
//! // In `sample`, for each instance that the host asks for:
//! series::report("web-1", &[(get, 128.0), (post, 7.0)]);
//! # assert_eq!(series::reported("web-1"), [("requests_total{method=\"GET\"}".to_owned(), 128.0), ("requests_total{method=\"POST\"}".to_owned(), 7.0)]);
//! # Ok(())
//! # }
//! ```
//!
//! Define a series when it is first needed: the same again returns the same handle. One handle serves all instances that
//! have the series; the host adds the labels of the instance, `id` and `sampler`. A series that one call of `sample` does
//! not report ends. Natively, reports are kept per thread, and `reported` returns them.

#[cfg(target_family = "wasm")]
use crate::glue::dropsonde::plugin::series as host;

use std::fmt;

/// Most points passed to the host at once: they fit into what one call may pass.
const BATCH: usize = 4096;

/// The type of the metric that a series belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// A running total.
    Counter,
    /// A level.
    Gauge,
    /// A part of a histogram: a bucket, the sum or the count, as running totals.
    Histogram,
    /// A part of a summary: a quantile, the sum or the count.
    Summary,
    Unknown,
}

/// A handle of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Series(u32);

/// Why a series was not defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefineError {
    /// The name or a label breaks a rule; the text says which.
    Invalid(String),
    /// The limit of series is reached; the number is the limit.
    TooMany(u32),
}

/// Defines a series, without the instance that it is about.
pub fn define(name: &str, metric_type: MetricType, help: &str, labels: &[(&str, &str)]) -> Result<Series, DefineError> {
    Ok(Series(host::define(&definition(name, metric_type, help, labels))?))
}

/// Defines a series whose labels replace those of the instance that have the same names, except `id` and `sampler`.
pub fn define_keeping_labels(
    name: &str,
    metric_type: MetricType,
    help: &str,
    labels: &[(&str, &str)],
) -> Result<Series, DefineError> {
    Ok(Series(host::define_keeping_labels(&definition(name, metric_type, help, labels))?))
}

fn definition(name: &str, metric_type: MetricType, help: &str, labels: &[(&str, &str)]) -> host::Definition {
    let metric_type = match metric_type {
        MetricType::Counter => host::MetricType::Counter,
        MetricType::Gauge => host::MetricType::Gauge,
        MetricType::Histogram => host::MetricType::Histogram,
        MetricType::Summary => host::MetricType::Summary,
        MetricType::Unknown => host::MetricType::Unknown,
    };
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    host::Definition { name: name.to_owned(), metric_type, help: help.to_owned(), labels }
}

/// Reports values of an instance that the host asks for. Several reports in one call of `sample` add up.
pub fn report(instance: &str, points: &[(Series, f64)]) {
    // So that an instance without any point ends its series, too.
    let mut left = points;
    loop {
        let (some, rest) = left.split_at(left.len().min(BATCH));
        let some: Vec<(u32, f64)> = some.iter().map(|(series, value)| (series.0, *value)).collect();
        host::report(instance, &some);
        left = rest;
        if left.is_empty() {
            return;
        }
    }
}

/// Returns what was reported natively of an instance, in the order of the reports, and forgets it.
#[cfg(not(target_family = "wasm"))]
pub fn reported(instance: &str) -> Vec<(String, f64)> {
    host::reported(instance)
}

// === impl DefineError ===

impl fmt::Display for DefineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::TooMany(most) => write!(f, "at most {most} are allowed"),
        }
    }
}

impl std::error::Error for DefineError {}

impl From<host::DefineError> for DefineError {
    fn from(error: host::DefineError) -> Self {
        match error {
            host::DefineError::Invalid(why) => Self::Invalid(why),
            host::DefineError::TooMany(most) => Self::TooMany(most),
        }
    }
}

/// A replacement of the host's functions, for one thread, without the host's rules for names.
#[cfg(not(target_family = "wasm"))]
mod host {
    use std::cell::RefCell;

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(super) enum MetricType {
        Counter,
        Gauge,
        Histogram,
        Summary,
        Unknown,
    }

    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct Definition {
        pub(super) name: String,
        pub(super) metric_type: MetricType,
        pub(super) help: String,
        pub(super) labels: Vec<(String, String)>,
    }

    /// The host's errors. This replacement returns none.
    #[allow(dead_code, reason = "as the host's own")]
    pub(super) enum DefineError {
        Invalid(String),
        TooMany(u32),
    }

    #[derive(Default)]
    struct Table {
        definitions: Vec<Definition>,
        reported: Vec<(String, u32, f64)>,
    }

    thread_local! {
        static TABLE: RefCell<Table> = RefCell::default();
    }

    pub(super) fn define(definition: &Definition) -> Result<u32, DefineError> {
        TABLE.with_borrow_mut(|table| {
            let is_it = |known: &Definition| known.name == definition.name && known.labels == definition.labels;
            let known = table.definitions.iter().position(is_it);
            Ok(known.unwrap_or_else(|| {
                table.definitions.push(definition.clone());
                table.definitions.len() - 1
            }) as u32)
        })
    }

    /// Here labels of instances are of no concern.
    pub(super) fn define_keeping_labels(definition: &Definition) -> Result<u32, DefineError> {
        define(definition)
    }

    pub(super) fn report(instance: &str, points: &[(u32, f64)]) {
        let points = points.iter().map(|(series, value)| (instance.to_owned(), *series, *value));
        TABLE.with_borrow_mut(|table| table.reported.extend(points));
    }

    pub(super) fn reported(instance: &str) -> Vec<(String, f64)> {
        TABLE.with_borrow_mut(|table| {
            let of_instance: Vec<_> = table.reported.extract_if(.., |(of, ..)| of == instance).collect();
            let named = of_instance.into_iter().filter_map(|(_, series, value)| {
                let Definition { name, labels, .. } = table.definitions.get(series as usize)?;
                let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
                let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
                Some((format!("{name}{labels}"), value))
            });
            named.collect()
        })
    }
}
