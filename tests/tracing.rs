//! Spans to a collector, and lines of the log.

use crate::harness::{Collector, Host, attribute, dropsonde, verbs};
use dropsonde_openmetrics::strict;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::time::Instant;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Starts a host that sends its spans, with instances whose ids are verbs.
fn host_with_tracing(collector: &Collector, more: &str, verbs_done: &[&str]) -> Host {
    let endpoint = &collector.endpoint;
    let instances: String =
        verbs_done.iter().map(|verb| format!("[[instances]]\nid = '{verb}'\nsamplers = ['verbs']\n")).collect();
    let config = format!("poll.interval = '100ms'\ntracing.otlp_endpoint = '{endpoint}'\n{more}\n{instances}");
    Host::start(&config, &[("verbs", verbs())])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a poll of the plugin `verbs` that has all its spans, with its children.
fn whole_poll_of_verbs(spans: &[Span]) -> Option<(&Span, Vec<&Span>)> {
    let is_ours = |span: &&Span| attribute(&span.attributes, "plugin").as_deref() == Some("verbs");
    let children = |poll: &Span| -> Vec<&Span> {
        spans.iter().filter(|span| span.parent_span_id == poll.span_id).filter(is_ours).collect()
    };
    let polls = spans.iter().filter(|span| span.name == "poll").filter(is_ours);
    let is_whole = |children: &[&Span]| {
        ["sample", "store", "publish"].iter().all(|name| children.iter().any(|child| child.name == *name))
    };
    polls.map(|poll| (poll, children(poll))).find(|(_, children)| is_whole(children))
}

#[test]
fn a_poll_is_one_trace_with_sample_store_and_publish_spans() {
    let collector = Collector::start();
    let host = host_with_tracing(&collector, "tracing.attributes = { site = 'fra1' }", &["version", "flood"]);
    let spans = collector.until(|spans| whole_poll_of_verbs(spans).is_some());
    let (poll, children) = whole_poll_of_verbs(&spans).unwrap();
    assert_eq!(attribute(&poll.attributes, "instances").as_deref(), Some("#2"));
    assert!(poll.parent_span_id.is_empty());
    let child = |name: &str| *children.iter().find(|child| child.name == name).unwrap_or_else(|| panic!("{name}"));
    for (name, instances) in [("sample", "#2"), ("store", "#2"), ("publish", "#2")] {
        assert_eq!(attribute(&child(name).attributes, "instances").as_deref(), Some(instances), "{name}");
        assert_eq!(child(name).trace_id, poll.trace_id);
    }
    assert!(child("sample").start_time_unix_nano <= child("store").start_time_unix_nano);
    assert_eq!(attribute(&collector.resource(), "service.name").as_deref(), Some("dropsonde"));
    assert_eq!(attribute(&collector.resource(), "site").as_deref(), Some("fra1"));
    // What a plugin logs is part of its call.
    let spans = collector.until(|spans| spans.iter().any(|span| !span.events.is_empty() && span.name == "sample"));
    let event = spans.iter().filter(|span| span.name == "sample").flat_map(|span| &span.events).next().unwrap();
    assert!(event.name.starts_with("line "), "{event:?}");
    assert_eq!(attribute(&event.attributes, "plugin").as_deref(), Some("verbs"));
    // And a line of the log.
    host.until_logged("line 0");
}

#[test]
fn a_request_span_continues_the_clients_trace_and_is_named_after_its_route() {
    let collector = Collector::start();
    let host = host_with_tracing(&collector, "tracing.sample_ratio = 0.0", &["version"]);
    let request = |path: &str, flags: &str| {
        host.request_with("GET", path, &format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n"))
    };
    host.until("/v1/instances/version/usage", |usage| usage.status == 200);
    request("/v1/instances/version/usage", "00");
    request("/v1/instances/version/usage", "01");
    request("/secret/path", "01");
    let spans = collector.until(|spans| spans.len() >= 2);
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["GET /v1/instances/{id}/usage", "GET unknown"], "and none that nobody wanted");
    for span in &spans {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert!(!format!("{span:?}").contains("secret"));
    }
    let usage = spans.iter().find(|span| span.name.contains("usage")).unwrap();
    assert_eq!(attribute(&usage.attributes, "http.response.status_code").as_deref(), Some("#200"));
}

#[test]
fn streams_and_uploads_work_with_tracing_and_have_spans() {
    let collector = Collector::start();
    let host = host_with_tracing(&collector, "", &["version"]);
    let mut stream = host.stream("/v1/instances/version/usage/stream");
    assert_eq!(stream.next_sample()["value"], 1);
    assert_eq!(host.send_as_admin("PUT", "/v1/plugins/more", verbs()).status, 202);
    stream.next_sample();
    let spans = collector.until(|spans| spans.iter().any(|span| span.name == "PUT /v1/plugins/{name}"));
    assert!(spans.iter().any(|span| span.name == "GET /v1/instances/{id}/usage/stream"), "it ends with its head");
}

#[test]
fn pending_spans_are_sent_when_the_host_stops() {
    let collector = Collector::start();
    let mut host = host_with_tracing(&collector, "tracing.sample_ratio = 0.0", &[]);
    host.request_with("GET", "/health", &format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n"));
    assert_eq!(host.stop(), 0);
    assert_eq!(collector.until(|spans| !spans.is_empty())[0].name, "GET /health");
}

#[test]
fn a_failing_collector_costs_only_spans_which_are_counted() {
    let collector = Collector::start();
    let mut host = host_with_tracing(&collector, "", &["version"]);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let families = strict::text(&host.get("/metrics").body).unwrap();
        strict::value(&families, name, labels)
    };
    let there = [("destination", "otlp")];
    let until = |name: &str, labels: &[(&str, &str)], wanted: &dyn Fn(f64) -> bool| {
        host.until("/metrics", |_| value(name, labels).is_some_and(wanted));
    };
    until("dropsonde_remote_connected", &there, &|connected| connected == 1.0);
    assert!(value("dropsonde_remote_rtt_seconds", &there).unwrap() > 0.0);
    collector.refuse(true);
    until("dropsonde_remote_connected", &there, &|connected| connected == 0.0);
    until("dropsonde_spans_dropped_total", &[("reason", "unreachable")], &|dropped| dropped > 0.0);
    collector.refuse(false);
    until("dropsonde_remote_reconnects_total", &there, &|reconnects| reconnects >= 1.0);
    collector.refuse(true);
    until("dropsonde_remote_circuit_breaker", &there, &|breaker| breaker == 1.0);
    assert!(host.until_logged("cannot send spans").contains("the collector answered 500"), "and why");
    let stopping = Instant::now();
    assert_eq!(host.stop(), 0);
    assert!(stopping.elapsed().as_secs() < 30, "it does not wait for who does not answer");
}

#[test]
fn without_a_collector_no_tracing_metrics_are_exposed() {
    let host = Host::start("", &[]);
    host.get("/health");
    let metrics = host.get("/metrics").body;
    assert!(!metrics.contains("dropsonde_remote_") && !metrics.contains("dropsonde_spans_"), "{metrics}");
}

#[test]
fn the_log_has_the_requested_format_and_level() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'flood'\nsamplers = ['verbs']\n";
    let mut command = dropsonde();
    command.args(["--log-format", "json"]).env("DROPSONDE_LOG", "debug");
    let host = Host::start_as(command, config, &[("verbs", verbs())]);
    let log = host.until_logged("line 0");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string() && line["message"].is_string(), "{line}");
    }
    let line = log.lines().find(|line| line.contains("line 0")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((line["plugin"].as_str(), line["level"].as_str()), (Some("verbs"), Some("INFO")));
    assert_eq!(line["span"]["otel.name"], "sample", "at this level with its call");

    let mut command = dropsonde();
    command.args(["--log-level", "error"]).env("DROPSONDE_LOG", "debug");
    let quiet = Host::start_as(command, config, &[("verbs", verbs())]);
    quiet.until("/v1/instances/flood/usage", |usage| usage.status == 200);
    assert_eq!(quiet.stop_and_read_log(), "", "what is said counts more than the environment");
}

#[test]
fn an_empty_log_level_means_the_default_and_directives_change_only_their_target() {
    for level in ["", "plugin=debug"] {
        let mut command = dropsonde();
        command.env("DROPSONDE_LOG", level);
        let host = Host::start_as(command, "", &[("bad", b"nonsense")]);
        host.until_logged("not running");
        host.until_logged("INFO");
    }
}

#[test]
fn an_invalid_log_level_fails_with_exit_code_2() {
    let (code, _, error) = crate::harness::run(dropsonde().args(["serve", "--log-level", "dropsonde=loud"]));
    assert_eq!(code, 2);
    assert!(error.contains("--log-level"), "{error}");
}
