//! Workloads: instances with the same `workload` label, taken together. Totals are summed; other fields are averaged
//! over the instances that report them. The unit and the aggregation that a sampler declares decide which fields are
//! summed.

use crate::plugins::{Fields, Plugins};
use dropsonde_store::{Aggregation, FieldPoints, Frame, InstanceId, Points, Query, Sample, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The field with the number of instances that a value covers.
pub const REPLICAS: &str = "replica_count";

/// The fields of which values of several instances are added up.
#[derive(Debug, Default)]
struct FieldSums {
    names: Vec<Arc<str>>,
    by_name: BTreeMap<Arc<str>, usize>,
}

/// For each of the [`FieldSums::names`], a sum and the number of values in it.
type SumRow = Vec<(f64, u32)>;

/// For each field, a frame that has it. Its values are rounded as that frame declares.
#[derive(Debug, Default)]
struct Roundings(BTreeMap<Arc<str>, Arc<Frame>>);

/// Returns the newest samples of a workload's instances as one sample; none if there are none.
pub(crate) fn latest<'a>(
    store: &Store,
    declared: &DeclaredFields,
    members: impl Iterator<Item = &'a InstanceId>,
) -> Option<Sample> {
    let mut roundings = Roundings::default();
    let latest = members.filter_map(|id| {
        let sample = store.latest(id).filter(|sample| !sample.values.is_empty())?;
        let frames = store.frames(id);
        roundings.learn(&frames);
        let newest = frames.iter().max_by_key(|frame| (frame.last_write(), frame.latest_at_ms()))?;
        Some((sample, newest.stale_after_ms(), newest.last_write()))
    });
    let latest: Vec<(Sample, i64, u64)> = latest.collect();
    // The time of the sample that was written last, whatever the wall clock was then.
    let at_ms = latest.iter().map(|(sample, _, write)| (*write, sample.at_ms)).max()?.1;
    // A stale sample is no part of the workload's latest one.
    let is_fresh = |(sample, stale_after_ms, _): &&(Sample, i64, u64)| {
        at_ms.saturating_sub(sample.at_ms).saturating_abs() <= *stale_after_ms
    };
    let (mut sums, mut row, mut count) = (FieldSums::default(), SumRow::new(), 0_u32);
    for (sample, ..) in latest.iter().filter(is_fresh) {
        count += 1;
        sample.values.iter().for_each(|(name, value)| sums.add(&mut row, name, *value));
    }
    let values = sums.names.iter().zip(&row).map(|(name, cell)| (name.clone(), declared.together(name).value(*cell)));
    let values = values.chain([(REPLICAS.into(), f64::from(count))]).collect();
    let mut sample = Sample { at_ms, values };
    sample.values.iter_mut().for_each(|(name, value)| roundings.round(name, std::slice::from_mut(value)));
    Some(sample)
}

/// Returns a window of a workload. Each bucket covers the instances that have a value there. `points`: returns those of
/// an instance.
pub fn range<'a>(
    store: &Store,
    declared: &DeclaredFields,
    members: impl Iterator<Item = &'a InstanceId>,
    query: &Query,
    points: impl Fn(&InstanceId, &Query) -> Points,
) -> Points {
    let is_asked = |name: &str| query.fields.as_ref().is_none_or(|fields| fields.iter().any(|field| field == name));
    // To count instances, all of their fields are needed.
    let all = Query { fields: query.fields.clone().filter(|_| !is_asked(REPLICAS)), ..query.clone() };
    let mut sums = FieldSums::default();
    let mut rows: BTreeMap<i64, (SumRow, u32)> = BTreeMap::new();
    let mut roundings = Roundings::default();
    for id in members {
        roundings.learn(&store.frames(id));
        let points = points(id, &all);
        for (nth, at_ms) in points.at_ms.iter().enumerate() {
            let (row, count) = rows.entry(*at_ms).or_default();
            *count += 1;
            for column in &points.columns {
                if let Some(value) = column.values.get(nth).filter(|value| !value.is_nan()) {
                    sums.add(row, &column.name, *value);
                }
            }
        }
    }
    let of = |index: usize, name: &Arc<str>| {
        let together = declared.together(name);
        let cell = |row: &SumRow| row.get(index).map_or(f64::NAN, |cell| together.value(*cell));
        rows.values().map(|(row, _)| cell(row)).collect()
    };
    let column = |name: Arc<str>, values| FieldPoints { name, values, min: Vec::new(), max: Vec::new() };
    let mut columns: Vec<_> =
        sums.names.iter().enumerate().map(|(index, name)| column(name.clone(), of(index, name))).collect();
    columns.push(column(REPLICAS.into(), rows.values().map(|(_, count)| f64::from(*count)).collect()));
    columns.retain(|column| is_asked(&column.name));
    columns.iter_mut().for_each(|column| roundings.round(&column.name, &mut column.values));
    Points { at_ms: rows.into_keys().collect(), columns }
}

