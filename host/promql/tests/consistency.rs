//! What is computed for all steps at once is what a computation of each step alone gives.

use dropsonde_model::Labels;
use dropsonde_promql::{
    Limits, MemoryGrant, MemorySource, ParseOptions, Query, QueryError, STALE, Settings, Times, Value, parse,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Samples of some series: for each the gaps between them in seconds, and the values.
fn source() -> impl Strategy<Value = MemorySource> {
    let value = prop_oneof![
        8 => (-20..20).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => Just(STALE),
        1 => prop_oneof![Just(f64::INFINITY), Just(1e300), Just(-1e300), Just(1e-300)],
    ];
    vec(vec((1_i64..120, value), 0..40), 1..5).prop_map(|series| {
        let mut source = MemorySource::new();
        for (nth, samples) in series.iter().enumerate() {
            let number = nth.to_string();
            let group = (nth % 2).to_string();
            let labels = Labels::from([("__name__", "x_total"), ("n", &*number), ("g", &*group)]);
            let mut at_ms = 0;
            for (gap, value) in samples {
                at_ms += gap * 1000;
                source.push(&labels, at_ms, *value);
            }
        }
        source
    })
}

fn expression() -> impl Strategy<Value = String> {
    let function = prop::sample::select(vec![
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "resets",
        "changes",
        "sum_over_time",
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "count_over_time",
        "stddev_over_time",
        "last_over_time",
        "first_over_time",
        "present_over_time",
        "absent_over_time",
        "deriv",
        "mad_over_time",
        "ts_of_max_over_time",
    ]);
    let window = (function, 1..400).prop_map(|(function, seconds)| format!("{function}(x_total[{seconds}s])"));
    let quantile = (0..5, 1..400)
        .prop_map(|(q, seconds)| format!("quantile_over_time({}, x_total[{seconds}s])", f64::from(q) / 4.0));
    let leaf = prop_oneof![
        2 => Just("x_total".to_owned()),
        1 => Just("x_total offset 1m".to_owned()),
        1 => Just("x_total @ 300".to_owned()),
        1 => Just("timestamp(x_total)".to_owned()),
        4 => window,
        2 => quantile,
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec!["sum", "avg", "min", "max", "count", "stddev", "group"]))
                .prop_map(|(inner, operator)| format!("{operator} by (g) ({inner})")),
            inner.clone().prop_map(|inner| format!("topk by (g) (1, {inner})")),
            inner.clone().prop_map(|inner| format!("quantile(0.3, {inner})")),
            inner.clone().prop_map(|inner| format!("abs({inner})")),
            inner.clone().prop_map(|inner| format!("-({inner})")),
            inner.clone().prop_map(|inner| format!("({inner}) > 2")),
            (inner.clone(), inner.clone(), prop::sample::select(vec!["+", "/", ">", "and", "or", "unless"]))
                .prop_map(|(a, b, operator)| format!("({a}) {operator} ({b})")),
            (inner.clone(), 1..300, 1..90)
                .prop_map(|(inner, range, step)| format!("sum_over_time(({inner})[{range}s:{step}s])")),
            inner.prop_map(|inner| format!("scalar({inner}) + vector(time())")),
        ]
    })
}

fn ask(source: &MemorySource, text: &str, times: Times) -> Result<Value, QueryError> {
    let expr = parse(text, ParseOptions { experimental: true })?;
    Query { expr: &expr, times, settings: Settings::default() }
        .run(source, &Limits::default())
        .map(|answer| answer.value)
}

