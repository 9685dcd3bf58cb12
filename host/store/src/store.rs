use crate::{Column, Field, Frame, InstanceId, Points, Query, Sample, Schema};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Frames older than this many of their own intervals are left out of an instance's sample.
const STALE_INTERVALS: i64 = 3;

/// History by instance. Reading and writing different instances never wait for each other.
#[derive(Debug)]
pub struct Store {
    capacity: usize,
    instances: RwLock<HashMap<InstanceId, Arc<RwLock<Frames>>>>,
}

/// In order of their samplers' names: the earlier wins a field both have.
type Frames = Vec<Arc<Frame>>;

impl Store {
    /// `capacity`: rows per frame. 60 480 is a week at 10 s.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), instances: RwLock::default() }
    }

    /// The frame a sampler's readings of an instance go to; made when there is none of this schema.
    pub fn frame(&self, instance: &InstanceId, schema: &Schema, interval_ms: i64) -> Arc<Frame> {
        let frames =
            self.instances.write().unwrap_or_else(PoisonError::into_inner).entry(instance.clone()).or_default().clone();
        let mut frames = frames.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = frames.iter().find(|frame| frame.schema() == schema && frame.interval_ms() == interval_ms)
        {
            return frame.clone();
        }
        let frame = Arc::new(Frame::new(schema.clone(), interval_ms, self.capacity));
        frames.push(frame.clone());
        // Stable: of two frames of one sampler the newer stays behind.
        frames.sort_by(|a, b| a.schema().sampler().cmp(b.schema().sampler()));
        frame
    }

    /// The frames of an instance; empty when it was never measured.
    pub fn frames(&self, instance: &InstanceId) -> Vec<Arc<Frame>> {
        let frames = self.instances.read().unwrap_or_else(PoisonError::into_inner).get(instance).cloned();
        frames.map(|frames| frames.read().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// When an instance was last measured.
    pub fn latest_at_ms(&self, instance: &InstanceId) -> Option<i64> {
        self.frames(instance).iter().filter_map(|frame| frame.latest_at_ms()).max()
    }

    /// The newest values of an instance, its frames merged: `at` is the newest frame's; a frame more than three of its
    /// intervals older is left out.
    pub fn latest(&self, instance: &InstanceId) -> Option<Sample> {
        let frames = self.frames(instance);
        let rows: Vec<_> = frames.iter().filter_map(|frame| Some((frame, frame.latest()?))).collect();
        let at_ms = rows.iter().map(|(_, row)| row.at_ms).max()?;
        let mut values: Vec<(Arc<str>, f64)> = Vec::new();
        for (frame, row) in &rows {
            if at_ms - row.at_ms > STALE_INTERVALS * frame.interval_ms() {
                continue;
            }
            for (Field { name, .. }, &value) in frame.schema().fields().iter().zip(&row.values) {
                if !value.is_nan() && values.iter().all(|(earlier, _)| earlier != name) {
                    values.push((name.clone(), value));
                }
            }
        }
        Some(Sample { at_ms, values })
    }

    /// The buckets of a window that have a value, the instance's frames merged.
    pub fn range(&self, instance: &InstanceId, query: &Query) -> Points {
        let frames = self.frames(instance);
        let buckets: Vec<_> = frames.iter().map(|frame| (frame, frame.buckets(query))).collect();
        let mut at_ms: Vec<i64> = buckets.iter().flat_map(|(_, buckets)| buckets.at_ms.iter().copied()).collect();
        at_ms.sort_unstable();
        at_ms.dedup();
        let empty = || vec![f64::NAN; at_ms.len()];
        let mut columns: Vec<Column> = Vec::new();
        for (frame, buckets) in &buckets {
            for (index, cells) in &buckets.cells {
                let Some(field) = frame.schema().fields().get(*index) else { continue };
                let known = columns.iter().position(|column| column.name == field.name);
                let known = known.unwrap_or_else(|| {
                    columns.push(Column { name: field.name.clone(), values: empty(), min: empty(), max: empty() });
                    columns.len() - 1
                });
                if let Some(column) = columns.get_mut(known) {
                    merge(column, &at_ms, &buckets.at_ms, cells, field);
                }
            }
        }
        without_empty(Points { at_ms, columns })
    }

    /// Forgets an instance and its history.
    pub fn remove(&self, instance: &InstanceId) {
        self.instances.write().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }

    /// How many instances have history.
    pub fn len(&self) -> usize {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Fills a column's points from one frame's cells where an earlier frame left none.
fn merge(column: &mut Column, all_ms: &[i64], own_ms: &[i64], cells: &[crate::cell::Cell], field: &Field) {
    let mut own = own_ms.iter().zip(cells).peekable();
    let points = column.values.iter_mut().zip(&mut column.min).zip(&mut column.max);
    for (at, ((value, min), max)) in all_ms.iter().zip(points) {
        let Some((_, cell)) = own.next_if(|(own_at, _)| *own_at == at) else { continue };
        if value.is_nan() {
            (*value, *min, *max) = (cell.value(field.aggregation), cell.min, cell.max);
        }
    }
}

/// Leaves out the buckets in which nothing has a value.
fn without_empty(mut points: Points) -> Points {
    let keep: Vec<bool> = (0..points.at_ms.len())
        .map(|row| points.columns.iter().any(|column| column.values.get(row).is_some_and(|value| !value.is_nan())))
        .collect();
    if keep.iter().all(|&kept| kept) {
        return points;
    }
    fn retain<T>(column: &mut Vec<T>, keep: &[bool]) {
        let mut kept = keep.iter();
        column.retain(|_| kept.next().copied().unwrap_or(false));
    }
    retain(&mut points.at_ms, &keep);
    for Column { values, min, max, .. } in &mut points.columns {
        for column in [values, min, max] {
            retain(column, &keep);
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Aggregation, Kind};
    use proptest::prelude::*;

    fn host() -> InstanceId {
        InstanceId::new("host").unwrap()
    }

    fn gauges(sampler: &str, names: &[&str]) -> Schema {
        Schema::new(sampler, names.iter().map(|&name| Field::gauge(name)).collect())
    }

    #[test]
    fn the_earlier_sampler_wins_a_field_and_gaps_are_filled_by_the_later() {
        let store = Store::new(100);
        let a = store.frame(&host(), &gauges("a", &["x", "only_a"]), 1000);
        let b = store.frame(&host(), &gauges("b", &["x", "only_b"]), 1000);
        b.push(1000, &[20.0, 21.0]);
        a.push(1000, &[10.0, f64::NAN]);
        let sample = store.latest(&host()).unwrap();
        assert_eq!(sample.values, [("x".into(), 10.0), ("only_b".into(), 21.0)]);
        a.push(2000, &[f64::NAN, 11.0]);
        b.push(2000, &[22.0, f64::NAN]);
        let query = Query { since_ms: 0, until_ms: 5000, step_ms: 1000, ..Query::default() };
        assert_eq!(store.range(&host(), &query).column("x").unwrap().values, [10.0, 22.0]);
    }

    #[test]
    fn a_stale_frame_is_left_out_of_the_sample_but_not_of_history() {
        let store = Store::new(100);
        store.frame(&host(), &gauges("a", &["old"]), 1000).push(1000, &[1.0]);
        store.frame(&host(), &gauges("b", &["new"]), 1000).push(4001, &[2.0]);
        let sample = store.latest(&host()).unwrap();
        assert_eq!((sample.at_ms, sample.get("old"), sample.get("new")), (4001, None, Some(2.0)));
        let query = Query { since_ms: 0, until_ms: 5000, step_ms: 1000, ..Query::default() };
        assert_eq!(store.range(&host(), &query).at_ms, [1000, 4000]);
    }

    #[test]
    fn the_window_is_half_open_and_empty_buckets_are_skipped() {
        let store = Store::new(100);
        let frame = store.frame(&host(), &gauges("a", &["x"]), 1000);
        for at in [1000, 2000, 3000, 9000] {
            frame.push(at, &[at as f64]);
        }
        frame.push(10_000, &[f64::NAN]);
        let query = |since_ms, until_ms| Query { since_ms, until_ms, step_ms: 2000, ..Query::default() };
        assert_eq!(store.range(&host(), &query(1000, 9000)).at_ms, [0, 2000]);
        assert_eq!(store.range(&host(), &query(1000, 20_000)).at_ms, [0, 2000, 8000]);
        assert!(store.range(&host(), &query(9000, 1000)).is_empty());
        assert!(store.range(&InstanceId::new("nobody").unwrap(), &query(0, 1)).is_empty());
    }

    #[test]
    fn buckets_can_begin_at_the_windows_start() {
        let store = Store::new(100);
        let frame = store.frame(&host(), &gauges("a", &["x"]), 1000);
        for at in [1500, 2400, 2600] {
            frame.push(at, &[1.0]);
        }
        let query = Query { since_ms: 1500, until_ms: 9000, step_ms: 1000, align: crate::Align::Since, fields: None };
        assert_eq!(store.range(&host(), &query).at_ms, [1500, 2500]);
    }

    /// What `range` must give, said as plainly as possible.
    fn naive(rows: &[(i64, f64)], field: &Field, query: &Query) -> Vec<(i64, f64, f64, f64)> {
        let mut seen: Vec<(i64, f64)> = Vec::new();
        let mut before: Option<(i64, f64)> = None;
        for &(at, reading) in rows {
            let reading = field.keep(reading);
            let value = match field.kind {
                Kind::Gauge => reading,
                Kind::Counter { scale } => field.rate(scale, before, at, reading),
            };
            if !reading.is_nan() {
                before = Some((at, reading));
            }
            if !value.is_nan() && (query.since_ms..query.until_ms).contains(&at) {
                seen.push((query.bucket(at), value));
            }
        }
        let mut buckets: Vec<i64> = seen.iter().map(|(bucket, _)| *bucket).collect();
        buckets.dedup();
        let point = |bucket: i64| {
            let values: Vec<f64> = seen.iter().filter(|(b, _)| *b == bucket).map(|(_, value)| *value).collect();
            let sum: f64 = values.iter().sum();
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let value = match field.aggregation {
                Aggregation::Mean => sum / values.len() as f64,
                Aggregation::Min => min,
                Aggregation::Max => max,
                Aggregation::Last => values[values.len() - 1],
                Aggregation::Sum => sum,
            };
            (bucket, value, min, max)
        };
        buckets.into_iter().map(point).collect()
    }

    fn reading() -> impl Strategy<Value = f64> {
        prop_oneof![8 => -1e6..1e6f64, 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)]
    }

    fn field() -> impl Strategy<Value = Field> {
        use Aggregation::*;
        let kind = prop_oneof![Just(Kind::Gauge), Just(Kind::Counter { scale: 100.0 })];
        let aggregation = prop::sample::select(vec![Mean, Min, Max, Last, Sum]);
        (kind, aggregation, prop::sample::select(vec![0.0, 0.01, 1.0, 5.0]))
            .prop_map(|(kind, aggregation, precision)| Field { name: "x".into(), kind, aggregation, precision })
    }

    proptest! {
        #[test]
        fn range_agrees_with_the_plain_definition(
            field in field(),
            readings in prop::collection::vec((1i64..5000, reading()), 0..200),
            window in (0i64..400_000, 1i64..400_000),
            step_ms in 1i64..60_000,
            since in any::<bool>(),
        ) {
            let store = Store::new(1000);
            let frame = store.frame(&host(), &Schema::new("s", vec![field.clone()]), 1000);
            let mut at = 0;
            let rows: Vec<_> = readings.into_iter().map(|(gap, value)| { at += gap; (at, value) }).collect();
            for &(at, value) in &rows {
                frame.push(at, &[value]);
            }
            let align = if since { crate::Align::Since } else { crate::Align::Epoch };
            let (since_ms, length) = window;
            let query = Query { since_ms, until_ms: since_ms + length, step_ms, align, fields: None };
            let points = store.range(&host(), &query);
            let expected = naive(&rows, &field, &query);
            prop_assert_eq!(&points.at_ms, &expected.iter().map(|point| point.0).collect::<Vec<_>>());
            let column = &points.columns[0];
            for (i, (_, value, min, max)) in expected.into_iter().enumerate() {
                prop_assert!((column.values[i] - value).abs() <= 1e-9 * value.abs().max(1.0));
                prop_assert_eq!((column.min[i], column.max[i]), (min, max));
            }
        }
    }
}
