//! Samples of scraped targets that are kept as series.

use crate::harness::{Host, MadeServer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Returns the answer to an instant query: the labels and the value of each series.
fn asked(host: &Host, expression: &str) -> Vec<(Value, f64)> {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = host.get(&format!("/api/v1/query?query={encoded}")).json();
    let found = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
    found.iter().map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().parse().unwrap())).collect()
}

/// Waits until the only series that an expression finds has a value, and returns its labels.
fn until_value(host: &Host, expression: &str, wanted: f64) -> Value {
    let mut last = Vec::new();
    crate::harness::wait_until(&format!("{expression} is not {wanted}"), || {
        last = asked(host, expression);
        last.len() == 1 && last[0].1 == wanted
    });
    last.remove(0).0
}

fn until_gone(host: &Host, expression: &str) {
    crate::harness::wait_until(&format!("{expression} is still there"), || asked(host, expression).is_empty());
}

/// The configuration of a target that is scraped at each poll, every 200 ms.
fn target(id: &str, url: &str, more: &str) -> String {
    format!("[[plugins.scrape.config.targets]]\nid = '{id}'\nurl = '{url}'\n{more}\n")
}

const POLLS: &str = "poll.interval = '200ms'\nexternal_name = 'me'\n[plugins.procfs]\ninterval = '1h'\n";

#[test]
fn kept_samples_are_series_with_the_targets_labels_and_their_types() {
    let server = MadeServer::start(|_, _| {
        let text = "# HELP http_requests_total Requests.\n# TYPE http_requests_total counter\n\
                    http_requests_total{code=\"200\",zone=\"theirs\"} 7\n# TYPE http_seconds histogram\n\
                    http_seconds_bucket{le=\"1\"} 2\nhttp_seconds_bucket{le=\"+Inf\"} 3\nhttp_seconds_sum 4.5\n\
                    http_seconds_count 3\nqueue_length 5\n";
        (200, text.to_owned())
    });
    let labels = "labels = { workload = 'web', zone = 'ours' }";
    let config = [
        target("all", &server.url("/m"), &format!("keep = 'all'\n{labels}")),
        target("some", &server.url("/m"), &format!("keep = ['queue_*', 'http_seconds']\n{labels}")),
        target("honest", &server.url("/m"), &format!("keep = 'all'\nhonor_labels = true\n{labels}")),
        target("none", &server.url("/m"), labels),
    ];
    let host = Host::start(&format!("{POLLS}{}", config.concat()), &[]);
    let own = json!({ "__name__": "http_requests_total", "code": "200", "id": "all", "sampler": "scrape", "job": "dropsonde",
        "instance": "me", "workload": "web", "zone": "ours", "exported_zone": "theirs" });
    assert_eq!(until_value(&host, "http_requests_total{id='all'}", 7.0), own);
    let honest = until_value(&host, "http_requests_total{id='honest'}", 7.0);
    assert_eq!(
        (&honest["zone"], &honest["workload"], honest.get("exported_zone")),
        (&json!("theirs"), &json!("web"), None)
    );
    until_value(&host, "queue_length{id='some'}", 5.0);
    until_value(&host, "count({__name__=~'http_seconds_.*',id='some'})", 4.0);
    until_value(&host, "histogram_quantile(0.5, http_seconds_bucket{id='some'})", 0.75);
    assert!(asked(&host, "http_requests_total{id='some'}").is_empty());
    assert!(asked(&host, "{__name__!~'dropsonde_.*',id='none'}").is_empty());
    // How the scrape went is told as Prometheus tells it.
    until_value(&host, "up{id='some'}", 1.0);
    until_value(&host, "scrape_samples_scraped{id='some'}", 6.0);
    let list = host.get("/v1/series?match[]=%7Bid=%22all%22,__name__!~%22dropsonde_.*%22%7D").json();
    let kinds: Vec<_> =
        list.as_array().unwrap().iter().map(|one| (one["name"].as_str().unwrap(), &one["kind"])).collect();
    for (name, kind) in
        [("http_requests_total", "counter"), ("http_seconds_sum", "histogram"), ("queue_length", "unknown")]
    {
        assert!(kinds.contains(&(name, &json!(kind))), "{name}: {kinds:?}");
    }
    assert!(!host.get("/metrics").body.contains("\nhttp_requests_total"), "kept samples are in history alone");
}

#[test]
fn a_failed_scrape_ends_the_kept_series_and_the_next_good_one_begins_them_again() {
    let works = Arc::new(AtomicBool::new(true));
    let is_up = works.clone();
    let server = MadeServer::start(
        move |_, _| if is_up.load(Relaxed) { (200, "depth 3\n".into()) } else { (503, String::new()) },
    );
    let host = Host::start(&format!("{POLLS}{}", target("web", &server.url("/"), "keep = 'all'")), &[]);
    until_value(&host, "depth", 3.0);
    works.store(false, Relaxed);
    until_value(&host, "up{id='web'}", 0.0);
    until_gone(&host, "depth");
    works.store(true, Relaxed);
    until_value(&host, "depth", 3.0);
    until_value(&host, "up{id='web'}", 1.0);
}

#[test]
fn a_target_that_is_scraped_less_often_keeps_its_last_samples_in_between() {
    let scrapes = Arc::new(AtomicU64::new(0));
    let counted = scrapes.clone();
    let server = MadeServer::start(move |_, _| (200, format!("scrapes {}\n", counted.fetch_add(1, Relaxed))));
    let config = target("web", &server.url("/"), "keep = 'all'\ninterval = '1h'");
    let host = Host::start(&format!("{POLLS}{config}"), &[]);
    until_value(&host, "scrapes", 0.0);
    // Without them it would have ended three polls later.
    until_value(&host, "count_over_time(scrapes[1m]) > bool 10", 1.0);
    assert_eq!(asked(&host, "scrapes").len(), 1);
    assert_eq!(scrapes.load(Relaxed), 1);
}

#[test]
fn samples_that_cannot_be_kept_are_told_of_and_spare_the_others() {
    let server = MadeServer::start(|_, _| {
        let lines: String = (0..20).map(|nth| format!("depth{{queue=\"{nth}\"}} {nth}\n")).collect();
        (200, lines)
    });
    let config =
        format!("{POLLS}{}[metrics]\nmax_series_per_plugin = 10\n", target("web", &server.url("/"), "keep = 'all'"));
    let host = Host::start(&config, &[]);
    until_value(&host, "count(depth)", 7.0);
    let page = host.until("/v1/plugins/scrape", |page| page.body.contains("samples are not kept"));
    let said = "13 samples are not kept, the first because the plugin has 10 series";
    assert!(page.body.contains(said) && page.body.contains("metrics.max_series_per_plugin"), "{}", page.body);
}

#[test]
fn keep_that_is_none_of_its_forms_is_refused_with_the_target() {
    let host = Host::start(&format!("{POLLS}{}", target("web", "http://127.0.0.1:1/", "keep = 'most'")), &[]);
    let page = host.until("/v1/plugins/scrape", |page| page.json()["last_failure"]["reason"].is_string());
    assert!(page.body.contains("keep is \\\"all\\\", \\\"none\\\" or a list of patterns"), "{}", page.body);
}