fn is_close(a: f64, b: f64) -> bool {
    a.is_nan() && b.is_nan() || a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Windows slide from step to step, constants are computed once, and series are joined over all steps: none of that
    /// shows.
    #[test]
    fn each_step_of_a_range_query_answers_as_an_instant_query_does(
        source in source(),
        text in expression(),
        start in 0_i64..600,
        step in 1_i64..200,
    ) {
        let (start_ms, step_ms) = (start * 1000, step * 1000);
        let end_ms = start_ms + 10 * step_ms;
        let range = ask(&source, &text, Times::Range { start_ms, end_ms, step_ms });
        for at_ms in (start_ms..=end_ms).step_by(step_ms as usize) {
            let instant = ask(&source, &text, Times::At(at_ms));
            let (Ok(Value::Matrix(series)), Ok(Value::Vector(_, wanted))) = (&range, &instant) else {
                // An error of any step is one of the whole.
                prop_assert!(range.is_err() || instant.is_ok(), "{}: {:?} {:?}", text, range, instant);
                continue;
            };
            let at_step = |points: &[(i64, f64)]| points.iter().find(|(time, _)| *time == at_ms).map(|(_, value)| *value);
            let found: Vec<(&Labels, f64)> =
                series.iter().filter_map(|(labels, points)| Some((labels, at_step(points)?))).collect();
            prop_assert_eq!(found.len(), wanted.len(), "{} at {}: {:?} {:?}", text, at_ms, found, wanted);
            for (labels, value) in wanted {
                let known = found.iter().find(|(known, _)| *known == labels);
                prop_assert!(known.is_some_and(|(_, known)| is_close(*known, *value)), "{} at {}: {:?} {:?}", text, at_ms, known, value);
            }
        }
    }

    /// The windows of a series, summarised in the plainest way.
    #[test]
    fn windows_are_summarised_as_a_plain_computation_does(
        samples in vec((1_i64..60, -50_i32..50), 1..80),
        range in 1_i64..900,
        step in 1_i64..300,
    ) {
        let mut source = MemorySource::new();
        let labels = Labels::from([("__name__", "x_total")]);
        let mut at_ms = 0;
        let mut all: Vec<(i64, f64)> = Vec::new();
        for (gap, value) in &samples {
            at_ms += gap * 1000;
            all.push((at_ms, f64::from(*value)));
            source.push(&labels, at_ms, f64::from(*value));
        }
        let (end_ms, step_ms) = (at_ms + 100_000, step * 1000);
        for (function, of) in [
            ("sum_over_time", (|values: &[f64]| values.iter().sum()) as fn(&[f64]) -> f64),
            ("avg_over_time", |values| values.iter().sum::<f64>() / values.len() as f64),
            ("min_over_time", |values| values.iter().copied().fold(f64::INFINITY, f64::min)),
            ("max_over_time", |values| values.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            ("count_over_time", |values| values.len() as f64),
            ("changes", |values| values.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64),
            ("resets", |values| values.windows(2).filter(|pair| pair[1] < pair[0]).count() as f64),
            ("quantile_over_time", |values| {
                let mut sorted = values.to_vec();
                sorted.sort_by(f64::total_cmp);
                let rank = 0.5 * (sorted.len() - 1) as f64;
                let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
                low + (high - low) * rank.fract()
            }),
        ] {
            let quantile = if function == "quantile_over_time" { "0.5, " } else { "" };
            let text = format!("{function}({quantile}x_total[{range}s])");
            let Value::Matrix(series) = ask(&source, &text, Times::Range { start_ms: 0, end_ms, step_ms }).unwrap() else {
                panic!("no matrix");
            };
            let found: Vec<(i64, f64)> = series.first().map(|(_, points)| points.clone()).unwrap_or_default();
            let mut wanted = Vec::new();
            for at_ms in (0..=end_ms).step_by(step_ms as usize) {
                let is_in = |(time, _): &&(i64, f64)| *time > at_ms - range * 1000 && *time <= at_ms;
                let values: Vec<f64> = all.iter().filter(is_in).map(|(_, value)| *value).collect();
                if !values.is_empty() {
                    wanted.push((at_ms, of(&values)));
                }
            }
            prop_assert_eq!(found.len(), wanted.len(), "{}", text);
            for (found, wanted) in found.iter().zip(&wanted) {
                prop_assert!(found.0 == wanted.0 && (found.1 - wanted.1).abs() < 1e-9, "{}: {:?} {:?}", text, found, wanted);
            }
        }
    }
}

/// Grants so many bytes.
fn at_most(most: usize) -> Option<MemoryGrant> {
    Some(Arc::new(move |bytes| bytes <= most))
}

#[test]
fn labels_cannot_be_made_longer_without_end() {
    let mut source = MemorySource::new();
    source.push(&Labels::from([("__name__", "x"), ("a", "0123456789")]), 0, 1.0);
    let doubled = |inner: String| format!("label_replace({inner}, 'a', '$1$1', 'a', '(.*)')");
    let joined = |inner: String| format!("label_join({inner}, 'a', '-', 'a', 'a')");
    for double in [doubled as fn(String) -> String, joined] {
        let text = |times: usize| (0..times).fold("x".to_owned(), |inner, _| double(inner));
        let run = |text: &str, limits: &Limits<'_>| {
            let expr = parse(text, ParseOptions::default()).unwrap();
            Query { expr: &expr, times: Times::At(0), settings: Settings::default() }.run(&source, limits)
        };
        assert!(run(&text(10), &Limits::default()).is_ok());
        let error = run(&text(10), &Limits { memory: at_most(5000), ..Limits::default() }).unwrap_err();
        assert!(error.to_string().starts_with("the query needs "), "{error}");
        let error = run(&text(50), &Limits::default()).unwrap_err();
        assert!(error.to_string().ends_with("would make a value of a label of more than 65536 bytes"), "{error}");
    }
}

#[test]
fn a_query_ends_at_its_limits_and_when_nobody_waits() {
    let mut source = MemorySource::new();
    for series in 0..10 {
        let labels = Labels::from([("__name__", "x".to_owned()), ("n", series.to_string())]);
        (0..100).for_each(|nth| source.push(&labels, nth * 1000, nth as f64));
    }
    let cancelled = AtomicBool::new(true);
    let past = std::time::Instant::now();
    for (limits, expected) in [
        (Limits { samples: Some(999), ..Limits::default() }, "the query reads more than 999 samples"),
        (Limits { series: Some(9), ..Limits::default() }, "the query reads more than 9 series"),
        (Limits { memory: at_most(1000), ..Limits::default() }, "the query needs "),
        (Limits { until: Some(past), ..Limits::default() }, "the query took too long"),
        (Limits { cancelled: Some(&cancelled), ..Limits::default() }, "the query was cancelled"),
    ] {
        let expr = parse("sum(x * 2)", ParseOptions::default()).unwrap();
        let times = Times::Range { start_ms: 0, end_ms: 99_000, step_ms: 1000 };
        let error = Query { expr: &expr, times, settings: Settings::default() }.run(&source, &limits).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let expr = parse("sum(x * 2)", ParseOptions::default()).unwrap();
    let times = Times::Range { start_ms: 0, end_ms: 99_000, step_ms: 1000 };
    let limits = Limits { samples: Some(1000), series: Some(10), memory: at_most(80_000), ..Limits::default() };
    let answer = Query { expr: &expr, times, settings: Settings::default() }.run(&source, &limits).unwrap();
    assert_eq!(answer.usage.samples, 1000);
    assert!((8000..40_000).contains(&answer.usage.peak_memory), "{:?}", answer.usage);
}
