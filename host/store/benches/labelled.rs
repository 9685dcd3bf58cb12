//! Measures labelled series: the index, ticks of one scrape and of a million series, a restart, and a simulated week of
//! series that come and go.
//!
//! ```text
//! cargo bench -p dropsonde-store --bench labelled                 # all parts
//! cargo bench -p dropsonde-store --bench labelled -- live --series 1000000
//! cargo bench -p dropsonde-store --bench labelled -- scrape
//! cargo bench -p dropsonde-store --bench labelled -- churn
//! ```

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use dropsonde_store::{
    GroupKey, InstanceId, LabelMatcher, LabelValues, Labels, MetricType, SeriesGroup, SeriesHandle, Store, StoreLimits,
};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const START: i64 = 1_760_000_400_000;

/// Series of one target.
const OF_TARGET: usize = 1000;

fn main() {
    let (mut part, mut series) = (String::new(), 1_000_000);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--series" => series = arguments.next().expect("a number").parse().expect("a number"),
            "live" | "scrape" | "churn" => part = argument,
            _ => {}
        }
    }
    let folder = tempfile::tempdir_in(".").unwrap();
    let is_wanted = |name: &str| part.is_empty() || part == name;
    if is_wanted("scrape") {
        scrape();
    }
    if is_wanted("live") {
        live(&folder.path().join("live"), series);
    }
    if is_wanted("churn") {
        churn(&folder.path().join("churn"));
    }
}

fn limits() -> StoreLimits {
    StoreLimits { series: 4_000_000, ..StoreLimits::default() }
}

fn group(store: &Store, target: usize, interval_ms: i64) -> SeriesGroup {
    let instance = InstanceId::new(format!("target-{target}")).unwrap();
    store.series_group(GroupKey { instance, group: "scrape".into(), owner: "scrape".into(), interval_ms })
}

/// Returns the labels of a series as an exporter has them.
fn labels(target: usize, nth: usize) -> Labels {
    let (instance, device) = (format!("10.0.{}.{}:9100", target / 250, target % 250), format!("dev{}", nth % 50));
    let name = format!("node_metric_{}_total", nth / 50);
    Labels::from([
        ("__name__", name.as_str()),
        ("device", &device),
        ("instance", &instance),
        ("job", "node"),
        ("mode", if nth.is_multiple_of(2) { "read" } else { "write" }),
        ("zone", if target.is_multiple_of(3) { "eu-central-1" } else { "us-east-1" }),
    ])
}

fn handles(group: &mut SeriesGroup, target: usize, count: usize) -> Vec<(SeriesHandle, f64)> {
    (0..count).map(|nth| (group.series(&labels(target, nth), MetricType::Counter).unwrap(), nth as f64)).collect()
}

/// Counts up, each series by another step.
fn advance(samples: &mut [(SeriesHandle, f64)]) {
    samples.iter_mut().enumerate().for_each(|(nth, (_, value))| *value += (nth % 97) as f64);
}

