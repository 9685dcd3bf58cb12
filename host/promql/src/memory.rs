//! Series in memory, for tests and examples.

use crate::source::{QueryError, Request, Samples, Series, Source, Visit};
use dropsonde_model::Labels;
use std::collections::BTreeMap;

/// Series in memory.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    series: BTreeMap<String, (Labels, Vec<i64>, Vec<f64>)>,
}

impl MemorySource {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sample to a series. It replaces one with the same time.
    pub fn push(&mut self, labels: &Labels, at_ms: i64, value: f64) {
        let known = self.series.get_mut(labels.as_text());
        let series = match known {
            Some(series) => series,
            None => self
                .series
                .entry(labels.as_text().to_owned())
                .or_insert_with(|| (labels.clone(), Vec::new(), Vec::new())),
        };
        let (_, times, values) = series;
        match times.binary_search(&at_ms) {
            Ok(at) => {
                if let Some(known) = values.get_mut(at) {
                    *known = value;
                }
            }
            Err(at) => {
                times.insert(at, at_ms);
                values.insert(at, value);
            }
        }
    }

    pub fn clear(&mut self) {
        self.series.clear();
    }
}

impl Source for MemorySource {
    fn select(&self, request: &Request<'_>, visit: &mut Visit<'_>) -> Result<(), QueryError> {
        for (labels, times, values) in self.series.values() {
            let value = |name: &str| labels.get(name).unwrap_or_default();
            if !request.matchers.iter().all(|matcher| matcher.matches(value(&matcher.name))) {
                continue;
            }
            let until = times.partition_point(|at_ms| *at_ms <= request.until_ms);
            let after = times.partition_point(|at_ms| *at_ms <= request.after_ms);
            let after = if request.newest_only { after.max(until.saturating_sub(1)) } else { after };
            let samples = Samples {
                at_ms: times.get(after..until).unwrap_or_default(),
                values: values.get(after..until).unwrap_or_default(),
            };
            if !samples.at_ms.is_empty() {
                visit(Series { labels, samples, times: None, can_be_stale: true })?;
            }
        }
        Ok(())
    }
}
