//! A simple reference implementation of `range`, and tests that compare the store with it.

use crate::archive::simulated_disk::SimulatedDisk;
use crate::quantum::Quantum;
use crate::{Aggregation, Align, InstanceId, Kind, Points, Query, Schema, Store, StoreLimits, StoredField};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// 2⁵³. Doubles represent all whole numbers up to it.
const WHOLE: f64 = (1u64 << 53) as f64;

/// A ring of rows of one field.
struct ReferenceRing {
    capacity: usize,
    field: StoredField,
    /// Time and value of each row as queries see it, in the order they were written. NaN is a gap.
    rows: Vec<(i64, f64)>,
    /// The read time of the last total, by a monotonic clock, and that total.
    before: Option<(f64, f64)>,
}

impl ReferenceRing {
    fn push(&mut self, at: i64, delay_ms: f64, reading: f64) {
        let reading = Quantum::of(self.field.precision).keep(reading);
        let value = match self.field.kind {
            Kind::Gauge => reading,
            Kind::Counter { .. } if reading.is_nan() => f64::NAN,
            Kind::Counter { scale } => {
                let read_ms = Quantum::of(0.1).keep(at as f64 + Quantum::of(0.1).keep(delay_ms));
                let before = std::mem::replace(&mut self.before, (!read_ms.is_nan()).then_some((read_ms, reading)));
                match before {
                    Some((before_ms, before)) if reading >= before && read_ms > before_ms => {
                        let increase = Quantum::of(self.field.precision).keep(reading - before);
                        let elapsed_ms = read_ms - before_ms;
                        let rate = scale * increase * 1000.0 / elapsed_ms;
                        let step = step(&self.field, rate, elapsed_ms);
                        let parts = (1.0 / step).round();
                        match () {
                            () if rate == 0.0 => rate,
                            () if step < 1.0 => (rate * parts).round_ties_even() / parts,
                            () => (rate / step).round_ties_even() * step,
                        }
                    }
                    _ => f64::NAN,
                }
            }
        };
        self.rows.push((at, value));
        let over = self.rows.len().saturating_sub(self.capacity);
        self.rows.drain(..over);
    }

    /// Returns the rows by time. Of two rows with the same time it has the one written later.
    fn by_time(&self) -> Vec<(i64, f64)> {
        let rows: BTreeMap<i64, f64> = self.rows.iter().copied().collect();
        rows.into_iter().collect()
    }

    /// Returns bucket, value, minimum and maximum of each point.
    fn range(&self, query: &Query) -> Vec<(i64, f64, f64, f64)> {
        let rows = self.by_time();
        let inside = rows.iter().filter(|(at, _)| (query.since_ms..query.until_ms).contains(at));
        let seen: Vec<(i64, f64)> =
            inside.filter(|(_, value)| !value.is_nan()).map(|(at, value)| (query.bucket(*at), *value)).collect();
        let point = |run: &[(i64, f64)]| {
            let values = || run.iter().map(|(_, value)| *value);
            let sum: f64 = values().sum();
            let (min, max) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
            let value = match self.field.aggregation {
                Aggregation::Mean => sum / run.len() as f64,
                Aggregation::Min => min,
                Aggregation::Max => max,
                Aggregation::Last => run[run.len() - 1].1,
                Aggregation::Sum => sum,
            };
            (run[0].0, value, min, max)
        };
        seen.chunk_by(|a, b| a.0 == b.0).map(point).collect()
    }
}

#[derive(Debug, Clone)]
enum FrameOperation {
    /// Milliseconds since the last row, negative if the clock was set back; the delay of the reading; the reading.
    Push(i64, f64, f64),
    Seal,
}

fn reading() -> impl Strategy<Value = f64> {
    prop_oneof![
        20 => -1e6..1e6f64,
        5 => (0i32..100).prop_map(f64::from),
        2 => Just(f64::NAN),
        1 => prop::sample::select(vec![
            f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, 9_007_199_254_740_991.0, 9_007_199_254_740_993.0, 3e9,
        ]),
    ]
}

/// Returns the decimal step that a rate is rounded to.
fn step(field: &StoredField, rate: f64, elapsed_ms: f64) -> f64 {
    let Kind::Counter { scale } = field.kind else { unreachable!() };
    let power = match field.precision {
        0.0 => rate.abs().log10().floor() - 9.0,
        precision if precision < 1.0 && (rate / (precision * scale)).round_ties_even() != 0.0 => {
            return precision * scale;
        }
        precision => (scale * precision * 100.0 / elapsed_ms).log10().round(),
    };
    10f64.powi(power.clamp(-15.0, 300.0) as i32)
}

