//! Labelled series: what the host and plugins register is in history, as `/metrics` shows it, and can be asked for.

use crate::harness::{Host, Prometheus, dropsonde, run, verbs};
use serde_json::Value;
use std::fs;

/// A host whose plugin registers metrics each time it samples the instance `measure`.
const MEASURING: &str = "poll.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n\
                         [[instances]]\nid = 'measure'\nsamplers = ['verbs']\nlabels = { zone = 'a' }\n";

/// Encodes a selector for a query string.
fn matching(selector: &str) -> String {
    let encoded: String = selector.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("match[]={encoded}")
}

fn listed(host: &Host, selector: &str) -> Vec<Value> {
    host.get(&format!("/v1/series?{}", matching(selector))).json().as_array().unwrap().clone()
}

/// Waits until a series is listed, and returns its entry.
fn one(host: &Host, selector: &str) -> Value {
    let path = format!("/v1/series?{}", matching(selector));
    let found = host.until(&path, |answer| answer.json().as_array().is_some_and(|all| !all.is_empty()));
    found.json()[0].clone()
}

#[test]
fn registered_metrics_are_in_history_with_their_labels_and_types() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    let level = one(&host, "verbs_level");
    assert_eq!((&level["series"], &level["kind"]), (&"verbs_level{plugin=\"verbs\"}".into(), &"gauge".into()));
    assert_eq!(level["labels"], serde_json::json!({ "plugin": "verbs" }));
    assert!(level["first_at"].as_str() <= level["last_at"].as_str());
    // A histogram has its buckets, its sum and its count.
    let parts = listed(&host, "{__name__=~\"verbs_seconds_.*\",plugin=\"verbs\"}");
    assert!(parts.iter().all(|part| part["kind"] == "histogram"), "{parts:?}");
    assert!(parts.iter().any(|part| part["labels"]["le"] == "+Inf" && part["name"] == "verbs_seconds_bucket"));
    assert!(parts.iter().any(|part| part["name"] == "verbs_seconds_sum" && part["unit"] == "seconds"), "{parts:?}");
    // The host's own metrics are there too.
    let own = one(&host, "dropsonde_history_flushes_total");
    assert_eq!((&own["kind"], &own["labels"]), (&"counter".into(), &serde_json::json!({})));
}

#[test]
fn fields_of_samples_are_series_under_their_names_on_metrics() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    let path = format!("/v1/series?{}", matching("{id=\"measure\",zone=\"a\"}"));
    let found = host.until(&path, |answer| answer.json().as_array().is_some_and(|all| !all.is_empty())).json();
    let exposed = host.get("/metrics").body;
    for series in found.as_array().unwrap() {
        let named = series["series"].as_str().unwrap();
        // The order of labels differs.
        let line = exposed.lines().find(|line| line.starts_with(&format!("{}{{", series["name"].as_str().unwrap())));
        assert!(line.is_some_and(|line| line.contains("id=\"measure\"") && line.contains("zone=\"a\"")), "{named}");
    }
}

#[test]
fn the_samples_of_a_series_can_be_read_and_a_series_ends_when_its_plugin_is_removed() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    let range = format!("/v1/series/range?range=1m&resolution=1s&bands=1&{}", matching("verbs_level"));
    let answer = host.until(&range, |answer| answer.json()[0]["points"].as_array().is_some_and(|all| all.len() > 1));
    let point = answer.json()[0]["points"][0].clone();
    assert_eq!((&point["value"], &point["min"], &point["max"]), (&4.5.into(), &4.5.into(), &4.5.into()));
    let federated = format!("/federate?{}", matching("verbs_level"));
    let shown = host.get(&federated).body;
    let (head, sample) = shown.split_once('\n').unwrap();
    assert_eq!(head, "# TYPE verbs_level gauge");
    assert!(sample.starts_with("verbs_level{plugin=\"verbs\"} 4.5 1"), "{sample}");
    fs::remove_file(host.plugin_file("verbs")).unwrap();
    host.until(&federated, |answer| answer.body.is_empty());
    assert_eq!(listed(&host, "verbs_level").len(), 1, "its history stays");
}