/// The fields that the samplers of a workload's instances declare.
#[derive(Debug, Default)]
pub struct DeclaredFields(Vec<Fields>);

/// The way in which the values of several instances are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combination {
    Sum,
    Mean,
}

impl DeclaredFields {
    /// Collects the fields of the samplers that have measured these instances, as far as the samplers are loaded.
    pub fn of<'a>(store: &Store, plugins: &Plugins, members: impl Iterator<Item = &'a InstanceId>) -> Self {
        let samplers: BTreeSet<Arc<str>> =
            members.flat_map(|id| store.frames(id)).map(|frame| frame.schema().sampler().clone()).collect();
        Self(samplers.iter().filter_map(|sampler| plugins.get(sampler)?.fields()).collect())
    }

    fn together(&self, name: &str) -> Combination {
        let declared = self.0.iter().find_map(|Fields { schema, units, .. }| {
            let nth = schema.fields().iter().position(|field| &*field.name == name)?;
            Some((schema.fields().get(nth)?.aggregation, units.get(nth)?.as_str()))
        });
        match declared {
            Some((aggregation, unit)) => Combination::of(name, aggregation, unit),
            // The field's sampler is not loaded, or has other fields by now.
            None => Combination::by_name(name),
        }
    }
}

impl Combination {
    /// Decides by what is declared of a field. The first row that fits counts:
    ///
    /// | field | together |
    /// |---|---|
    /// | its unit is a share, and its name begins with `cpu_` | sum: the use of several processors adds up |
    /// | its aggregation is `sum` | sum |
    /// | its unit is a rate (`MB/s`, `bytes/s`, `requests per second`) | sum |
    /// | its unit is a share (`percent`, `ratio`) | mean |
    /// | its unit is a time (`ms`, `seconds`), or a temperature (`celsius`) | mean |
    /// | it has any other unit (`MiB`, `bytes`, `processes`) | sum |
    /// | it has no unit | as its name says: see [`by_name`](Self::by_name) |
    fn of(name: &str, aggregation: Aggregation, unit: &str) -> Self {
        const SHARES: [&str; 7] = ["percent", "pct", "%", "ratio", "share", "fraction", "permille"];
        const TIMES: [&str; 24] = [
            "ns",
            "nanosecond",
            "nanoseconds",
            "us",
            "µs",
            "microsecond",
            "microseconds",
            "ms",
            "millisecond",
            "milliseconds",
            "s",
            "sec",
            "second",
            "seconds",
            "min",
            "minute",
            "minutes",
            "h",
            "hour",
            "hours",
            "d",
            "day",
            "days",
            "weeks",
        ];
        const TEMPERATURES: [&str; 8] =
            ["celsius", "°c", "degrees celsius", "fahrenheit", "°f", "kelvin", "k", "degrees"];
        let unit = unit.trim().to_lowercase();
        let unit = unit.as_str();
        let is_rate = unit.contains('/') || unit.contains(" per ") || unit.contains("_per_");
        if unit.is_empty() {
            return if aggregation == Aggregation::Sum { Self::Sum } else { Self::by_name(name) };
        }
        if (SHARES.contains(&unit) && name.starts_with("cpu_")) || aggregation == Aggregation::Sum || is_rate {
            return Self::Sum;
        }
        let is_mean = [&SHARES[..], &TIMES, &TEMPERATURES].iter().any(|units| units.contains(&unit));
        if is_mean { Self::Mean } else { Self::Sum }
    }

