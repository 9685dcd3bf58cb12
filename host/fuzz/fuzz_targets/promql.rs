//! Any text is read as an expression or refused; what was read is printed, read again, and computed without a panic.

#![no_main]

use dropsonde_model::Labels;
use dropsonde_promql::{Limits, MemorySource, ParseOptions, Query, STALE, Settings, Times, parse};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

/// Series with gaps, ends, odd values, and buckets of a histogram.
static SOURCE: LazyLock<MemorySource> = LazyLock::new(|| {
    let mut source = MemorySource::new();
    let odd = [0.0, -1.5, f64::NAN, f64::INFINITY, STALE, 1e300, 5e-324, 7.0];
    for (nth, name) in ["a", "b_total", "c_bucket"].into_iter().enumerate() {
        for label in ["x", "y"] {
            let labels = Labels::from([("__name__", name), ("l", label), ("le", if nth == 2 { "1" } else { "+Inf" })]);
            for (at, value) in (0_i64..).step_by(7).zip(odd.into_iter().cycle()).take(60) {
                source.push(&labels, (at + nth as i64) * 1000, value);
            }
        }
    }
    source
});

fuzz_target!(|text: &str| {
    let options = ParseOptions { experimental: true };
    let Ok(expr) = parse(text, options) else { return };
    let printed = expr.to_string();
    let again = parse(&printed, options).unwrap_or_else(|error| panic!("{text:?} was printed as {printed:?}: {error}"));
    assert_eq!(again.to_string(), printed);
    assert!(parse(&expr.pretty(), options).is_ok(), "{text:?}");
    let limits = Limits {
        samples: Some(10_000),
        series: Some(100),
        memory: Some(Arc::new(|bytes| bytes <= 1 << 20)),
        ..Limits::default()
    };
    for times in [Times::At(200_000), Times::Range { start_ms: -10_000, end_ms: 400_000, step_ms: 13_000 }] {
        let _ = Query { expr: &expr, times, settings: Settings::default() }.run(&*SOURCE, &limits);
    }
});