/// Makes delays, also those of a clock that was set: if it was set back, all later readings are delayed by as much.
fn delay() -> impl Strategy<Value = f64> {
    prop_oneof![20 => Just(0.0), 10 => 0.0..50.0f64, 2 => -5e6..5e6f64, 1 => Just(f64::NAN)]
}

fn steps() -> impl Strategy<Value = Vec<FrameOperation>> {
    let step = prop_oneof![
        40 => (1i64..9_000, delay(), reading()).prop_map(|(gap, delay, value)| FrameOperation::Push(gap, delay, value)),
        20 => reading().prop_map(|value| FrameOperation::Push(1000, 0.0, value)),
        1 => (-2_000i64..=0, delay(), reading()).prop_map(|(gap, delay, value)| FrameOperation::Push(gap, delay, value)),
        1 => (-2_000_000i64..=0, delay(), reading()).prop_map(|(gap, delay, value)| FrameOperation::Push(gap, delay, value)),
        1 => (100_000i64..5_000_000, delay(), reading()).prop_map(|(gap, delay, value)| FrameOperation::Push(gap, delay, value)),
        2 => Just(FrameOperation::Seal),
    ];
    prop::collection::vec(step, 0..300)
}

fn field() -> impl Strategy<Value = StoredField> {
    use Aggregation::*;
    let kind = prop_oneof![Just(Kind::Gauge), Just(Kind::Counter { scale: 100.0 })];
    let aggregation = prop::sample::select(vec![Mean, Min, Max, Last, Sum]);
    (kind, aggregation, prop::sample::select(vec![0.0, 0.01, 1.0, 5.0]))
        .prop_map(|(kind, aggregation, precision)| StoredField { name: "x".into(), kind, aggregation, precision })
}

fn query() -> impl Strategy<Value = Query> {
    let rung = prop::sample::select(vec![1i64, 10, 60, 300, 600, 900, 5400]).prop_map(|seconds| seconds * 1000);
    let step = prop_oneof![rung.clone(), 1i64..700_000];
    let edge = prop_oneof![0i64..2_000_000, (0i64..40).prop_map(|n| n * 60_000)];
    let align = prop::sample::select(vec![Align::Epoch, Align::Since]);
    (edge, prop_oneof![1i64..2_000_000, rung], step, align).prop_map(|(since_ms, length, step_ms, align)| Query {
        since_ms,
        until_ms: since_ms + length,
        step_ms,
        align,
        fields: None,
    })
}

/// Returns the times, the bits of minima and maxima, and the bits of values. Bits can be compared where `==` cannot, as
/// for NaN.
fn bits(points: &Points) -> (Vec<i64>, Vec<u64>, Vec<u64>) {
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let bands = points.columns.iter().flat_map(|column| [bits(&column.min), bits(&column.max)]).flatten().collect();
    let values = points.columns.iter().flat_map(|column| bits(&column.values)).collect();
    (points.at_ms.clone(), bands, values)
}