    /// Decides by the name of a field. Shares, times and quantiles are averaged: `latency_p95_ms`, `error_rate`,
    /// `memory_used_percent`. A field with `per` in its name is summed, and so is the use of processors.
    fn by_name(name: &str) -> Self {
        const SHARES_AND_TIMES: [&str; 13] = [
            "ms", "us", "ns", "s", "seconds", "percent", "pct", "ratio", "rate", "latency", "duration", "average",
            "celsius",
        ];
        let is_quantile = |part: &str| {
            part.strip_prefix('p')
                .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let parts = || name.split('_');
        let is_mean = !name.starts_with("cpu_")
            && parts().all(|part| part != "per")
            && parts().any(|part| SHARES_AND_TIMES.contains(&part) || is_quantile(part));
        if is_mean { Self::Mean } else { Self::Sum }
    }

    fn value(self, (sum, count): (f64, u32)) -> f64 {
        match (self, count) {
            (_, 0) => f64::NAN,
            (Self::Mean, count) => sum / f64::from(count),
            (Self::Sum, _) => sum,
        }
    }
}

impl Roundings {
    /// Remembers a frame for each field that has none yet.
    fn learn(&mut self, frames: &[Arc<Frame>]) {
        for frame in frames {
            for field in frame.schema().fields() {
                self.0.entry(field.name.clone()).or_insert_with(|| frame.clone());
            }
        }
    }

