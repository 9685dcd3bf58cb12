//! Samples that are sent to a collector by OTLP.

use crate::harness::{Host, Measured, StrictCollector, dropsonde, run, wait_until};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const HITS: [&str; 1] = ["} hits_total {"];
const TOOK: [&str; 1] = ["} took_seconds {"];

/// Returns an exposition in which a counter has a value.
fn exposition(hits: u32) -> String {
    format!(
        "# TYPE hits_total counter\nhits_total{{page=\"/\"}} {hits}\n# TYPE depth gauge\ndepth 2.5\n\
         # TYPE took_seconds histogram\ntook_seconds_bucket{{le=\"0.1\"}} 2\ntook_seconds_bucket{{le=\"0.5\"}} 6\n\
         took_seconds_bucket{{le=\"+Inf\"}} 9\ntook_seconds_sum 4.5\ntook_seconds_count 9\n"
    )
}

fn config(measured: &Measured, collector: &StrictCollector, more: &str) -> String {
    let otlp = format!("[[otlp]]\nname = 'far'\nurl = '{}'\ninterval = '200ms'\n{more}\n", collector.url());
    format!("metrics.history = true\n{}{otlp}", measured.config())
}

/// Returns the samples of a series in history.
fn history(host: &Host, series: &str) -> Vec<(i64, f64)> {
    let query = percent_encoding::utf8_percent_encode(series, percent_encoding::NON_ALPHANUMERIC);
    let answer = host.get(&format!("/api/v1/query?query={query}%5B1d%5D")).json();
    let values = answer["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
    let sample = |pair: &serde_json::Value| {
        ((pair[0].as_f64().unwrap() * 1000.0).round() as i64, pair[1].as_str().unwrap().parse().unwrap())
    };
    values.iter().map(sample).collect()
}

#[test]
fn a_collector_gets_gauges_totals_and_whole_histograms_with_the_resource_of_their_instance() {
    let (measured, collector) = (Measured::start(&exposition(5)), StrictCollector::start());
    let more = "external_labels = { rack = 'r1' }\nresource = { 'deployment.environment.name' = 'prod' }";
    let host = Host::start(&config(&measured, &collector, more), &[]);
    let state = collector.until("there are no points", |state| {
        state.points(&TOOK).len() >= 10 && state.points(&["dropsonde_build_info"]).len() >= 2
    });
    let resource = "{deployment.environment.name=\"prod\",host.name=\"me\",service.instance.id=\"app\",\
                    service.name=\"dropsonde\"}";
    let of_target = |name: &str, attributes: &str| state.points(&[&format!("{resource} {name} {attributes}")]);
    let hits = of_target("hits_total", "{page=\"/\",rack=\"r1\",sampler=\"scrape\"}");
    assert!(hits.len() >= 9, "{:?}", state.streams.keys());
    assert!(hits.iter().all(|point| point.kind == "sum" && point.start_ms == hits[0].at_ms as u64), "{hits:?}");
    let got: Vec<_> = hits.iter().filter_map(|point| Some((point.at_ms, point.value?))).collect();
    let kept = history(&host, "hits_total");
    let expected: Vec<_> =
        kept.into_iter().filter(|(at_ms, _)| (got[0].0..=got[got.len() - 1].0).contains(at_ms)).collect();
    assert_eq!(got, expected);
    let depth = of_target("depth", "{rack=\"r1\",sampler=\"scrape\"}");
    assert!(depth.iter().all(|point| (point.kind, point.value) == ("gauge", Some(2.5))), "{depth:?}");
    let took = of_target("took_seconds", "{rack=\"r1\",sampler=\"scrape\"}");
    assert!(took.iter().all(|point| point.kind == "histogram" && point.value == Some(9.0)), "{took:?}");
    assert_eq!(took[0].buckets, [(0.1, 2), (0.5, 4), (f64::INFINITY, 3)]);
    // The host itself is an instance, too.
    let own = state.streams.keys().find(|name| name.contains("dropsonde_build_info")).unwrap();
    assert!(own.contains("service.instance.id=\"me\""), "{own}");
    let seconds = state.points(&["} dropsonde_uptime_seconds {"]);
    assert!(seconds.iter().all(|point| point.unit == "s"), "{seconds:?}");
}

/// Kills of a host at random moments.
const KILLS: u64 = 10;

/// The most points of a request in that test.
const AT_ONCE: usize = 50;

#[test]
fn a_total_counts_since_the_same_time_through_kills_and_anew_after_a_reset() {
    let (measured, collector) = (Measured::start(&exposition(100)), StrictCollector::start());
    let config = config(&measured, &collector, &format!("max_samples = {AT_ONCE}\nshards = 1"));
    let mut host = Host::start(&config, &[]);
    collector.wait_for("there are no points", |state| !state.points(&HITS).is_empty());
    for round in 0..KILLS {
        measured.set(&exposition(101 + round as u32));
        let moment = RandomState::new().hash_one(round) % 1000;
        std::thread::sleep(Duration::from_millis(moment));
        host = host.kill().start_again();
    }
    measured.set(&exposition(3));
    let state = collector.until("the reset is missing", |state| {
        state.points(&HITS).iter().filter(|point| point.value == Some(3.0)).count() >= 3
    });
    let hits = state.points(&HITS);
    let first = hits[0].at_ms as u64;
    let reset = hits.iter().position(|point| point.value == Some(3.0)).unwrap();
    assert!(hits[..reset].iter().all(|point| point.start_ms == first), "{hits:?}");
    let last = hits[..reset].iter().rfind(|point| point.value.is_some()).unwrap().at_ms as u64;
    assert!(hits[reset..].iter().all(|point| point.start_ms == last), "{hits:?}");
    let got: Vec<_> = hits.iter().filter_map(|point| Some((point.at_ms, point.value?))).collect();
    let kept = history(&host, "hits_total");
    let expected: Vec<_> =
        kept.into_iter().filter(|(at_ms, _)| (got[0].0..=got[got.len() - 1].0).contains(at_ms)).collect();
    assert_eq!(got, expected);
    assert!(state.again <= KILLS as usize * AT_ONCE, "{} points came again", state.again);
}

#[test]
fn only_passing_refusals_are_followed_by_another_attempt_and_what_is_rejected_is_counted() {
    let (measured, collector) = (Measured::start(&exposition(5)), StrictCollector::start());
    let host = Host::start(&config(&measured, &collector, ""), &[]);
    collector.wait_for("there are no points", |state| !state.points(&HITS).is_empty());
    for (status, headers) in [(503, ""), (429, "Retry-After: 1\r\n"), (502, ""), (504, "")] {
        let before = collector.state().requests;
        collector.answer(status, headers);
        wait_until("it is not asked again", || collector.state().requests >= before + 2);
        collector.accept();
        let count = collector.state().points(&HITS).len();
        collector.wait_for("it gets nothing more", |state| state.points(&HITS).len() >= count + 2);
    }
    let points = collector.state().points(&HITS);
    let got: Vec<i64> = points.iter().filter(|point| point.value.is_some()).map(|point| point.at_ms).collect();
    let kept: Vec<i64> = history(&host, "hits_total").into_iter().map(|(at_ms, _)| at_ms).collect();
    let expected: Vec<i64> = kept.into_iter().filter(|at_ms| (got[0]..=got[got.len() - 1]).contains(at_ms)).collect();
    assert_eq!(got, expected, "nothing is lost");
    let dropped =
        |reason: &str| format!("dropsonde_remote_samples_dropped_total{{destination=\"far\",reason=\"{reason}\"}}");
    for status in [500, 401, 400] {
        collector.answer(status, "");
        host.until("/metrics", |metrics| metrics.body.contains(&dropped(&status.to_string())));
    }
    collector.reject(3, "too many attributes");
    host.until("/metrics", |metrics| metrics.body.contains(&dropped("partial_success")));
    assert!(host.until_logged("too many attributes").contains("it took only some of them"));
    collector.accept();
    let count = collector.state().points(&HITS).len();
    collector.wait_for("it gets nothing more", |state| state.points(&HITS).len() >= count + 2);
}

#[test]
fn history_in_files_is_sent_to_a_collector_of_the_configuration() {
    let (measured, collector) = (Measured::start(&exposition(5)), StrictCollector::start());
    let host = Host::start(&measured.config(), &[]);
    host.until("/metrics", |_| history(&host, "hits_total").len() >= 10);
    let config = host.folder().join("send.toml");
    fs::write(&config, format!("external_name = 'me'\n[[otlp]]\nname = 'far'\nurl = '{}'\n", collector.url())).unwrap();
    let mut command = dropsonde();
    command.args(["store", "send", "--to", "far", "--match", "{__name__=~\"hits_total|took_seconds.*\"}", "--data"]);
    let (code, out, errors) = run(command.arg(host.data()).arg("--config").arg(config));
    assert_eq!(code, 0, "{out}{errors}");
    let state = collector.until("there are no points", |state| state.points(&HITS).len() >= 5);
    assert_eq!(state.streams.len(), 2, "{:?}", state.streams.keys());
    let count: usize = state.streams.values().map(Vec::len).sum();
    assert!(out.starts_with(&format!("sent {count} samples in ")), "{out}");
    assert!(state.points(&TOOK).iter().all(|point| point.buckets.len() == 3));
}