/// Returns whether a bucket's value does not depend on how its rows are grouped: because it is picked, or because it is
/// a sum of whole steps below 2⁵³.
fn adds_up_exactly(field: &StoredField, rows: &[(i64, f64)]) -> bool {
    let picked = matches!(field.aggregation, Aggregation::Min | Aggregation::Max | Aggregation::Last);
    let steps: f64 = rows.iter().filter(|row| !row.1.is_nan()).map(|row| row.1.abs() / field.precision).sum();
    picked || (field.kind == Kind::Gauge && field.precision > 0.0 && steps < WHOLE)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn range_equals_the_reference_implementation_before_and_after_sealing(
        field in field(),
        interval_ms in prop::sample::select(vec![100i64, 1000, 10_000]),
        capacity in prop_oneof![1usize..50, Just(1000)],
        steps in steps(),
        queries in prop::collection::vec(query(), 1..8),
    ) {
        let store = Store::in_memory(&StoreLimits { samples: capacity, ..StoreLimits::default() });
        let host = InstanceId::new("host").unwrap();
        let frame = store.frame(&host, &Schema::new("s", vec![field.clone()]), interval_ms);
        let mut ring = ReferenceRing { capacity, field: field.clone(), rows: Vec::new(), before: None };
        let mut at = 0;
        for step in steps {
            match step {
                FrameOperation::Push(gap, delay, value) => {
                    at += gap;
                    ring.push(at, delay, value);
                    frame.push_read(at, delay, &[value]);
                }
                FrameOperation::Seal => { store.seal(at + 1_000_000, 1); }
            }
            prop_assert_eq!(frame.len(), ring.rows.len());
            prop_assert_eq!(frame.latest_at_ms(), ring.rows.last().map(|row| row.0));
        }
        // A mean or a sum half-way between two steps may be rounded either way.
        let close = |value: f64, other: f64| {
            let step = match field.kind {
                Kind::Gauge => field.precision / 2.0,
                Kind::Counter { .. } => step(&field, other, interval_ms as f64),
            };
            (value - other).abs() <= step + 1e-9 * other.abs().max(1e6)
        };
        for query in &queries {
            let points = store.range(&host, query);
            let expected = ring.range(query);
            prop_assert_eq!(&points.at_ms, &expected.iter().map(|point| point.0).collect::<Vec<_>>());
            for (i, (_, value, min, max)) in expected.into_iter().enumerate() {
                let column = &points.columns[0];
                if field.kind == Kind::Gauge && value.abs() / field.precision.min(1.0) < WHOLE {
                    let rounded = Quantum::of(field.precision).keep(column.values[i]);
                    prop_assert_eq!(rounded.to_bits(), column.values[i].to_bits(), "no finer than declared");
                }
                prop_assert!(close(column.values[i], value), "{} is not {value}", column.values[i]);
                prop_assert_eq!((column.min[i], column.max[i]), (min, max));
            }
        }
        let before: Vec<_> = queries.iter().map(|query| bits(&store.range(&host, query))).collect();
        while store.seal(i64::MAX, 1) > 0 {}
        for (query, before) in queries.iter().zip(before) {
            let after = bits(&store.range(&host, query));
            prop_assert_eq!((&before.0, &before.1), (&after.0, &after.1));
            for (before, after) in before.2.into_iter().zip(after.2) {
                let (value, sealed) = (f64::from_bits(before), f64::from_bits(after));
                let same = before == after || !adds_up_exactly(&field, &ring.rows) && close(value, sealed);
                prop_assert!(same, "{value} became {sealed}");
            }
        }
    }

    #[test]
    fn a_store_with_files_answers_like_a_store_in_memory_also_after_a_restart(
        field in field(),
        steps in steps(),
        queries in prop::collection::vec(query(), 1..8),
        seed in any::<u32>(),
    ) {
        // At this interval a block is a minute.
        let (interval_ms, limits) = (100, StoreLimits { samples: 1 << 20, ..StoreLimits::default() });
        let (host, schema) = (InstanceId::new("host").unwrap(), Schema::new("s", vec![field.clone()]));
        let sim = SimulatedDisk::new(seed.into());
        let memory = Store::in_memory(&limits);
        let (files, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
        let (mut at, mut ring) = (0, Vec::new());
        for step in steps {
            match step {
                FrameOperation::Push(gap, delay, value) => {
                    at += gap;
                    ring.push((at, value));
                    for store in [&memory, &files] {
                        store.frame(&host, &schema, interval_ms).push_read(at, delay, &[value]);
                    }
                }
                FrameOperation::Seal => { keeper.step(at + 1_000_000); }
            }
        }
        let adds_up = adds_up_exactly(&field, &ring);
        let same = |files: &Store| -> Result<(), TestCaseError> {
            for query in &queries {
                let (expected, found) = (bits(&memory.range(&host, query)), bits(&files.range(&host, query)));
                prop_assert_eq!((&expected.0, &expected.1), (&found.0, &found.1));
                prop_assert!(!adds_up || expected.2 == found.2);
            }
            Ok(())
        };
        same(&files)?;
        (0..100).for_each(|_| _ = keeper.step(at + 1_000_000));
        same(&files)?;
        drop((keeper, files));
        let (files, mut keeper, _) = Store::on(Arc::new(sim), &limits).unwrap();
        same(&files)?;
        // Long enough for files to be merged.
        (0..400).for_each(|_| _ = keeper.step(at + 8 * 3_600_000));
        same(&files)?;
    }
}
