//! History, as the rules of one group read and write it.

use super::{GroupId, INSTANCE_OF_RULES};
use crate::Engine;
use crate::series::PromqlSource;
use dropsonde_model::{Labels, MetricType};
use dropsonde_promql::{Limits, QueryError, Request, Source, Visit};
use dropsonde_rules::Storage;
use dropsonde_store::{GroupKey, InstanceId, InvalidInstanceId, SeriesGroup, is_stale};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The series of a group, one [`SeriesGroup`] for each stage.
#[derive(Debug)]
pub(super) struct GroupSeries {
    instance: InstanceId,
    id: GroupId,
    interval_ms: i64,
    stages: Vec<SeriesGroup>,
}

/// History during an evaluation.
pub(super) struct HistoryStorage<'a> {
    pub(super) source: PromqlSource<'a>,
    pub(super) engine: &'a Engine,
    pub(super) series: Mutex<&'a mut GroupSeries>,
    pub(super) cancelled: &'a AtomicBool,
}

impl GroupSeries {
    pub(super) fn new(id: GroupId, interval_ms: i64) -> Result<Self, InvalidInstanceId> {
        Ok(Self { instance: InstanceId::new(INSTANCE_OF_RULES)?, id, interval_ms, stages: Vec::new() })
    }

    /// Returns the series of a stage.
    fn stage(&mut self, engine: &Engine, stage: usize) -> Option<&mut SeriesGroup> {
        while self.stages.len() <= stage {
            let key = GroupKey {
                instance: self.instance.clone(),
                group: format!("{};{}", self.id, self.stages.len()).into(),
                owner: INSTANCE_OF_RULES.into(),
                interval_ms: self.interval_ms,
            };
            self.stages.push(engine.store.series_group(key));
        }
        self.stages.get_mut(stage)
    }

    /// Lets another group go on with the series, or ends them at a time.
    pub(super) fn end(&mut self, at_ms: Option<i64>) {
        for mut stage in self.stages.drain(..) {
            at_ms.into_iter().for_each(|at_ms| stage.end(at_ms));
        }
    }
}

impl Source for HistoryStorage<'_> {
    fn select(&self, request: &Request<'_>, visit: &mut Visit<'_>) -> Result<(), QueryError> {
        self.source.select(request, visit)
    }
}

impl Storage for HistoryStorage<'_> {
    fn write(&self, stage: usize, at_ms: i64, samples: &[(Labels, f64)]) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = series.stage(self.engine, stage) else { return };
        // A series that gets no sample has ended, so its stale mark need not be written.
        let current = samples.iter().filter(|(_, value)| !is_stale(*value));
        let known = current.filter_map(|(labels, value)| Some((group.series(labels, MetricType::Gauge).ok()?, *value)));
        let samples: Vec<_> = known.collect();
        let report = group.push(at_ms, &samples);
        if report.refused > 0 {
            self.engine.metrics.rules.samples_refused.inc_by(report.refused);
        }
    }

    fn limits(&self) -> Limits<'_> {
        let query = self.engine.options.load().query.clone();
        Limits {
            samples: Some(query.max_samples),
            memory: None,
            series: Some(query.max_series),
            until: Some(Instant::now() + query.timeout.get()),
            cancelled: Some(self.cancelled),
        }
    }
}
