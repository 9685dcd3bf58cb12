use super::*;
use crate::archive::simulated_disk::SimulatedDisk;
use crate::{InstanceId, Keeper, Store, StoreLimits, Windows};
use dropsonde_model::{Labels, MetricType};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const ALWAYS: Range<i64> = i64::MIN / 2..i64::MAX / 2;

fn key() -> GroupKey {
    of_owner("scrape")
}

fn of_owner(owner: &str) -> GroupKey {
    let instance = InstanceId::new("web-1").unwrap();
    GroupKey { instance, group: "scrape".into(), owner: owner.into(), interval_ms: SECOND }
}

fn labels(number: u32) -> Labels {
    Labels::from([("__name__", "requests_total"), ("page", &format!("/{number}"))])
}

fn number_of(labels: &Labels) -> u32 {
    labels.get("page").unwrap()[1..].parse().unwrap()
}

fn push(group: &mut SeriesGroup, at_ms: i64, samples: impl IntoIterator<Item = (u32, f64)>) -> TickReport {
    let handle = |group: &mut SeriesGroup, number| group.series(&labels(number), MetricType::Counter).unwrap();
    let samples: Vec<_> = samples.into_iter().map(|(number, value)| (handle(group, number), value)).collect();
    group.push(at_ms, &samples)
}

fn all() -> [LabelMatcher; 1] {
    [LabelMatcher::is("__name__", "requests_total")]
}

/// Returns the samples of each series, without the marks of their ends.
fn samples(store: &Store) -> BTreeMap<u32, Vec<(i64, f64)>> {
    let selection = store.select(&all(), ALWAYS);
    let series = selection.series().iter().map(|series| number_of(&series.labels));
    let samples = selection.samples(ALWAYS).into_iter().map(|SeriesSamples { at_ms, values }| {
        assert!(at_ms.is_sorted_by(|a, b| a < b), "{at_ms:?}");
        at_ms.into_iter().zip(values).filter(|(_, value)| !is_stale(*value)).collect()
    });
    series.zip(samples).collect()
}

fn newest(store: &Store, at_ms: i64) -> BTreeMap<u32, f64> {
    let selection = store.select(&all(), ALWAYS);
    let newest = selection.newest(at_ms - 5 * MINUTE + 1..at_ms + 1);
    let named = selection.series().iter().zip(newest);
    named.filter_map(|(series, sample)| Some((number_of(&series.labels), sample?.1))).collect()
}

#[test]
fn a_series_ends_at_the_tick_that_lacks_it() {
    let store = Store::in_memory(&StoreLimits::default());
    let mut group = store.series_group(key());
    push(&mut group, 1000, [(1, 10.0), (2, 20.0)]);
    push(&mut group, 2000, [(2, 21.0)]);
    push(&mut group, 3000, [(1, 12.0), (2, 22.0)]);
    assert_eq!(newest(&store, 1999), BTreeMap::from([(1, 10.0), (2, 20.0)]));
    assert_eq!(newest(&store, 2999), BTreeMap::from([(2, 21.0)]));
    assert_eq!(newest(&store, 3999), BTreeMap::from([(1, 12.0), (2, 22.0)]));
    let selection = store.select(&[LabelMatcher::is("page", "/1")], ALWAYS);
    let [one] = &selection.samples(0..4000)[..] else { panic!("one series") };
    assert_eq!(one.at_ms, [1000, 2000, 3000]);
    assert_eq!((one.values[0], is_stale(one.values[1]), one.values[2]), (10.0, true, 12.0));
}

#[test]
fn series_end_three_intervals_after_the_last_tick_or_when_their_group_ends() {
    let store = Store::in_memory(&StoreLimits::default());
    let mut group = store.series_group(key());
    push(&mut group, 1000, [(1, 10.0)]);
    push(&mut group, 2000, [(1, 11.0)]);
    assert_eq!((newest(&store, 4999).len(), newest(&store, 5000).len()), (1, 0));
    let samples = &store.select(&all(), ALWAYS).samples(0..10_000)[0];
    assert_eq!((&samples.at_ms[..], is_stale(samples.values[2])), (&[1000, 2000, 5000][..], true));
    push(&mut group, 9000, [(1, 12.0)]);
    group.end(9500);
    assert_eq!((newest(&store, 9499).len(), newest(&store, 9500).len()), (1, 0));
    let samples = &store.select(&all(), ALWAYS).samples(0..10_000)[0];
    assert_eq!(samples.at_ms, [1000, 2000, 5000, 9000, 9500]);
}

