//! All series of history, as other servers get them.

use super::field_index::Revisions;
use super::promql_source::{INSTANCE, PromqlSource};
use crate::Engine;
use dropsonde_store::FoundSeries;
use std::sync::Arc;

/// The state of the set of all series. Another state means that series, or their labels, may be others.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesState {
    fields: Revisions,
    store: u64,
    external_name: Arc<str>,
}

impl SeriesState {
    pub fn now(engine: &Engine) -> Self {
        Self {
            fields: Revisions::now(engine),
            store: engine.store.series_revision(),
            external_name: engine.options.load().external_name().into(),
        }
    }
}

/// Returns all series of history, in any order, with labels that are the same for no other host: those that a
/// Prometheus gives them that scrapes this host, and `instance` also for the results of rules.
pub fn exported(engine: &Engine) -> Vec<FoundSeries> {
    let source = PromqlSource::new(engine, usize::MAX);
    let own = source.own(INSTANCE).unwrap_or_default();
    let mut all = source.find_all();
    for series in all.iter_mut().filter(|series| series.labels.get(INSTANCE).is_none()) {
        let labels = series.labels.iter().chain([(INSTANCE, own)]);
        series.labels = labels.collect();
    }
    all
}
