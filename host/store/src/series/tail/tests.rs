use super::*;
use crate::{GroupKey, InstanceId, LabelMatcher, Schema, Store, StoreLimits, StoredField, is_stale};
use dropsonde_model::{Labels, MetricType};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: i64 = 1000;
const ALWAYS: Range<i64> = 0..i64::MAX / 2;

type Samples = BTreeMap<String, Vec<(i64, f64)>>;

fn columns(store: &Store) -> (Vec<String>, Vec<Vec<SeriesColumn>>) {
    let mut found = store.find_series(&[LabelMatcher::is("__name__", "up")]);
    found.sort_by(|a, b| a.labels.as_text().cmp(b.labels.as_text()));
    found.into_iter().map(|series| (series.labels.get("n").unwrap_or("").to_owned(), series.columns)).unzip()
}

/// Reads with one tail, window by window.
fn tailed(store: &Store, ends_ms: &[i64]) -> Samples {
    let (names, columns) = columns(store);
    let mut tail = SeriesTail::new(columns, 0, 0);
    let mut samples = Samples::new();
    let mut start = 0;
    for end in ends_ms.iter().copied().chain([ALWAYS.end]) {
        // In two passes, as whoever has little memory reads.
        for pass in 0..2 {
            tail.read(&(start..end), &|index| index % 2 == pass, &mut |series| {
                let values = series.at_ms.iter().copied().zip(series.values.iter().copied());
                samples.entry(names[series.index].clone()).or_default().extend(values);
            });
        }
        start = end;
    }
    samples
}

fn in_bits(samples: &Samples) -> BTreeMap<&str, Vec<(i64, u64)>> {
    let bits = |all: &Vec<(i64, f64)>| all.iter().map(|(at_ms, value)| (*at_ms, value.to_bits())).collect();
    samples.iter().map(|(name, all)| (&**name, bits(all))).collect()
}

fn store_with(ticks: &[(i64, BTreeMap<u8, f64>)]) -> Store {
    let store = Store::in_memory(&StoreLimits::default());
    let instance = InstanceId::new("web-1").unwrap();
    let (group, owner) = ("scrape".into(), "scrape".into());
    let mut group = store.series_group(GroupKey { instance, group, owner, interval_ms: SECOND });
    let mut at_ms = 1000;
    for (pause, samples) in ticks {
        at_ms += pause * SECOND;
        let handle = |number: &u8| Labels::from([("__name__", "up"), ("n", &number.to_string())]);
        let samples: Vec<_> = samples
            .iter()
            .map(|(number, value)| (group.series(&handle(number), MetricType::Gauge).unwrap(), *value))
            .collect();
        group.push(at_ms, &samples);
    }
    store
}

#[test]
fn an_end_is_marked_once_although_the_last_sample_was_in_an_earlier_window() {
    let both = || BTreeMap::from([(1, 1.0), (2, 2.0)]);
    let store = store_with(&[(1, both()), (1, both()), (1, BTreeMap::from([(1, 1.0)])), (60, both())]);
    let samples = tailed(&store, &[3500, 4500, 5000, 7000, 7500, 9000]);
    let of = |name: &str| -> Vec<(i64, f64)> {
        samples[name].iter().map(|(at_ms, value)| (*at_ms, if is_stale(*value) { -1.0 } else { *value })).collect()
    };
    // The other one ends at the row without it, this one three seconds after its last row.
    let end_ms = 64_000 + 3 * 60 * SECOND;
    assert_eq!(of("1"), [(2000, 1.0), (3000, 1.0), (4000, 1.0), (7000, -1.0), (64_000, 1.0), (end_ms, -1.0)]);
    assert_eq!(of("2"), [(2000, 2.0), (3000, 2.0), (4000, -1.0), (64_000, 2.0), (end_ms, -1.0)]);
}

