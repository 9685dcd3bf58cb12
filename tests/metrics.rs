use crate::harness::{Host, client, components, prometheus_tool, verbs};
use dropsonde_openmetrics::strict::{self, ParsedFamily};
use flate2::read::GzDecoder;
use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

fn host() -> Host {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'odd \"id\\'\nlabels = { note = \"a\\\"b\\\\c\\nd\" }\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/metrics", |metrics| {
        metrics.body.contains("dropsonde_sample_verb_calls_total{")
            && metrics.body.contains("dropsonde_sample_memory_used_bytes{")
    });
    host
}

/// Returns the output of Prometheus' linter: from Debian's package, unpacked by `cargo dev setup`, or from the PATH.
pub(crate) fn promtool(exposition: &str) -> String {
    let child = prometheus_tool("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("promtool ({error}): `cargo dev setup` unpacks it"));
    child.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// Starts a host with instances whose ids are verbs, polled ten times a second.
fn host_with_instances(verbs_done: &[&str]) -> Host {
    let instances: String =
        verbs_done.iter().map(|verb| format!("[[instances]]\nid = '{verb}'\nsamplers = ['verbs']\n")).collect();
    Host::start(&format!("poll.interval = '100ms'\n{instances}"), &[("verbs", verbs())])
}

/// Waits until the families are as wanted, and returns all of them, from OpenMetrics.
fn families(host: &Host, wanted: impl Fn(&[ParsedFamily]) -> bool) -> Vec<ParsedFamily> {
    let mut families = Vec::new();
    host.until_with("/metrics", "Accept: application/openmetrics-text\r\n", |metrics| {
        families = strict::openmetrics(&metrics.body).unwrap_or_else(|why| panic!("{why}\n{}", metrics.body));
        wanted(&families)
    });
    families
}

#[test]
fn promtool_accepts_the_metrics() {
    let metrics = host().get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(promtool(&metrics.body), "", "{}", metrics.body);
}

#[test]
fn promtool_accepts_metrics_of_fields_with_odd_names() {
    let odd = [
        ["wait_us_p95", "read_kb_per_sec"],
        ["threads_count", "swaps_per_hour"],
        ["queue_gauge", "cpu_ms_per_s"],
        ["age_days_avg", "a_bucket"],
    ];
    let config: String = odd
        .iter()
        .enumerate()
        .map(|(nth, [first, second])| format!("[plugins.p{nth}.config]\nfields = ['{first}', '{second}']\n"))
        .collect();
    let plugins: Vec<_> = (0..odd.len()).map(|nth| (format!("p{nth}"), verbs())).collect();
    let plugins: Vec<(&str, &[u8])> = plugins.iter().map(|(name, component)| (name.as_str(), *component)).collect();
    let config = format!("poll.interval = '100ms'\n{config}[[instances]]\nid = 'count'\n");
    let host = Host::start(&config, &plugins);
    let shown = ["wait_seconds_p95", "threads_counted", "queue", "age_seconds_avg"];
    let metrics = host.until("/metrics", |metrics| {
        shown.iter().all(|name| metrics.body.contains(&format!("dropsonde_sample_{name}{{")))
    });
    assert_eq!(promtool(&metrics.body), "", "{}", metrics.body);
}

#[test]
fn promtool_rejects_a_metric_without_help_and_base_unit() {
    assert!(!promtool("# TYPE a_ms gauge\na_ms 1\n").is_empty());
}

#[test]
fn sample_metrics_use_base_units_and_have_id_and_sampler_labels() {
    let host = host();
    let metrics = host.get("/metrics").body;
    let value = |begins: &str| -> f64 {
        let line =
            metrics.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("{begins} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let bytes = value("dropsonde_sample_memory_used_bytes{kind=\"host\",id=\"host\",sampler=\"procfs\"}");
    assert!(bytes > 10e6, "in bytes, not in MiB: {bytes}");
    assert!(metrics.contains("# TYPE dropsonde_sample_verb_calls_total counter"));
    let odd = r#"{note="a\"b\\c\nd",id="odd \"id\\",sampler="verbs"}"#;
    assert!(value(&format!("dropsonde_sample_verb_calls_total{odd}")) >= 1.0, "labels are escaped");
}

#[test]
fn the_host_exposes_metrics_about_requests_services_and_plugins() {
    let host = host();
    host.get("/no/such/path");
    let metrics = host.get("/metrics").body;
    for line in [
        "dropsonde_http_requests_total{route=\"unknown\",status=\"4xx\"} 1",
        "dropsonde_service_status{service=\"host\"} 2",
        "dropsonde_plugin_polls_missed_total{plugin=\"verbs\"} ",
        "dropsonde_plugin_memory_bytes{plugin=\"verbs\"} ",
        "dropsonde_plugin_call_seconds_count{plugin=\"verbs\"} ",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn metrics_of_a_plugin_are_exposed_with_its_name_as_a_label() {
    let host = host_with_instances(&["measure"]);
    let own = |families: &[ParsedFamily], name, labels: &[(&str, &str)]| {
        strict::value(families, name, &[&[("plugin", "verbs")], labels].concat())
    };
    let measured = [("how", "\"quoted\"\n")];
    let ignored = [("plugin", "verbs"), ("reason", "value")];
    let families = families(&host, |families| {
        own(families, "verbs_measured_total", &measured) >= Some(3.0)
            && strict::value(families, "dropsonde_plugin_metrics_ignored_total", &ignored) >= Some(3.0)
    });
    assert_eq!(own(&families, "verbs_level", &[]), Some(4.5));
    let count = own(&families, "verbs_seconds_count", &[]).unwrap();
    assert_eq!(own(&families, "verbs_seconds_bucket", &[("le", "0.1")]), Some(0.0));
    assert_eq!(own(&families, "verbs_seconds_bucket", &[("le", "1.0")]), Some(count));
    assert_eq!(own(&families, "verbs_seconds_sum", &[]), Some(count / 2.0));
    assert_eq!(own(&families, "verbs_strange_total", &[]), Some(0.0), "what means nothing is ignored");
    assert_eq!(promtool(&host.get("/metrics").body), "");
    let help = families.iter().find(|family| family.name == "verbs_level").unwrap();
    assert_eq!((help.help.as_str(), help.kind.as_str()), ("A level.", "gauge"));
}

#[test]
fn control_characters_in_help_texts_of_plugins_are_removed() {
    let harmful = "\0\x1b\r\n\u{2028}";
    let component = components::replace_text(verbs(), "A level.", &format!("{harmful}x"));
    let component = components::replace_text(&component, "What the verb gave", &format!("{harmful}e verb gave"));
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'measure'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", &component)]);
    let families = families(&host, |families| {
        ["verbs_level", "dropsonde_sample_value"].iter().all(|name| families.iter().any(|family| family.name == *name))
    });
    let help = |name: &str| families.iter().find(|family| family.name == name).unwrap().help.trim().to_owned();
    assert_eq!((help("verbs_level"), help("dropsonde_sample_value")), ("x".to_owned(), "e verb gave".to_owned()));
    let text = host.get("/metrics").body;
    let is_harmful = |c: char| c != '\n' && (c.is_control() || c == '\u{2028}');
    assert!(!text.contains(is_harmful), "{text:?}");
    assert_eq!(promtool(&text), "");
}

#[test]
fn metrics_with_invalid_names_or_labels_are_refused_and_the_plugin_keeps_running() {
    let host = host_with_instances(&["wrong"]);
    let usage = host.until("/v1/instances/wrong/usage", |usage| usage.status == 200).json();
    assert_eq!(usage["value"], 8, "six names, a conflict, a label");
    assert_eq!(host.plugin("verbs")["state"], "running");
}

#[test]
fn series_beyond_the_limit_per_plugin_are_refused_and_the_plugin_keeps_running() {
    let config = "poll.interval = '100ms'\nmetrics.max_series_per_plugin = 1500\n[[instances]]\nid = 'labels'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let overflow = [("plugin", "verbs")];
    let families = families(&host, |families| {
        strict::value(families, "dropsonde_plugin_metrics_overflow_total", &overflow) >= Some(500.0)
    });
    let labels = families.iter().find(|family| family.name == "verbs_labels");
    assert!(labels.is_none(), "of gauges nobody set nothing is known");
    assert_eq!(host.plugin("verbs")["state"], "running");
    let usage = host.until("/v1/instances/labels/usage", |usage| usage.status == 200 && usage.json()["value"] == 1000);
    assert_eq!(usage.json()["value"], 1000, "each one it asks for beyond is refused");
}

#[test]
fn recordings_to_unknown_metric_handles_are_ignored_and_counted() {
    let host = host_with_instances(&["astray"]);
    let ignored = [("plugin", "verbs"), ("reason", "handle")];
    families(&host, |families| {
        strict::value(families, "dropsonde_plugin_metrics_ignored_total", &ignored) >= Some(6.0)
    });
    assert_eq!(host.plugin("verbs")["state"], "running");
}

#[test]
fn all_series_of_a_plugin_disappear_when_its_file_is_removed() {
    let host = host_with_instances(&["measure"]);
    families(&host, |families| families.iter().any(|family| family.name == "verbs_level"));
    fs::remove_file(host.plugin_file("verbs")).unwrap();
    let metrics = host.until("/metrics", |metrics| !metrics.body.contains("\"verbs\""));
    assert!(!metrics.body.contains("verbs_"), "{}", metrics.body);
}

#[test]
fn after_a_trap_counters_of_a_plugin_continue_and_its_gauges_are_absent() {
    let host = host_with_instances(&["once"]);
    // Its second instance came back.
    host.until("/v1/instances/once/usage", |usage| usage.status == 200);
    let families = families(&host, |families| {
        strict::value(families, "dropsonde_workers_stopped_total", &[("reason", "crashed")]) >= Some(1.0)
    });
    let own = |name| strict::value(&families, name, &[("plugin", "verbs")]);
    assert_eq!((own("verbs_once_total"), own("verbs_once_level")), (Some(1.0), None));
}

#[test]
fn text_and_openmetrics_contain_the_same_metrics_and_gzip_is_sent_on_request() {
    let host = host();
    let open = host.request_with("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_eq!(open.header("vary"), Some("accept, accept-encoding"));
    let (open, classic) = (strict::openmetrics(&open.body).unwrap(), host.get("/metrics"));
    assert_eq!(classic.header("content-encoding"), None);
    let classic = strict::text(&classic.body).unwrap();
    let names = |families: &[ParsedFamily]| -> Vec<String> {
        families.iter().flat_map(|family| &family.samples).map(|(name, ..)| name.clone()).collect()
    };
    for name in ["dropsonde_sample_memory_used_bytes", "dropsonde_http_requests_total", "dropsonde_build_info"] {
        assert!(names(&open).iter().any(|one| one == name) && names(&classic).iter().any(|one| one == name), "{name}");
    }
    let (head, body) =
        client::send_and_read_bytes(&host.address, "GET", "/metrics", "Accept-Encoding: gzip, br\r\n", &[]);
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(strict::text(&text).is_ok() && body.len() < text.len() / 2);
}
