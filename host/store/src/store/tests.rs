use super::*;

fn host() -> InstanceId {
    InstanceId::new("host").unwrap()
}

fn gauges(sampler: &str, names: &[&str]) -> Schema {
    Schema::new(sampler, names.iter().map(|&name| StoredField::gauge(name)).collect())
}

#[test]
fn a_shared_field_has_the_first_samplers_values_and_the_second_fills_its_gaps() {
    let store = Store::in_memory(&StoreLimits { samples: 100, ..StoreLimits::default() });
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
fn a_stale_frame_is_in_history_but_not_in_the_latest_sample() {
    let store = Store::in_memory(&StoreLimits { samples: 100, ..StoreLimits::default() });
    store.frame(&host(), &gauges("a", &["old"]), 1000).push(1000, &[1.0]);
    store.frame(&host(), &gauges("b", &["new"]), 1000).push(4001, &[2.0]);
    let sample = store.latest(&host()).unwrap();
    assert_eq!((sample.at_ms, sample.get("old"), sample.get("new")), (4001, None, Some(2.0)));
    let query = Query { since_ms: 0, until_ms: 5000, step_ms: 1000, ..Query::default() };
    assert_eq!(store.range(&host(), &query).at_ms, [1000, 4000]);
}

#[test]
fn fields_that_a_sampler_no_longer_records_are_not_in_the_latest_sample() {
    let store = Store::in_memory(&StoreLimits { samples: 100, ..StoreLimits::default() });
    store.frame(&host(), &gauges("a", &["kept", "dropped"]), 1000).push(1000, &[1.0, 1.0]);
    let newer = store.frame(&host(), &gauges("a", &["kept", "added"]), 1000);
    newer.push(2000, &[2.0, 2.0]);
    store.frame(&host(), &gauges("b", &["other"]), 1000).push(1000, &[3.0]);
    let sample = store.latest(&host()).unwrap();
    assert_eq!(sample.values, [("kept".into(), 2.0), ("added".into(), 2.0), ("other".into(), 3.0)]);
    let query = Query { since_ms: 0, until_ms: 5000, step_ms: 1000, ..Query::default() };
    let range = store.range(&host(), &query);
    assert_eq!(range.column("kept").unwrap().values, [1.0, 2.0], "history has both rows");
}

#[test]
fn the_window_is_half_open_and_empty_buckets_are_skipped() {
    let store = Store::in_memory(&StoreLimits { samples: 100, ..StoreLimits::default() });
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
    let store = Store::in_memory(&StoreLimits { samples: 100, ..StoreLimits::default() });
    let frame = store.frame(&host(), &gauges("a", &["x"]), 1000);
    for at in [1500, 2400, 2600] {
        frame.push(at, &[1.0]);
    }
    let query = Query { since_ms: 1500, until_ms: 9000, step_ms: 1000, align: crate::Align::Since, fields: None };
    assert_eq!(store.range(&host(), &query).at_ms, [1500, 2500]);
}
