//! How fast expressions are read and printed, in bytes of their text.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that panics says what is wrong")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropsonde_promql::{ParseOptions, parse};
use std::hint::black_box;

/// Expressions as dashboards and rules have them.
const EXPRESSIONS: [&str; 10] = [
    "up",
    r#"sum by (instance, job) (rate(node_cpu_seconds_total{mode!="idle",instance=~"web-.*"}[5m]))"#,
    "histogram_quantile(0.99, sum by (le, handler) (rate(http_request_duration_seconds_bucket{code=~\"200|204\"}[5m])))",
    "100 - (avg by (instance) (irate(node_cpu_seconds_total{mode=\"idle\"}[5m])) * 100)",
    "(node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes) / node_memory_MemTotal_bytes > 0.9",
    "predict_linear(node_filesystem_avail_bytes{fstype!~\"tmpfs|overlay\"}[6h], 24 * 3600) < 0 and node_filesystem_readonly == 0",
    "topk(5, sum by (workload) (increase(requests_total{code=~\"5.*\"}[1h] offset 1d)) / ignoring (code) group_left () sum(total))",
    "max_over_time(rate(errors_total[1m])[1h:5m]) > on (job) group_left (team) 2 * avg_over_time(limit[1d] @ end())",
    "label_replace(absent(up{job=\"api\",instance=\"a:9090\"}), \"service\", \"$1\", \"job\", \"(.*)\")",
    "{\"http.server.duration\",\"deployment.environment\"=\"production\"} unless on (\"service.name\") ALERTS{alertstate=\"firing\"}",
];

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expressions");
    group.throughput(Throughput::Bytes(EXPRESSIONS.iter().map(|text| text.len() as u64).sum()));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            for text in EXPRESSIONS {
                black_box(parse(black_box(text), ParseOptions::default()).unwrap());
            }
        });
    });
    // A regular expression that is no list and no beginning is compiled, which takes longer than all else.
    let with_regex = r#"sum(rate(requests_total{code=~"[45].."}[5m]))"#;
    group.bench_function("parse a regular expression", |bencher| {
        bencher.iter(|| parse(black_box(with_regex), ParseOptions::default()).unwrap());
    });
    let parsed = EXPRESSIONS.map(|text| parse(text, ParseOptions::default()).unwrap());
    group.bench_function("print", |bencher| {
        bencher.iter(|| {
            for expr in &parsed {
                black_box(expr.to_string());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