/// One scrape of a thousand series every second.
fn scrape() {
    let store = Store::in_memory(&limits());
    let mut group = group(&store, 0, 1000);
    let mut samples = handles(&mut group, 0, OF_TARGET);
    group.push(START, &samples);
    let mut took = Vec::new();
    for second in 1..600 {
        advance(&mut samples);
        let begun = Instant::now();
        group.push(START + second * 1000, &samples);
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    println!(
        "a tick of {OF_TARGET} series: median {:.1?}, p99 {:.1?}",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
}

fn live(folder: &Path, series: usize) {
    let targets = series / OF_TARGET;
    let before = rss();
    let (store, mut keeper, _) = Store::open(folder, &limits()).unwrap();
    let mut groups: Vec<SeriesGroup> = (0..targets).map(|target| group(&store, target, MINUTE)).collect();
    let begun = Instant::now();
    let mut samples: Vec<_> =
        groups.iter_mut().enumerate().map(|(target, group)| handles(group, target, OF_TARGET)).collect();
    let mut push = |at_ms: i64| {
        let cpu = cpu();
        for (group, samples) in groups.iter_mut().zip(&mut samples) {
            advance(samples);
            let report = group.push(at_ms, samples);
            assert_eq!(report.refused + report.unknown, 0, "{report:?}");
        }
        self::cpu() - cpu
    };
    push(START);
    println!("{series} series: first tick {:.1?}", begun.elapsed());
    let (text, index) = store.series_memory();
    println!(
        "index: {:.1} B a series beside {:.1} B of labels",
        index as f64 / series as f64,
        text as f64 / series as f64
    );
    find(&store, series);
    let mut ticks = Vec::new();
    for minute in 1..=200 {
        ticks.push(push(START + minute * MINUTE));
        keeper.step(START + minute * MINUTE);
    }
    ticks.sort_unstable();
    let last = START + 200 * MINUTE;
    println!("a tick of all: CPU median {:.0?}, worst {:.0?}", ticks[ticks.len() / 2], ticks[ticks.len() - 1]);
    println!("memory after 200 ticks: {:.0} MB", (rss() - before) / 1e6);
    let values = 201.0 * series as f64;
    println!("disk: {:.3} B a value", size(folder) / values);
    newest(&store, last);
    drop(groups);
    assert!(keeper.close(last));
    drop(store);
    let begun = Instant::now();
    let (store, _keeper, restored) = Store::open(folder, &limits()).unwrap();
    println!("restart: open after {:.1?} ({} frames)", begun.elapsed(), restored.frames);
    newest(&store, last);
    println!("restart: first answer after {:.1?}", begun.elapsed());
}

/// The newest samples of one series.
fn newest(store: &Store, at_ms: i64) {
    let begun = Instant::now();
    let one = [LabelMatcher::is("instance", "10.0.0.7:9100"), LabelMatcher::is("__name__", "node_metric_3_total")];
    let selection = store.select(&one, at_ms - 5 * MINUTE..at_ms + 1);
    let found = selection.newest(at_ms - 5 * MINUTE..at_ms + 1);
    assert_eq!(found.iter().flatten().count(), 50);
    println!("newest samples of 50 series of one target: {:.1?}", begun.elapsed());
}

fn find(store: &Store, series: usize) {
    let time = |what: &str, matchers: &[LabelMatcher], expected: usize| {
        let mut took: Vec<Duration> = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let found = store.count_series(matchers);
            took.push(begun.elapsed());
            assert_eq!(found, expected, "{what}");
        }
        took.sort_unstable();
        println!("{what}: {:.1?}", took[took.len() / 2]);
    };
    let one = LabelMatcher::is("instance", "10.0.0.7:9100");
    time("one instance by its label", std::slice::from_ref(&one), OF_TARGET);
    time("one instance and one name", &[one.clone(), LabelMatcher::is("__name__", "node_metric_3_total")], 50);
    let test = |part: &'static str| LabelValues::Test(Arc::new(move |value: &str| value.contains(part)));
    time("one instance, devices by a test", &[one, LabelMatcher::of("device", test("v1"))], OF_TARGET * 11 / 50);
    let start = LabelValues::BeginsWith("10.0.0.".to_owned());
    time("a quarter of a thousand targets by prefix", &[LabelMatcher::of("instance", start)], series.min(250_000));

    let store = Store::in_memory(&limits());
    let mut group = group(&store, 0, MINUTE);
    let of = |nth: usize| Labels::from([("__name__", "wide"), ("user", &format!("user-{nth}@example.org"))]);
    let samples: Vec<_> = (0..100_000).map(|nth| (group.series(&of(nth), MetricType::Gauge).unwrap(), 1.0)).collect();
    group.push(START, &samples);
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(store.count_series(&[LabelMatcher::of("user", test("-77777@"))]), 1);
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    println!("one of 100 000 values by a test of each: {:.1?}", took[took.len() / 2]);
}

/// A week of 10 000 live series of which 5 % are replaced each hour.
fn churn(folder: &Path) {
    const LIVE: usize = 10_000;
    const REPLACED_EACH_HOUR: usize = 500;
    let limits = StoreLimits { age_ms: 24 * HOUR, ..limits() };
    let before = rss();
    let (store, mut keeper, _) = Store::open(folder, &limits).unwrap();
    let mut group = group(&store, 0, MINUTE);
    for minute in 0..7 * 24 * 60_usize {
        let at_ms = START + minute as i64 * MINUTE;
        let first = minute * REPLACED_EACH_HOUR / 60;
        let samples: Vec<_> = (first..first + LIVE)
            .map(|nth| (group.series(&labels(nth % 250, nth), MetricType::Counter).unwrap(), (minute * 7 + nth) as f64))
            .collect();
        let report = group.push(at_ms, &samples);
        assert_eq!(report.samples as usize, LIVE, "{report:?}");
        if minute % 5 == 0 {
            keeper.step(at_ms);
        }
        if (minute + 1) % (24 * 60) == 0 {
            let (text, index) = store.series_memory();
            println!(
                "day {}: {} series, {} frames, index {:.1} MB, memory {:.0} MB, disk {:.1} MB",
                (minute + 1) / (24 * 60),
                store.series_count(),
                store.usage().frames,
                (text + index) as f64 / 1e6,
                (rss() - before) / 1e6,
                size(folder) / 1e6
            );
        }
    }
    drop(group);
    assert!(keeper.close(START + 7 * 24 * HOUR));
    drop(store);
    let begun = Instant::now();
    let (store, ..) = Store::open(folder, &limits).unwrap();
    println!("restart with {} series after {:.1?}", store.series_count(), begun.elapsed());
}

/// Returns the resident memory in bytes.
fn rss() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

/// Returns the CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn size(folder: &Path) -> f64 {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>() as f64
}