#[test]
fn series_survive_a_restart() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    let before = one(&host, "verbs_level");
    let host = host.restart();
    let after = listed(&host, "verbs_level");
    assert_eq!((&after[0]["series"], &after[0]["first_at"]), (&before["series"], &before["first_at"]));
}

#[test]
fn long_lists_of_series_come_in_pages() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    one(&host, "verbs_level");
    let all = host.get("/v1/series?limit=100000").json();
    let all = all.as_array().unwrap();
    let names =
        |list: &[Value]| list.iter().map(|series| series["series"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let encoded: String = after.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let page = host.get(&format!("/v1/series?limit=40&after={encoded}")).json();
        let page = names(page.as_array().unwrap());
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        paged.extend(page);
    }
    // New series may have appeared meanwhile.
    assert!(names(all).iter().all(|series| paged.contains(series)));
    assert!(paged.len() >= all.len() && paged.len() > 80, "{}", paged.len());
}

#[test]
fn metrics_that_the_operator_does_not_keep_are_not_in_history() {
    let config = format!("{MEASURING}[metrics]\nhistory_keep = ['verbs_l*']\n");
    let host = Host::start(&config, &[("verbs", verbs())]);
    one(&host, "verbs_level");
    assert!(listed(&host, "verbs_seconds_count").is_empty() && listed(&host, "dropsonde_history_rows").is_empty());
    host.reconfigure(&format!("{MEASURING}[metrics]\nhistory = false\n"));
    host.until(&format!("/federate?{}", matching("verbs_level")), |answer| answer.body.is_empty());
    let host = host.restart();
    host.until("/v1/instances/measure/usage", |usage| usage.status == 200);
    assert!(host.get(&format!("/federate?{}", matching("verbs_level"))).body.is_empty());
}

#[test]
fn a_wrong_selector_is_refused_with_its_place() {
    let host = Host::start("", &[]);
    for (path, why) in [
        ("/v1/series?match[]=up%7Bjob%7D", "1:7: parse error: expected one of `=`, `!=`, `=~`, `!~`, but found `}`"),
        ("/v1/series/range?range=1h", "name the series to read"),
        ("/federate?match[]=%7Ba%3D~%22(%22%7D", "unclosed group"),
        ("/v1/series?limit=x", "is not a number"),
    ] {
        let answer = host.get(path);
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains(why), "{path}: {}", answer.body);
    }
}

#[test]
fn prometheus_federates_from_a_host() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    one(&host, "verbs_level");
    let (address, selector) = (&host.address, "{__name__=~\"verbs_.*\"}");
    let prometheus = Prometheus::with(&format!(
        "  - job_name: federate\n    metrics_path: /federate\n    honor_labels: true\n    params:\n      \
         'match[]': ['{selector}']\n    static_configs:\n      - targets: ['{address}']\n"
    ));
    assert_eq!(prometheus.until("verbs_level{plugin=\"verbs\"}", |level| level == 4.5), 4.5);
    prometheus
        .until("histogram_quantile(0.9, rate(verbs_seconds_bucket[1m]))", |quantile| (0.1..=1.0).contains(&quantile));
}

