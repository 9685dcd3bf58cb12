use crate::harness::{Host, verbs, workspace};
use std::io::Write;
use std::process::{Command, Stdio};

fn host() -> Host {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'odd \"id\\'\nlabels = { note = \"a\\\"b\\\\c\\nd\" }\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/metrics", |metrics| {
        metrics.body.contains("dropsonde_sample_verb_calls_total{")
            && metrics.body.contains("dropsonde_sample_memory_used_bytes{")
    });
    host
}

/// Prometheus' own linter: from Debian's package, unpacked by `cargo dev setup`, or from the PATH.
pub(crate) fn promtool(exposition: &str) -> String {
    let unpacked = workspace().join("target/promtool/usr/bin/promtool");
    let program = if unpacked.exists() { unpacked } else { "promtool".into() };
    let child = Command::new(&program)
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

#[test]
fn promtool_finds_nothing_to_say() {
    let metrics = host().get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    assert_eq!(promtool(&metrics.body), "", "{}", metrics.body);
}

#[test]
fn promtool_would_find_something() {
    assert!(!promtool("# TYPE a_ms gauge\na_ms 1\n").is_empty());
}

#[test]
fn samples_are_in_base_units_with_id_and_sampler() {
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
fn the_host_counts_what_it_does() {
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
