//! The host's metrics about itself: each family changes when the real thing happens.

use crate::harness::{Host, app, client, verbs, verbs_version};
use dropsonde_openmetrics::strict::{self, ParsedFamily};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

fn families(host: &Host) -> Vec<ParsedFamily> {
    strict::text(&host.get("/metrics").body).unwrap_or_else(|why| panic!("{why}"))
}

fn value(host: &Host, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    strict::value(&families(host), &format!("dropsonde_{name}"), labels)
}

/// Waits until a series is as wanted.
fn wait_for_metric(host: &Host, name: &str, labels: &[(&str, &str)], wanted: impl Fn(f64) -> bool) {
    host.until("/metrics", |metrics| {
        let families = strict::text(&metrics.body).unwrap_or_else(|why| panic!("{why}"));
        strict::value(&families, &format!("dropsonde_{name}"), labels).is_some_and(&wanted)
    });
}

fn polling_config(instances: &[&str], more: &str) -> String {
    let instances: String =
        instances.iter().map(|verb| format!("[[instances]]\nid = '{verb}'\nsamplers = ['verbs']\n")).collect();
    format!("poll.interval = '100ms'\nsnapshot.interval = '100ms'\n{more}\n{instances}")
}

#[test]
fn sample_messages_are_counted_by_outcome() {
    let host = Host::start(&polling_config(&["count", "gap", "unavailable"], ""), &[("verbs", verbs())]);
    let sample = [("service", "verbs"), ("type", "sample")];
    wait_for_metric(&host, "messages_processed_total", &[sample[0], sample[1], ("status", "ok")], |ok| ok >= 3.0);
    // A scrape may fall between two of them.
    host.until("/metrics", |metrics| {
        let metrics = strict::text(&metrics.body).unwrap();
        let count = |name: &str, status: Option<&str>| {
            let labels: Vec<_> = sample.into_iter().chain(status.map(|status| ("status", status))).collect();
            strict::value(&metrics, &format!("dropsonde_{name}"), &labels).unwrap()
        };
        let of = |status| count("messages_processed_total", Some(status));
        let unavailable = [("service", "verbs"), ("type", "unavailable")];
        assert!(of("dropped") == 0.0, "a gap has a value beside it, and is a row");
        count("messages_received_total", None) == of("ok") + of("failed")
            && of("failed") >= 2.0
            && count("messages_failed_total", None) == of("failed")
            && strict::value(&metrics, "dropsonde_errors_total", &unavailable) == Some(of("failed"))
    });
    wait_for_metric(&host, "messages_published_total", &[("service", "verbs"), ("subject", "usage")], |sent| {
        sent >= 3.0
    });
}

#[test]
fn stats_and_event_messages_are_counted_by_outcome() {
    let host = Host::start(&polling_config(&[], ""), &[("app", app())]);
    host.until("/v1/snapshot", |snapshot| snapshot.body.contains("\"app\""));
    assert_eq!(host.send_events("app", "application/json", b"{\"name\":\"x\"}").status, 202);
    let of_app = |kind| [("service", "app"), ("type", kind)];
    wait_for_metric(&host, "messages_received_total", &of_app("stats"), |stats| stats >= 1.0);
    wait_for_metric(&host, "messages_received_total", &of_app("event"), |events| events == 1.0);
    wait_for_metric(&host, "messages_published_total", &[("service", "snapshot"), ("subject", "snapshot")], |sent| {
        sent >= 1.0
    });
    wait_for_metric(
        &host,
        "processing_duration_seconds_count",
        &[("service", "snapshot"), ("operation", "aggregate")],
        |n| n > 0.0,
    );
    assert_eq!(host.send_events("app", "application/json", b"{\"name\":\"fail\"}").status, 202);
    wait_for_metric(&host, "messages_failed_total", &of_app("stats"), |failed| failed >= 1.0);
}