    /// Rounds values as declared, because adding and dividing adds noise to clean decimals.
    fn round(&self, name: &Arc<str>, values: &mut [f64]) {
        let Some(frame) = self.0.get(name) else { return };
        if let Some(field) = frame.schema().fields().iter().position(|field| field.name == *name) {
            frame.schema().round(field, frame.interval_ms(), values);
        }
    }
}

impl FieldSums {
    fn add(&mut self, row: &mut SumRow, name: &Arc<str>, value: f64) {
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None => {
                self.names.push(name.clone());
                self.by_name.insert(name.clone(), self.names.len() - 1);
                self.names.len() - 1
            }
        };
        if row.len() <= index {
            row.resize(index + 1, (0.0, 0));
        }
        if let Some((sum, count)) = row.get_mut(index) {
            *sum += value;
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{Align, Schema, StoredField};

    type InstanceReading<'a> = (&'a str, i64, &'a [(&'a str, f64)]);

    fn store(readings: &[InstanceReading<'_>]) -> (Store, Vec<InstanceId>) {
        let store = Store::in_memory(&Default::default());
        let mut ids = Vec::new();
        for (id, at_ms, values) in readings {
            let id = InstanceId::new(id).unwrap();
            let schema = Schema::new("s", values.iter().map(|(name, _)| StoredField::gauge(*name)).collect());
            let values: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
            store.frame(&id, &schema, 1000).push(*at_ms, &values);
            ids.push(id);
        }
        ids.sort_unstable();
        ids.dedup();
        (store, ids)
    }

    #[test]
    fn totals_are_summed_and_latency_is_averaged_over_the_instances_that_report_it() {
        let (store, ids) = store(&[
            ("a", 1000, &[("cpu_percent", 60.0), ("requests_per_sec", 5.0), ("latency_p95_ms", 10.0)]),
            ("b", 2000, &[("cpu_percent", 70.0), ("requests_per_sec", 1.0), ("latency_p95_ms", f64::NAN)]),
            ("c", 2000, &[("cpu_percent", 0.0), ("requests_per_sec", 0.0), ("latency_p95_ms", 30.0)]),
        ]);
        let sample = latest(&store, &DeclaredFields::default(), ids.iter()).unwrap();
        let got = ["cpu_percent", "requests_per_sec", "latency_p95_ms", REPLICAS].map(|name| sample.get(name).unwrap());
        assert_eq!((sample.at_ms, got), (2000, [130.0, 6.0, 20.0, 3.0]));
    }

    #[test]
    fn combined_values_are_rounded_to_the_declared_precision() {
        let store = Store::in_memory(&Default::default());
        let decimal = |name| StoredField { precision: 0.1, ..StoredField::gauge(name) };
        let schema = Schema::new("s", vec![decimal("cpu_percent"), decimal("latency_ms")]);
        let ids = ["a", "b", "c"].map(|id| InstanceId::new(id).unwrap());
        for (id, value) in ids.iter().zip([0.1, 0.2, 0.4]) {
            store.frame(id, &schema, 1000).push(1000, &[value, value]);
        }
        let sample = latest(&store, &DeclaredFields::default(), ids.iter()).unwrap();
        assert_eq!((sample.get("cpu_percent"), sample.get("latency_ms")), (Some(0.7), Some(0.2)));
        let query = Query { since_ms: 0, until_ms: 10_000, step_ms: 1000, align: Align::Epoch, fields: None };
        let points = range(&store, &DeclaredFields::default(), ids.iter(), &query, |id, part| store.range(id, part));
        let value = |name| points.column(name).unwrap().values[0];
        assert_eq!((value("cpu_percent"), value("latency_ms")), (0.7, 0.2));
    }

    #[test]
    fn a_stale_instance_is_left_out_of_the_latest_sample_and_stays_in_the_range() {
        let (store, ids) = store(&[("a", 1000, &[("x", 1.0)]), ("b", 9000, &[("x", 2.0)])]);
        let sample = latest(&store, &DeclaredFields::default(), ids.iter()).unwrap();
        assert_eq!((sample.get("x"), sample.get(REPLICAS)), (Some(2.0), Some(1.0)));
        let query = Query { since_ms: 0, until_ms: 10_000, step_ms: 1000, align: Align::Epoch, fields: None };
        let points = range(&store, &DeclaredFields::default(), ids.iter(), &query, |id, part| store.range(id, part));
        assert_eq!(points.at_ms, [1000, 9000]);
        assert_eq!(points.column("x").unwrap().values, [1.0, 2.0]);
        assert_eq!(points.column(REPLICAS).unwrap().values, [1.0, 1.0]);
        assert!(latest(&store, &DeclaredFields::default(), [].iter()).is_none());
    }

    #[test]
    fn unit_and_aggregation_decide_whether_a_field_is_summed_or_averaged() {
        use Aggregation::{Last, Max, Mean, Sum};
        for (name, aggregation, unit) in [
            ("cpu_percent", Mean, "percent"),
            ("read_mb_per_s", Mean, "MB/s"),
            ("pauses", Mean, "ms/s"),
            ("gc_time", Sum, "ms"),
            ("latency_bucket_ms", Mean, "requests"),
            ("memory_used_mb", Last, "MiB"),
            ("queue", Max, "jobs"),
            ("processes", Last, ""),
            ("read_mb_per_s", Mean, ""),
        ] {
            assert_eq!(Combination::of(name, aggregation, unit), Combination::Sum, "{name} {unit}");
        }
        for (name, aggregation, unit) in [
            ("busy", Mean, "percent"),
            ("disk_busy_percent", Mean, "Percent"),
            ("hits", Mean, "ratio"),
            ("latency", Max, "ms"),
            ("age", Last, "seconds"),
            ("board", Max, "°C"),
            ("latency_p95_ms", Mean, ""),
        ] {
            assert_eq!(Combination::of(name, aggregation, unit), Combination::Mean, "{name} {unit}");
        }
    }

    #[test]
    fn fields_of_samplers_that_are_not_loaded_are_combined_by_their_names() {
        let store = Store::in_memory(&Default::default());
        let field = |name: &str, unit: &str| {
            let field = dropsonde_model::Field::gauge(name, "");
            dropsonde_model::Field { unit: unit.to_owned(), ..field }
        };
        let fields = [field("busy", "percent"), field("read_mb_per_s", "MB/s"), field("written_s", "files")];
        let fields = Fields::check("s", &fields).unwrap();
        let ids = ["a", "b"].map(|id| InstanceId::new(id).unwrap());
        for id in &ids {
            store.frame(id, &fields.schema, 1000).push(1000, &[20.0, 3.0, 5.0]);
        }
        let values = |declared: &DeclaredFields| {
            let sample = latest(&store, declared, ids.iter()).unwrap();
            let query = Query { since_ms: 0, until_ms: 2000, step_ms: 1000, align: Align::Epoch, fields: None };
            let points = range(&store, declared, ids.iter(), &query, |id, part| store.range(id, part));
            let names = ["busy", "read_mb_per_s", "written_s"];
            assert_eq!(names.map(|name| points.column(name).unwrap().values[0]), names.map(|n| sample.get(n).unwrap()));
            names.map(|name| sample.get(name).unwrap())
        };
        assert_eq!(values(&DeclaredFields(vec![fields])), [20.0, 6.0, 10.0]);
        assert_eq!(values(&DeclaredFields::default()), [40.0, 6.0, 5.0], "by their names");
    }

    #[test]
    fn fields_without_a_unit_are_averaged_if_the_name_is_of_a_share_or_a_time() {
        for averaged in ["latency_p95_ms", "p99", "error_rate", "memory_used_percent", "hit_rate_pct", "gc_seconds"] {
            assert_eq!(Combination::by_name(averaged), Combination::Mean, "{averaged}");
        }
        for summed in [
            "gc_pause_ms_per_sec",
            "read_mb_per_s",
            "cpu_percent",
            "memory_used_mb",
            "network_in_bytes_per_sec",
            "requests_per_sec",
            "processes",
        ] {
            assert_eq!(Combination::by_name(summed), Combination::Sum, "{summed}");
        }
    }
}