#[test]
fn series_that_come_and_go_share_few_frames() {
    let store = Store::in_memory(&StoreLimits::default());
    let mut keeper = Keeper::in_memory(store.clone(), &StoreLimits { age_ms: 30 * MINUTE, ..StoreLimits::default() });
    let mut group = store.series_group(key());
    // Each second one of a hundred series is replaced.
    for second in 0..3600_u32 {
        let at_ms = i64::from(second) * SECOND;
        push(&mut group, at_ms, (second..second + 100).map(|number| (number, f64::from(second))));
        if second % 10 == 0 {
            keeper.step(at_ms);
        }
    }
    let all = samples(&store);
    let oldest = 3600 - 30 * 60 - 300 - 60;
    assert!(all.len() < 100 + 3600 - oldest as usize, "{} series after half an hour is kept", all.len());
    assert!(all.iter().filter(|(number, _)| **number > 1900).all(|(number, samples)| {
        let from = number.saturating_sub(99);
        let until = (number + 1).min(3600);
        samples.iter().map(|(at_ms, _)| *at_ms).eq((from..until).map(|second| i64::from(second) * SECOND))
    }));
    assert_eq!(store.series_count(), all.len(), "series without samples are forgotten");
    assert_eq!(store.series_pool().accounts()["scrape"].used, all.len() as u64);
    assert!(group.len() < 100 + 2 * 300 + 1, "{} series in the group", group.len());
}

#[test]
fn an_owner_gets_no_more_series_than_its_share_and_others_get_theirs() {
    let limits = StoreLimits { series: 1600, ..StoreLimits::default() };
    let store = Store::in_memory(&limits);
    let (mut greedy, mut modest) = (store.series_group(of_owner("greedy")), store.series_group(of_owner("modest")));
    let report = push(&mut greedy, 1000, (0..5000).map(|number| (number, 1.0)));
    assert_eq!((report.samples, report.refused), (800, 4200));
    let report = push(&mut modest, 1000, (5000..5100).map(|number| (number, 1.0)));
    assert_eq!((report.samples, report.refused), (100, 0));
    // What was refused is tried again.
    let report = push(&mut greedy, 2000, (0..5000).map(|number| (number, 1.0)));
    assert_eq!((report.samples, report.refused), (800, 4200));
    assert!(store.series_pool().accounts()["greedy"].refused > 0);
    assert_eq!(store.series_count(), 900);
}

#[test]
fn a_series_counts_for_one_owner_as_long_as_anyone_has_it() {
    let store = Store::in_memory(&StoreLimits::default());
    let used = |owner: &str| store.series_pool().accounts().get(owner).map_or(0, |account| account.used);
    let group = |owner: &str, instance: &str| {
        let instance = InstanceId::new(instance).unwrap();
        store.series_group(GroupKey { instance, ..of_owner(owner) })
    };
    push(&mut group("first", "a"), 1000, [(1, 1.0), (2, 2.0)]);
    push(&mut group("second", "b"), 1000, [(2, 2.0), (3, 3.0)]);
    assert_eq!((used("first"), used("second")), (2, 1));
    store.remove_series(&InstanceId::new("a").unwrap(), None);
    assert_eq!((used("first"), used("second")), (0, 2), "the second has the shared one now");
    store.remove_series(&InstanceId::new("b").unwrap(), None);
    assert_eq!((used("first"), used("second"), store.series_count()), (0, 0, 0));
}

#[test]
fn series_of_one_name_come_together_whatever_their_labels_are() {
    let store = Store::in_memory(&StoreLimits::default());
    let mut group = store.series_group(key());
    let all = [[("__name__", "b"), ("Z", "1")], [("__name__", "a"), ("x", "1")], [("__name__", "b"), ("x", "1")]];
    let samples = all.map(|labels| (group.series(&Labels::from(labels), MetricType::Gauge).unwrap(), 1.0));
    group.push(1000, &samples);
    let selection = store.select(&[], ALWAYS);
    let names: Vec<_> = selection.series().iter().map(|series| series.labels.get("__name__").unwrap()).collect();
    assert_eq!(names, ["a", "b", "b"]);
}

#[test]
fn series_that_come_and_go_change_nothing_for_readers_of_samples() {
    let store = Store::in_memory(&StoreLimits::default());
    let before = store.revision();
    push(&mut store.series_group(key()), 1000, [(1, 1.0)]);
    store.remove_series(&InstanceId::new("web-1").unwrap(), None);
    assert_eq!(store.revision(), before, "a scrape need not look through all frames again");
}