#[test]
fn traps_and_quarantine_change_the_panic_health_and_service_metrics() {
    // More than are looked for in one tick, with time enough on a busy machine.
    let own = "[plugins.verbs]\ninterval = '500ms'\nlimits = { cpu = '500ms' }\n";
    let config = polling_config(&["headers", "infinite", "panic", "random", "recurse", "short", "stranger"], own);
    let host = Host::start(&config, &[("verbs", verbs())]);
    let (service, plugin) = ([("service", "verbs")], [("plugin", "verbs")]);
    wait_for_metric(&host, "panics_total", &service, |traps| traps >= 3.0);
    wait_for_metric(&host, "health_checks_failed_total", &plugin, |failed| failed >= 2.0);
    wait_for_metric(&host, "workers_stopped_total", &[("reason", "crashed")], |crashed| crashed >= 3.0);
    wait_for_metric(&host, "samples_dropped_total", &[("reason", "poison")], |dropped| dropped > 0.0);
    assert_eq!(host.send_as_admin("POST", "/v1/plugins/verbs/quarantine", &[]).status, 202);
    wait_for_metric(&host, "health_status", &service, |well| well == 0.0);
    wait_for_metric(&host, "service_status", &service, |status| status == 4.0);
    assert_eq!(value(&host, "service_status", &[("service", "host")]), Some(2.0));
    assert_eq!(value(&host, "health_status", &[("service", "host")]), Some(1.0));
    assert!(value(&host, "plugin_cpu_seconds_total", &plugin) > Some(0.0));
    let health = host.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &"degraded".into()));
    assert!(health.body.contains("plugin verbs is in quarantine"), "{}", health.body);
}

#[test]
fn workers_are_counted_by_state() {
    let host = Host::start(&polling_config(&["version"], ""), &[("verbs", verbs())]);
    host.until("/v1/instances/version/usage", |usage| usage.status == 200);
    let metrics = families(&host);
    let workers = |state| strict::value(&metrics, "dropsonde_workers", &[("state", state)]).unwrap();
    let active = strict::value(&metrics, "dropsonde_workers_active", &[]);
    assert!(active >= Some(1.0));
    assert_eq!(active, Some(workers("busy") + workers("idle")));
    wait_for_metric(&host, "workers_spawned_total", &[], |spawned| Some(spawned) >= active);
    for name in ["cold_start_seconds_count", "build_seconds_count", "plugin_call_seconds_count", "plugin_polls_total"] {
        assert!(value(&host, name, &[("plugin", "verbs")]) >= Some(1.0), "{name}");
    }
    assert!(value(&host, "plugin_memory_bytes", &[("plugin", "verbs")]) > Some(65536.0));
    assert!(
        value(&host, "processing_duration_seconds_count", &[("service", "host"), ("operation", "scrape")]) >= Some(1.0)
    );
}

#[test]
fn requests_are_counted_by_route_and_streams_have_no_duration() {
    let host = Host::start(&polling_config(&["version"], ""), &[("verbs", verbs())]);
    host.until("/v1/instances/version/usage", |usage| usage.status == 200);
    let mut stream = host.stream("/v1/instances/version/usage/stream");
    stream.next_sample();
    wait_for_metric(&host, "sessions_active", &[], |streams| streams == 1.0);
    host.get("/no/such/path");
    let by = |name: &str, route: &str, status: &str| value(&host, name, &[("route", route), ("status", status)]);
    assert_eq!(by("http_requests_total", "unknown", "4xx"), Some(1.0));
    assert!(by("http_request_seconds_count", "/v1/instances/{id}/usage", "2xx") >= Some(1.0));
    assert_eq!(by("http_requests_total", "/v1/instances/{id}/usage/stream", "2xx"), Some(1.0));
    assert_eq!(by("http_request_seconds_count", "/v1/instances/{id}/usage/stream", "2xx"), None);
    drop(stream);
    wait_for_metric(&host, "sessions_active", &[], |streams| streams == 0.0);
}

