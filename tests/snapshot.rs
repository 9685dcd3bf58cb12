use crate::harness::{Host, Response, app, connect_from, send, stream};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;

const SNAPSHOT: &str = "/v1/snapshot";
/// Short intervals of sources, and of samplers: the tests' application is both.
/// The interval caps how long a call can take, and a busy machine may need some tenths of a second.
const FAST: &str = "snapshot.interval = '500ms'\npoll.interval = '1s'\n";

fn document(host: &Host) -> Value {
    host.get(SNAPSHOT).json()
}

/// Waits until a source has a status, and returns the document.
fn wait_for_source_status(host: &Host, name: &str, status: &str) -> Value {
    let is = |answer: &Response| {
        let document = answer.json();
        let found = document["sources"].as_array().unwrap().iter().find(|source| source["name"] == name).cloned();
        found.is_some_and(|source| source["status"] == status)
    };
    host.until(SNAPSHOT, is).json()
}

fn host_with_two_sources(first: &str, second: &str) -> Host {
    let config = format!("{FAST}[plugins.one.config]\n{first}\n[plugins.two.config]\n{second}\n");
    let host = Host::start(&config, &[("one", app()), ("two", app())]);
    wait_for_source_status(&host, "one", "ok");
    wait_for_source_status(&host, "two", "ok");
    host
}

#[test]
fn a_snapshot_without_any_events_is_all_zeros() {
    let host = Host::start(FAST, &[]);
    let answer = host.until(SNAPSHOT, |answer| answer.status == 200);
    let mut document = answer.json();
    document.as_object_mut().unwrap().remove("at");
    document.as_object_mut().unwrap().remove("sources");
    let zeros = json!({
        "channels": { "total_active": 0 },
        "envelopes": { "rate_per_second": 0 },
        "presence": { "total_users": 0, "total_agents": 0, "average_per_channel": 0 },
        "history": { "total_envelopes_buffered": 0, "buffer_utilization_pct": 0 },
        "tokens": { "issued_last_hour": 0, "revoked_last_hour": 0, "active_count": 0 },
        "cache": { "hit_rate_pct": 0, "size_bytes": 0, "evictions_last_hour": 0 },
    });
    assert_eq!(document, zeros);
    assert_eq!(host.get("/parsec/metrics").json()["channels"], json!({ "total_active": 0 }), "under its other name");
    assert_eq!(host.request("POST", SNAPSHOT).status, 405);
}

#[test]
fn a_snapshot_of_two_sources_sums_counts_and_averages_rates_including_zeros() {
    let host = host_with_two_sources(
        "channels = 3\nrate = 2.0\naverage = 1.0\nutilization = 50.0\nissued = 4\nhit_rate = 90.0\nentries = 7",
        "channels = 4\nrate = 0.0\naverage = 2.0\nutilization = 0.0\nissued = 1\nhit_rate = 0.0",
    );
    let document = document(&host);
    assert_eq!(document["channels"]["total_active"], 7);
    assert_eq!(document["envelopes"]["rate_per_second"], 1, "the mean of 2 and a true 0");
    assert_eq!(document["presence"], json!({ "total_users": 4, "total_agents": 2, "average_per_channel": 1.5 }));
    assert_eq!(document["history"], json!({ "total_envelopes_buffered": 20, "buffer_utilization_pct": 25 }));
    assert_eq!(document["tokens"], json!({ "issued_last_hour": 5, "revoked_last_hour": 2, "active_count": 10 }));
    let cache = json!({ "hit_rate_pct": 45, "size_bytes": 2048, "size_entries": 7, "evictions_last_hour": 6 });
    assert_eq!(document["cache"], cache);
    let one = host.get("/v1/snapshot?source=one").json();
    assert_eq!((&one["channels"]["total_active"], &one["cache"]["hit_rate_pct"]), (&json!(3), &json!(90)));
    assert_eq!(host.get("/v1/snapshot?source=nobody").status, 404);
}

#[test]
fn a_snapshot_section_reported_by_one_source_is_unchanged() {
    let host = host_with_two_sources("rate = 3.0", "channels = 2");
    let document = document(&host);
    assert_eq!(
        (&document["envelopes"]["rate_per_second"], &document["channels"]["total_active"]),
        (&json!(3), &json!(2))
    );
}

