//! How fast an exposition is read.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that panics says what is wrong")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_openmetrics::read::{ExpositionLine, read};
use std::fmt::Write as _;
use std::hint::black_box;

/// Returns an exposition as programs have it: counters with labels, histograms, gauges.
fn exposition(series: usize) -> String {
    let mut text = String::new();
    for nth in 0..series / 20 {
        let name = format!("http_request_duration_seconds_{nth}");
        writeln!(text, "# HELP {name} Time until a request was answered.\n# TYPE {name} histogram").unwrap();
        for (le, count) in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"].iter().zip(1..)
        {
            let count = count * 3571 + nth;
            writeln!(
                text,
                "{name}_bucket{{method=\"GET\",code=\"200\",handler=\"/api/v1/query\",le=\"{le}\"}} {count}"
            )
            .unwrap();
        }
        writeln!(text, "{name}_sum{{method=\"GET\",code=\"200\",handler=\"/api/v1/query\"}} 1234.56789{nth}").unwrap();
        writeln!(text, "{name}_count{{method=\"GET\",code=\"200\",handler=\"/api/v1/query\"}} 35710").unwrap();
        writeln!(text, "# HELP node_cpu_seconds_{nth}_total CPU time.\n# TYPE node_cpu_seconds_{nth}_total counter")
            .unwrap();
        for mode in ["idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"] {
            writeln!(text, "node_cpu_seconds_{nth}_total{{cpu=\"{nth}\",mode=\"{mode}\"}} 48210.{nth}7").unwrap();
        }
    }
    text
}

fn reading(criterion: &mut Criterion) {
    let text = exposition(10_000);
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("10 000 series", |bencher| {
        bencher.iter(|| {
            let mut sum = 0.0;
            let mut take = |line: ExpositionLine<'_>| {
                if let ExpositionLine::Sample(sample) = line {
                    sum += sample.value;
                }
            };
            read(black_box(text.as_bytes()), ExpositionFormat::Text, &mut take).unwrap();
            sum
        });
    });
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