#[test]
fn missed_ticks_are_counted_and_health_names_plugins_that_are_polled_late() {
    let host = Host::start(&polling_config(&["version"], ""), &[("verbs", verbs())]);
    host.until("/v1/instances/version/usage", |usage| usage.status == 200);
    let is_seen = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A machine that lets it run now and then.
        scope.spawn(|| {
            while !is_seen.load(Relaxed) {
                host.signal("STOP");
                std::thread::park_timeout(Duration::from_millis(250));
                host.signal("CONT");
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        host.until("/health", |health| health.body.contains("plugin verbs is polled late"));
        is_seen.store(true, Relaxed);
    });
    wait_for_metric(&host, "plugin_polls_missed_total", &[("plugin", "verbs")], |missed| missed >= 3.0);
    host.until("/health", |health| health.json()["status"] == "healthy");
}

#[test]
fn uploads_and_failed_plugin_restores_are_counted() {
    let mut host = Host::start(&polling_config(&["version"], ""), &[("verbs", verbs())]);
    host.until("/v1/instances/version/usage", |usage| usage.status == 200);
    assert_eq!(host.send_as_admin("PUT", "/v1/plugins/verbs", &verbs_version(2)).status, 202);
    wait_for_metric(&host, "plugins_uploaded_total", &[], |uploaded| uploaded == 1.0);
    host.until("/v1/instances/version/usage", |usage| usage.json()["value"] == 2);
    assert_eq!(host.stop(), 0);
    host.drop_in("verbs", b"nonsense");
    host.configure(&polling_config(&["version"], "plugins.verbs.config.init = 'refuse'"));
    let host = host.start_again();
    wait_for_metric(&host, "plugin_restores_failed_total", &[], |failed| failed == 1.0);
}

#[test]
fn audit_entries_that_cannot_be_written_are_counted() {
    let mut host = Host::start(&polling_config(&[], ""), &[("verbs", verbs())]);
    assert_eq!(host.stop(), 0);
    std::fs::remove_file(host.data().join("audit.log")).unwrap();
    symlink("/dev/full", host.data().join("audit.log")).unwrap();
    let host = host.start_again();
    host.until("/ready", |ready| ready.status == 200);
    assert!(host.send_as_admin("POST", "/v1/plugins/verbs/reload", &[]).status < 300);
    wait_for_metric(&host, "audit_entries_dropped_total", &[("reason", "io")], |dropped| dropped >= 1.0);
}

#[test]
fn plugin_log_lines_over_the_limit_are_counted() {
    let host = Host::start(&polling_config(&["flood"], ""), &[("verbs", verbs())]);
    wait_for_metric(&host, "plugin_log_lines_dropped_total", &[("plugin", "verbs")], |dropped| dropped >= 900.0);
}

#[test]
fn a_stopping_host_returns_503_as_draining_while_a_request_is_open() {
    let host = Host::start("", &[]);
    host.until("/ready", |ready| ready.status == 200);
    // An upload that takes its time.
    let mut upload = TcpStream::connect(&host.address).unwrap();
    let token = std::fs::read_to_string(host.data().join("admin.token")).unwrap();
    let head = format!(
        "PUT /v1/plugins/slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 100\r\n\r\nhalf",
        token.trim()
    );
    upload.write_all(head.as_bytes()).unwrap();
    wait_for_metric(&host, "service_status", &[("service", "host")], |status| status == 2.0);
    host.signal("TERM");
    // A connection that is made just when it stops is closed unread.
    let ask = |path: &str| {
        let mut answer = String::new();
        let mut socket = TcpStream::connect(&host.address).unwrap();
        let _ = write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    let health = std::iter::repeat_with(|| ask("/health")).find(|health| health.starts_with("HTTP/1.1 503")).unwrap();
    assert!(health.contains("{\"status\":\"draining\""), "{health}");
    assert!(ask("/ready").starts_with("HTTP/1.1 503"));
}

#[test]
fn concurrent_scrapes_all_get_valid_responses() {
    let host = Host::start(&polling_config(&["version"], ""), &[("verbs", verbs())]);
    host.until("/v1/instances/version/usage", |usage| usage.status == 200);
    let scraped = std::thread::scope(|scope| {
        let scrapes: Vec<_> = (0..50)
            .map(|nth| {
                let accept = if nth % 2 == 0 { "" } else { "Accept: application/openmetrics-text\r\n" };
                let address = &host.address;
                scope.spawn(move || client::request(address, "GET", "/metrics", accept))
            })
            .collect();
        scrapes.into_iter().map(|scrape| scrape.join().unwrap()).collect::<Vec<_>>()
    });
    for scrape in scraped {
        let read = match scrape.header("content-type") {
            Some(kind) if kind.starts_with("text/plain") => strict::text(&scrape.body),
            _ => strict::openmetrics(&scrape.body),
        };
        assert!(read.is_ok(), "{read:?}");
    }
}