#[test]
fn removed_series_are_gone_also_after_a_restart() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits::default();
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    push(&mut store.series_group(key()), 1000, [(1, 1.0)]);
    let other = GroupKey { instance: InstanceId::new("web-2").unwrap(), ..key() };
    push(&mut store.series_group(other), 1000, [(2, 2.0)]);
    keeper.step(1000);
    store.remove_series(&InstanceId::new("web-1").unwrap(), None);
    assert_eq!(samples(&store).into_keys().collect::<Vec<_>>(), [2]);
    keeper.step(2000);
    let (again, ..) = Store::on(Arc::new(sim), &limits).unwrap();
    assert_eq!(samples(&again).into_keys().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_restarted_group_goes_on_with_the_same_frames() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits::default();
    for restart in 0..5 {
        let (store, mut keeper, restored) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
        assert_eq!(restored.frames, usize::from(restart > 0));
        let mut group = store.series_group(key());
        push(&mut group, restart * 10_000 + 1000, [(1, restart as f64), (2, 7.0)]);
        assert_eq!(samples(&store)[&1].len() as i64, restart + 1);
        assert!(keeper.step(restart * 10_000 + 1000).flushed.rows > 0);
    }
}

#[test]
fn handles_of_series_that_are_long_gone_are_unknown() {
    let store = Store::in_memory(&StoreLimits::default());
    let mut group = store.series_group(key());
    let old = group.series(&labels(1), MetricType::Gauge).unwrap();
    group.push(0, &[(old, 1.0)]);
    for block in 1..4 {
        push(&mut group, block * 5 * MINUTE, (10..20).map(|number| (number, 1.0)));
    }
    let report = group.push(15 * MINUTE + 1000, &[(old, 1.0)]);
    assert_eq!((report.samples, report.unknown), (0, 1));
    let long = Labels::from([("__name__", "x".repeat(20_000))]);
    assert!(group.series(&long, MetricType::Gauge).is_err());
}

/// The series that matchers are tested on, by all values of three labels.
fn grid() -> Vec<Labels> {
    let mut all = Vec::new();
    for name in ["up", "down"] {
        for job in ["", "a", "ab", "b"] {
            for zone in ["", "x", "y"] {
                let pairs = [("__name__", name), ("job", job), ("zone", zone)];
                all.push(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect());
            }
        }
    }
    all
}

fn matcher() -> impl Strategy<Value = LabelMatcher> {
    let name = prop_oneof!["__name__", "job", "zone", "unknown"].prop_map(String::from);
    let value = || prop_oneof!["", "a", "ab", "b", "x", "y", "up", "down", "z"].prop_map(String::from);
    let values = prop_oneof![
        value().prop_map(LabelValues::Is),
        vec(value(), 0..4).prop_map(LabelValues::AnyOf),
        value().prop_map(LabelValues::BeginsWith),
        value().prop_map(|part| LabelValues::Test(Arc::new(move |value| value.contains(&part)))),
    ];
    (name, values, any::<bool>()).prop_map(|(name, values, is_negated)| LabelMatcher { name, values, is_negated })
}