#[test]
fn a_tail_that_begins_later_knows_which_series_are_alive() {
    let one = || BTreeMap::from([(1, 1.0)]);
    let store = store_with(&[(1, BTreeMap::from([(1, 1.0), (2, 2.0)])), (1, one()), (1, one())]);
    let (names, columns) = columns(&store);
    let mut tail = SeriesTail::new(columns, 0, 3500);
    assert_eq!(tail.live().map(|index| &*names[index]).collect::<Vec<_>>(), ["1"]);
    let later = SeriesTail::new(self::columns(&store).1, 3100, 3500);
    assert_eq!(later.live().count(), 0, "nobody knows of samples before 3100");
    let mut seen = Vec::new();
    tail.read(&(3500..20_000), &|_| true, &mut |series| {
        seen.push((names[series.index].clone(), series.at_ms.to_vec()));
    });
    assert_eq!(seen, [("1".to_owned(), vec![4000, 7000])]);
    assert_eq!(tail.live().count(), 0);
}

#[test]
fn a_tail_that_begins_after_an_end_does_not_mark_it_again() {
    let both = || BTreeMap::from([(1, 1.0), (2, 2.0)]);
    let store = store_with(&[(1, both()), (1, both()), (1, both()), (100, both()), (1, both())]);
    let (_, columns) = columns(&store);
    let marks = |from_ms: i64, until_ms: i64| {
        let mut marks = Vec::new();
        SeriesTail::new(columns.clone(), 0, from_ms).read(&(from_ms..until_ms), &|_| true, &mut |series| {
            let ends = series.at_ms.iter().zip(series.values).filter(|(_, value)| is_stale(**value));
            marks.extend(ends.map(|(at_ms, _)| *at_ms));
        });
        marks
    };
    // They end three seconds after 4000, and no later.
    assert_eq!(marks(6000, 50_000), [7000, 7000]);
    assert_eq!(marks(7000, 50_000), [7000, 7000]);
    assert_eq!(marks(7001, 50_000), [0; 0]);
    assert_eq!(marks(50_000, 100_000), [0; 0]);
}

#[test]
fn a_series_goes_on_when_its_sampler_gets_other_fields() {
    let store = Store::in_memory(&StoreLimits::default());
    let host = InstanceId::new("host").unwrap();
    let before = store.frame(&host, &Schema::new("load", vec![StoredField::gauge("a")]), SECOND);
    before.push(1000, &[1.0]);
    before.push(2000, &[2.0]);
    let fields = vec![StoredField::gauge("b"), StoredField::gauge("a")];
    let after = store.frame(&host, &Schema::new("load", fields), SECOND);
    after.push(3000, &[9.0, 3.0]);
    after.push(4000, &[9.0, 4.0]);
    let column = |frame: &Arc<Frame>, column| SeriesColumn {
        frame: frame.clone(),
        column,
        scale: crate::ReadingScale::Times(10.0),
    };
    let mut tail = SeriesTail::new([vec![column(&after, 1), column(&before, 0)]], 0, 0);
    let mut seen = Vec::new();
    for window in [0..2500, 2500..10_000] {
        tail.read(&window, &|_| true, &mut |series| {
            seen.extend(series.at_ms.iter().copied().zip(series.values.iter().copied()));
        });
    }
    assert_eq!(seen[..4], [(1000, 10.0), (2000, 20.0), (3000, 30.0), (4000, 40.0)]);
    assert!(seen[4].0 == 7000 && is_stale(seen[4].1) && seen.len() == 5);
}

proptest! {
    #[test]
    fn windows_change_nothing_and_no_sample_is_missing_or_read_twice(
        ticks in vec((1_i64..12, btree_map(0_u8..6, -9.0..9.0_f64, 0..6)), 1..40),
        mut ends in vec(0_i64..500 * SECOND, 0..20),
    ) {
        let store = store_with(&ticks);
        ends.sort_unstable();
        ends.dedup();
        let (split, whole) = (tailed(&store, &ends), tailed(&store, &[]));
        prop_assert_eq!(in_bits(&split), in_bits(&whole));
        let mut expected = Samples::new();
        let mut at_ms = 1000;
        for (pause, samples) in &ticks {
            at_ms += pause * SECOND;
            for (number, value) in samples {
                expected.entry(number.to_string()).or_default().push((at_ms, *value));
            }
        }
        let mut values = whole;
        values.values_mut().for_each(|all| all.retain(|(_, value)| !is_stale(*value)));
        prop_assert_eq!(values, expected);
    }
}