#[test]
fn an_export_has_the_series_with_their_labels() {
    let mut host = Host::start(MEASURING, &[("verbs", verbs())]);
    one(&host, "verbs_level");
    host.stop();
    let data = host.data().display().to_string();
    let export = |format: &str| {
        let (code, out, error) = run(dropsonde().args(["store", "export", "--data", &data, "--format", format]));
        assert_eq!(code, 0, "{error}");
        out
    };
    let text = export("openmetrics");
    assert!(text.contains("\n# TYPE verbs_level gauge\nverbs_level{plugin=\"verbs\"} 4.5 1"), "{text}");
    assert!(text.contains("\nverbs_seconds_bucket{le=\"+Inf\",plugin=\"verbs\"} "), "{text}");
    let csv = export("csv");
    let line = csv.lines().find(|line| line.contains(",dropsonde:metrics,verbs,\"verbs_level{"));
    assert!(line.is_some_and(|line| line.ends_with("{plugin=\"\"verbs\"\"}\",4.5")), "{line:?}");
    let (_, stats, _) = run(dropsonde().args(["store", "stats", "--json", "--data", &data]));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(stats["series"].as_u64() > Some(100), "{stats}");
    let (code, _, error) = run(dropsonde().args(["store", "verify", "--data", &data]));
    assert_eq!(code, 0, "{error}");
}

/// A host whose plugin reports series of the instance `series`.
const REPORTING: &str = "poll.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n\
                         [[instances]]\nid = 'series'\nsamplers = ['verbs']\nlabels = { zone = 'mine' }\n";

#[test]
fn a_plugin_can_report_series_that_nobody_knew_beforehand() {
    let host = Host::start(REPORTING, &[("verbs", verbs())]);
    let reads = one(&host, "verb_reads_total{part=\"a\"}");
    assert_eq!(reads["series"], "verb_reads_total{id=\"series\",part=\"a\",sampler=\"verbs\",zone=\"mine\"}");
    assert_eq!(reads["kind"], "counter");
    // The host's own labels cannot be taken.
    let depth = one(&host, "verb_depth");
    let labels = serde_json::json!({
        "exported_id": "own", "exported_sampler": "me", "exported_zone": "verbs", "id": "series", "sampler": "verbs",
        "zone": "mine",
    });
    assert_eq!(depth["labels"], labels);
    assert_eq!(host.until_usage("series", |usage| usage["value"].is_number())["value"], 2, "two definitions are wrong");
    // One series is reported at every other tick only: it ends in between, and begins again.
    let federated = |part: &str| format!("/federate?{}", matching(&format!("verb_reads_total{{part=\"{part}\"}}")));
    host.until(&federated("b"), |answer| answer.body.is_empty());
    host.until(&federated("b"), |answer| !answer.body.is_empty());
    assert!(!host.get(&federated("a")).body.is_empty());
    // What was reported of an instance that nobody asked for is counted and left out.
    assert!(listed(&host, "{id=\"nobody\"}").is_empty());
    let counted = "dropsonde_errors_total{service=\"verbs\",type=\"series_of_others\"}";
    host.until("/metrics", |metrics| {
        metrics.body.lines().any(|line| line.starts_with(counted) && !line.ends_with(" 0"))
    });
    assert!(!host.get("/metrics").body.contains("verb_reads_total"), "reported series are in history alone");
}

#[test]
fn reported_series_go_with_their_instance_and_survive_a_restart() {
    let host = Host::start("poll.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n", &[("verbs", verbs())]);
    let tracked = |host: &Host, method: &str| host.send_as_writer(method, "/v1/instances/series", "{}").status;
    assert!([200, 201, 204].contains(&tracked(&host, "PUT")));
    one(&host, "verb_depth");
    let host = host.restart();
    let before = one(&host, "verb_reads_total{part=\"a\"}")["first_at"].clone();
    let path = format!("/v1/series?{}", matching("verb_reads_total{part=\"a\"}"));
    let last = |answer: &crate::harness::Response| answer.json()[0]["last_at"].as_str().map(str::to_owned);
    let at_start = last(&host.get(&path));
    host.until(&path, |answer| last(answer) > at_start);
    assert_eq!(one(&host, "verb_reads_total{part=\"a\"}")["first_at"], before);
    assert!([200, 204].contains(&tracked(&host, "DELETE")));
    assert!(listed(&host, "{id=\"series\"}").is_empty());
}