#[test]
fn a_failing_source_leaves_the_snapshot_and_returns_once_it_works() {
    let host = host_with_two_sources("channels = 1", "channels = 10");
    assert_eq!(host.get("/v1/instances/dropsonde:snapshot/usage").status, 400, "it is no instance to ask for");
    assert_eq!(host.send_events("two", "application/json", br#"{"name":"fail"}"#).status, 202);
    wait_for_source_status(&host, "two", "failing");
    let left = wait_for_source_status(&host, "two", "stale");
    assert_eq!(left["channels"]["total_active"], 1);
    assert_eq!(host.send_events("two", "application/json", br#"{"name":"work"}"#).status, 202);
    wait_for_source_status(&host, "two", "ok");
    assert_eq!(document(&host)["channels"]["total_active"], 11);
}

#[test]
fn a_source_that_hangs_or_is_removed_does_not_affect_other_sources() {
    let config =
        format!("{FAST}[plugins.one.config]\nchannels = 1\n[plugins.two.config]\nchannels = 10\nhangs = true\n");
    let host = Host::start(&config, &[("one", app()), ("two", app())]);
    wait_for_source_status(&host, "one", "ok");
    let left = wait_for_source_status(&host, "two", "stale");
    assert_eq!(left["channels"]["total_active"], 1);
    assert_eq!(host.send_as_admin("DELETE", "/v1/plugins/two", &[]).status, 204);
    let names: Vec<_> = document(&host)["sources"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert!(!names.contains(&json!("two")) && names.contains(&json!("one")), "{names:?}");
}

#[test]
fn an_unchanged_snapshot_gets_304() {
    let host = Host::start(
        "snapshot.interval = '1h'\npoll.interval = '1h'\n[plugins.app.config]\nchannels = 1\n",
        &[("app", app())],
    );
    wait_for_source_status(&host, "app", "ok");
    // Other sources may still be on their first poll.
    wait_for_source_status(&host, "appstats", "ok");
    let first = host.get(SNAPSHOT);
    let tag = first.header("etag").unwrap().to_owned();
    let again = host.request_with("GET", SNAPSHOT, &format!("If-None-Match: \"other\", {tag}\r\n"));
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(again.header("etag"), Some(&*tag));
    assert_eq!(host.request_with("GET", SNAPSHOT, "If-None-Match: \"other\"\r\n").status, 200);
}

#[test]
fn a_fresh_snapshot_polls_all_sources_and_requires_the_write_token() {
    let host = Host::start("snapshot.interval = '1h'\npoll.interval = '1h'\n", &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    assert_eq!(host.get("/v1/snapshot?fresh=1").status, 401);
    assert_eq!(host.send_events("app", "application/json", br#"[{"name":"a"},{"name":"a"},{"name":"b"}]"#).status, 202);
    host.until("/metrics", |metrics| {
        metrics.body.contains("dropsonde_messages_processed_total{service=\"app\",status=\"ok\",type=\"event\"} 3")
    });
    assert_eq!(document(&host)["channels"]["total_active"], 0, "the next poll is an hour away");
    let token = std::fs::read_to_string(host.data().join("write.token")).unwrap();
    let headers = format!("Authorization: Bearer {}\r\n", token.trim());
    let fresh = host.request_with("GET", "/v1/snapshot?fresh=1", &headers);
    assert_eq!(fresh.json()["channels"], json!({ "total_active": 3, "by_pattern": { "a": 2, "b": 1 } }));
}

#[test]
fn snapshot_values_are_available_as_metrics_history_and_a_stream() {
    let host = Host::start(&format!("{FAST}[plugins.app.config]\nchannels = 6\n"), &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    let mut stream = stream(&host.address, "/v1/snapshot/stream", "");
    assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
    while stream.next_sample()["channels_total_active"] != 6 {}
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("\ndropsonde_snapshot_channels_total_active 6\n"), "{metrics}");
    let range = host.get("/v1/snapshot/range?range=1h&fields=channels_total_active").json();
    let points = range.as_array().unwrap().iter();
    assert!(points.clone().any(|point| point["channels_total_active"].as_f64() > Some(0.0)), "{range}");
    let listed = host.get("/v1/instances").body + &host.get("/telemetry/hosts").body;
    assert!(!listed.contains("snapshot"), "it is no instance of anybody's: {listed}");
    let host = host.restart();
    let range = host.get("/v1/snapshot/range?range=1h&fields=channels_total_active").json();
    assert!(!range.as_array().unwrap().is_empty(), "history is kept");
    let listed = host.get("/v1/instances").body + &host.get("/telemetry/hosts").body;
    assert!(!listed.contains("snapshot"), "nor then: {listed}");
}

#[test]
fn appstats_counts_application_events_and_keeps_them_across_a_restart() {
    let host = Host::start(FAST, &[]);
    wait_for_source_status(&host, "appstats", "ok");
    let told = concat!(
        r#"{"name":"channel.opened","attributes":{"pattern":"room.*"}}"#,
        "\n",
        r#"{"name":"channel.opened"}"#,
        "\n\n",
        r#"{"name":"envelope.published","value":120,"attributes":{"aspect":"chat"}}"#,
        "\n",
        r#"{"name":"token.issued","value":3}"#,
        "\n",
    );
    let answer = host.send_events("appstats", "application/x-ndjson", told.as_bytes());
    assert_eq!((answer.status, answer.json()), (202, json!({ "accepted": 4 })));
    let seen = host.until(SNAPSHOT, |answer| answer.json()["channels"]["total_active"] == 2).json();
    assert_eq!(seen["channels"]["by_pattern"], json!({ "room.*": 1, "unknown": 1 }));
    assert_eq!(seen["envelopes"], json!({ "rate_per_second": 2, "by_aspect": { "chat": 120 } }));
    assert_eq!(seen["tokens"]["active_count"], 3);
    let host = host.restart();
    let seen = host.until(SNAPSHOT, |answer| answer.json()["channels"]["total_active"] == 2).json();
    assert_eq!(seen["tokens"]["issued_last_hour"], 3, "what it counted is kept");
}

#[test]
fn unknown_event_names_are_counted_logged_once_and_listed_on_the_page() {
    let host = Host::start(FAST, &[]);
    host.until("/v1/plugins/appstats", |page| page.json()["state"] == "running");
    let told = br#"[{"name":"chanel.opened"},{"name":"channel.opened"},{"name":"chanel.opened"},{"name":"x\"y"}]"#;
    assert_eq!(host.send_events("appstats", "application/json", told).status, 202);
    let listed = |page: &serde_json::Value| page["metrics"]["values"].as_array().cloned().unwrap_or_default();
    let page = host.until("/v1/plugins/appstats", |page| listed(&page.json()).len() == 2).json();
    let unknown = |name: &str, count: u64| json!({ "name": "appstats_unknown_events_total", "labels": { "name": name }, "value": count as f64 });
    assert_eq!(listed(&page), [unknown("chanel.opened", 2), unknown("x\"y", 1)]);
    let metrics = host.get("/metrics").body;
    let line = "appstats_unknown_events_total{plugin=\"appstats\",name=\"chanel.opened\"} 2";
    assert!(metrics.lines().any(|other| other == line), "{metrics}");
    let log = host.until_logged("unknown event name");
    assert!(log.contains("channel.opened, channel.closed"), "{log}");
    assert_eq!(host.stop_and_read_log().matches("chanel.opened").count(), 1, "once a name");
}

#[test]
fn invalid_event_batches_are_refused_as_a_whole() {
    let host = Host::start(FAST, &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    let path = "/v1/sources/app/events";
    assert_eq!(send(&host.address, "POST", path, "", b"[]").status, 401);
    let tell = |content_type: &str, body: &str| host.send_events("app", content_type, body.as_bytes());
    let bad = tell("application/json", r#"[{"name":"a"},{"name":"a","at":"soon"}]"#);
    assert_eq!((bad.status, bad.body.contains("event 2")), (400, true), "{bad:?}");
    let bad = tell("application/x-ndjson", "{\"name\":\"a\"}\n{\"name\":\"a\"}\nnonsense");
    assert_eq!((bad.status, bad.body.contains("line 3")), (400, true), "{bad:?}");
    assert_eq!(tell("text/plain", "[]").status, 415);
    host.until("/v1/plugins/procfs", |page| page.json()["state"] == "running");
    assert_eq!(host.send_events("procfs", "application/json", b"[]").status, 409);
    assert_eq!(host.send_events("nobody", "application/json", b"[]").status, 404);
    let many = format!("[{}]", vec!["{\"name\":\"a\"}"; 100_001].join(","));
    assert_eq!(tell("application/json", &many).status, 413);
    assert_eq!(tell("application/json", &" ".repeat((8 << 20) + 1)).status, 413);
    assert_eq!(tell("application/json", r#"[{"name":"b"}]"#).status, 202);
    let seen = host.until(SNAPSHOT, |answer| answer.json()["channels"]["total_active"] != 0).json();
    assert_eq!(seen["channels"]["by_pattern"], json!({ "b": 1 }), "nothing of what was refused");
}

#[test]
fn events_for_a_plugin_that_is_not_running_yet_get_503_with_retry_after() {
    let config = format!("{FAST}[plugins.to-come.limits]\nfailures = 3\n");
    let host = Host::start(&config, &[("app", app()), ("broken", b"no component")]);
    let tell = |plugin: &str| host.send_events(plugin, "application/json", br#"[{"name":"a"}]"#);
    let mut answer = tell("app");
    while answer.status != 202 {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        answer = tell("app");
    }
    host.until("/v1/plugins/broken", |page| page.json()["state"] == "failed");
    for (plugin, says) in
        [("broken", "plugin broken cannot be loaded: "), ("to-come", "plugin to-come is not there yet")]
    {
        let answer = tell(plugin);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("10")), "{answer:?}");
        assert!(answer.body.contains(says), "{answer:?}");
    }
    assert_eq!(host.get("/v1/plugins/to-come").status, 404);
    let misspelt = tell("apstats");
    assert_eq!((misspelt.status, misspelt.body.contains("did you mean appstats?")), (404, true), "{misspelt:?}");
}

#[test]
fn a_full_event_queue_gets_429_with_retry_after_and_leaves_room_for_other_clients() {
    // It observes nothing while it waits after a trap.
    let host = Host::start(&format!("{FAST}[plugins.app.limits]\nfailures = 1000\n"), &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    host.send_as_admin("POST", "/v1/plugins/app/quarantine", &[]);
    host.until("/v1/plugins/app", |page| page.json()["state"] == "quarantined");
    let half = format!("[{}]", vec!["{\"name\":\"a\"}"; 60_000].join(","));
    assert_eq!(host.send_events("app", "application/json", half.as_bytes()).status, 202);
    let full = host.send_events("app", "application/json", half.as_bytes());
    assert_eq!((full.status, full.header("retry-after")), (429, Some("1")), "{full:?}");
    assert!(full.body.contains("this client"), "{full:?}");
    let health = host.get("/health").body;
    assert!(health.contains("client 127.0.0.1 wanted more of event_bytes"), "{health}");
    // Another client has a place all the same.
    let mut other = connect_from(Ipv4Addr::new(127, 0, 0, 2), &host.address);
    let event = r#"{"name":"b"}"#;
    write!(
        other,
        "POST /v1/sources/app/events HTTP/1.1\r\nHost: {}\r\n{}Connection: close\r\nContent-Length: {}\r\n\r\n{event}",
        host.address,
        host.bearer("write"),
        event.len()
    )
    .unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    host.send_as_admin("POST", "/v1/plugins/app/release", &[]);
    host.until(SNAPSHOT, |answer| answer.json()["channels"]["total_active"] == 60_001);
}

#[test]
fn a_trap_loses_only_the_events_of_that_call() {
    let host = Host::start(FAST, &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    assert_eq!(host.send_events("app", "application/json", br#"[{"name":"a"},{"name":"die"}]"#).status, 202);
    host.until("/v1/plugins/app", |page| {
        page.json()["last_failure"]["reason"].as_str().is_some_and(|reason| reason.contains("told to"))
    });
    assert_eq!(host.send_events("app", "application/json", br#"{"name":"b"}"#).status, 202);
    let seen = host.until(SNAPSHOT, |answer| answer.json()["channels"]["total_active"] == 1).json();
    assert_eq!(seen["channels"]["by_pattern"], json!({ "b": 1 }));
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_messages_failed_total{service=\"app\",type=\"event\"} 2"), "{metrics}");
}

#[test]
fn events_of_a_thousand_clients_keep_the_order_of_each_client() {
    let config = format!("{FAST}[[instances]]\nid = 'app'\nsamplers = ['app']\n");
    let host = Host::start(&config, &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    let (clients, batches) = (1000, 2);
    std::thread::scope(|scope| {
        for client in 0..clients {
            let host = &host;
            scope.spawn(move || {
                for batch in 0..batches {
                    let events = (0..10).map(|nth| {
                        let value = batch * 10 + nth;
                        format!("{{\"name\":\"a\",\"subject\":\"client-{client}\",\"value\":{value}}}")
                    });
                    let lines = events.collect::<Vec<_>>().join("\n");
                    assert_eq!(host.send_events("app", "application/x-ndjson", lines.as_bytes()).status, 202);
                }
            });
        }
    });
    let all = clients * batches * 10;
    host.until(SNAPSHOT, |answer| answer.json()["channels"]["total_active"] == all);
    let usage = host.until("/v1/instances/app/usage", |usage| usage.status == 200).json();
    assert_eq!(usage["disorder"], 0, "a plugin can be all three: {usage}");
}

#[test]
fn promtool_accepts_the_snapshot_metrics() {
    let host = Host::start(&format!("{FAST}[plugins.app.config]\nchannels = 1\n"), &[("app", app())]);
    wait_for_source_status(&host, "app", "ok");
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_snapshot_tokens_active 0"), "{metrics}");
    assert_eq!(crate::metrics::promtool(&metrics), "", "{metrics}");
}