proptest! {
    #[test]
    fn a_search_finds_what_all_matchers_select(
        matchers in vec(matcher(), 0..4),
        removed in proptest::collection::btree_set(0..24_usize, 0..24),
    ) {
        let store = Store::in_memory(&StoreLimits::default());
        let all = grid();
        for (nth, labels) in all.iter().enumerate() {
            let instance = InstanceId::new(format!("i{nth}")).unwrap();
            let mut group = store.series_group(GroupKey { instance, ..key() });
            let handle = group.series(labels, MetricType::Gauge).unwrap();
            group.push(1000, &[(handle, nth as f64)]);
        }
        for nth in &removed {
            store.remove_series(&InstanceId::new(format!("i{nth}")).unwrap(), Some("scrape"));
        }
        let is_selected = |labels: &Labels| {
            matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
        };
        let left = all.iter().enumerate().filter(|(nth, _)| !removed.contains(nth)).map(|(_, labels)| labels);
        let expected: BTreeSet<&str> = left.filter(|labels| is_selected(labels)).map(Labels::as_text).collect();
        let selection = store.select(&matchers, ALWAYS);
        let found: BTreeSet<&str> = selection.series().iter().map(|series| series.labels.as_text()).collect();
        prop_assert_eq!(store.count_series(&matchers), found.len());
        prop_assert_eq!(found, expected);
        // A part has the samples that the whole has.
        let first = |samples: SeriesSamples| samples.values[0];
        let whole: Vec<f64> = selection.samples(ALWAYS).into_iter().map(first).collect();
        let parts = (0..whole.len()).step_by(5).flat_map(|from| selection.part(from..from + 5).samples(ALWAYS));
        prop_assert_eq!(parts.map(first).collect::<Vec<_>>(), whole);
    }

    /// Series come and go at random, over blocks, flushes and a restart.
    #[test]
    fn history_has_every_sample_that_was_added(
        ticks in vec((1..200_i64, btree_map(0..90_u32, -1e6..1e6_f64, 0..90)), 1..60),
        restart_at in 0..60_usize,
    ) {
        let sim = SimulatedDisk::new(7);
        let limits = StoreLimits::default();
        let mut opened = Store::on(Arc::new(sim.clone()), &limits).unwrap();
        let mut group = opened.0.series_group(key());
        let mut expected: BTreeMap<u32, Vec<(i64, f64)>> = BTreeMap::new();
        let mut at_ms = 0;
        for (nth, (seconds, values)) in ticks.iter().enumerate() {
            at_ms += seconds * SECOND;
            let report = push(&mut group, at_ms, values.iter().map(|(number, value)| (*number, *value)));
            prop_assert_eq!((report.samples, report.refused), (values.len() as u64, 0));
            for (number, value) in values {
                expected.entry(*number).or_default().push((at_ms, *value));
            }
            if nth % 3 == 0 {
                opened.1.step(at_ms);
            }
            if nth == restart_at {
                opened.1.step(at_ms);
                drop((group, opened));
                opened = Store::on(Arc::new(sim.clone()), &limits).unwrap();
                group = opened.0.series_group(key());
            }
            let current: BTreeMap<u32, f64> = values.iter().map(|(number, value)| (*number, *value)).collect();
            prop_assert_eq!(newest(&opened.0, at_ms), current);
        }
        prop_assert_eq!(samples(&opened.0), expected);
    }

    #[test]
    fn parts_of_a_window_have_the_samples_that_the_whole_window_has(
        ticks in vec((1..6_i64, btree_map(0..4_u32, 0.0..100.0_f64, 0..4)), 1..400),
        start in 0..400_i64, step in 1..300_i64, length in 1..60_i64,
    ) {
        let sim = SimulatedDisk::new(7);
        let (store, mut keeper, _) = Store::on(Arc::new(sim), &StoreLimits::default()).unwrap();
        let mut group = store.series_group(key());
        let mut at_ms = 0;
        for (nth, (seconds, values)) in ticks.iter().enumerate() {
            at_ms += seconds * SECOND;
            push(&mut group, at_ms, values.iter().map(|(number, value)| (*number, *value)));
            if nth % 50 == 0 {
                keeper.step(at_ms);
            }
        }
        let window = start * SECOND + 1..at_ms + 10 * SECOND;
        let selection = store.select(&all(), ALWAYS);
        let whole = selection.samples(window.clone());
        let windows = Windows::every(step * SECOND, length * SECOND, window.clone());
        let mut visited = vec![SeriesSamples::default(); whole.len()];
        let took: Result<(), ()> = selection.visit(&windows, 100, &mut |series| {
            assert!(series.can_be_stale || !series.values.iter().any(|value| is_stale(*value)));
            visited[series.index] = SeriesSamples { at_ms: series.at_ms.to_vec(), values: series.values.to_vec() };
            Ok(())
        });
        prop_assert_eq!(took, Ok(()));
        for (whole, parts) in whole.iter().zip(&visited) {
            for first_ms in (window.start..window.end).step_by((step * SECOND) as usize) {
                let part = first_ms..(first_ms + length * SECOND).min(window.end);
                // The samples of a part, and whether the series goes on at its end.
                let of_part = |samples: &SeriesSamples| {
                    let all = samples.at_ms.iter().copied().zip(samples.values.iter().copied());
                    let within: Vec<(i64, f64)> = all.filter(|(at_ms, _)| part.contains(at_ms)).collect();
                    let goes_on = within.last().is_some_and(|(_, value)| !is_stale(*value));
                    let values = within.into_iter().filter(|(_, value)| !is_stale(*value)).collect::<Vec<_>>();
                    (values, goes_on)
                };
                prop_assert_eq!(of_part(whole), of_part(parts), "from {}", first_ms);
            }
        }
    }
}
