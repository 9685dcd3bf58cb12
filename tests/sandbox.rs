use crate::harness::{Host, verbs};
use serde_json::{Value, json};

/// A host in which the plugin `bad` samples one verb, beside a healthy `good`.
fn beside_a_healthy_one(verb: &str, more: &str) -> Host {
    let config = format!(
        "poll.interval = '250ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n[[instances]]\nid = '{verb}'\nsamplers = ['bad']\n{more}"
    );
    Host::start(&config, &[("good", verbs()), ("bad", verbs())])
}

fn failure_of(host: &Host, plugin: &str) -> Value {
    let path = format!("/v1/plugins/{plugin}");
    host.until(&path, |page| page.json().get("last_failure").is_some()).json()["last_failure"].clone()
}

/// The healthy plugin's samples come one interval after the other.
fn assert_no_missed_tick(host: &Host) {
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    let at = |sample: Value| sample["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let times: Vec<_> = (0..8).map(|_| at(stream.sample())).collect();
    // The first may be the one at start, off the grid.
    assert!(times[1..].windows(2).all(|pair| pair[1] - pair[0] == 250), "{times:?}");
    assert_eq!(host.plugin("good")["polls_missed"], 0);
}

#[test]
fn a_trap_is_a_gap_with_its_reason_and_the_next_call_gets_a_fresh_instance() {
    let host = beside_a_healthy_one("panic", "");
    assert_no_missed_tick(&host);
    let failure = failure_of(&host, "bad");
    assert!(failure["reason"].as_str().unwrap().starts_with("trapped: "), "{failure}");
    let backtrace = failure["backtrace"].as_array().unwrap();
    assert!(backtrace.iter().any(|frame| frame.as_str().unwrap().contains("verbs::act")), "{backtrace:?}");
    let log = host.until_logged("told to");
    assert!(log.contains("tests/guests/verbs/src/lib.rs:"), "message and place reach the log: {log}");
    host.until("/v1/plugins/bad", |page| page.json()["workers_spawned"].as_u64().unwrap() >= 3);
    assert!(!host.log().contains("cannot enter component instance"));
    assert!(host.get("/metrics").body.contains("dropsonde_panics_total{service=\"bad\"}"));
    assert_eq!(host.get("/health").json()["status"], "healthy");
}

#[test]
fn endless_loops_in_more_plugins_than_cores_are_stopped_and_the_neighbour_misses_no_tick() {
    let config = "poll.interval = '250ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n\
                  [[instances]]\nid = 'spin'\nsamplers = ['bad', 'bad2', 'bad3', 'bad4']\n";
    let names = ["good", "bad", "bad2", "bad3", "bad4"];
    let host = Host::start(config, &names.map(|name| (name, verbs())));
    assert_no_missed_tick(&host);
    for name in &names[1..] {
        let failure = failure_of(&host, name);
        assert_eq!(failure["reason"], "used more than its 100ms of CPU time");
    }
    assert_eq!(host.get("/metrics").status, 200);
}

#[test]
fn memory_is_bounded() {
    let host = beside_a_healthy_one("hoard", "[plugins.bad.limits]\nmemory = '8MiB'\n");
    let failure = failure_of(&host, "bad");
    assert!(
        failure["reason"].as_str().unwrap().starts_with("wanted more than its 8388608 bytes of memory"),
        "{failure}"
    );
    assert_no_missed_tick(&host);
}

#[test]
fn the_stack_is_bounded() {
    let host = beside_a_healthy_one("recurse", "");
    let reason = failure_of(&host, "bad")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("trapped: ") && reason.contains("stack"), "{reason}");
    assert_no_missed_tick(&host);
}

#[test]
fn an_answer_larger_than_the_plugin_may_give_ends_the_call() {
    let host = beside_a_healthy_one("long", "");
    let reason = failure_of(&host, "bad")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("trapped: "), "{reason}");
    assert_no_missed_tick(&host);
}

#[test]
fn a_log_flood_is_cut_counted_and_cannot_forge_lines() {
    let host = beside_a_healthy_one("flood", "");
    host.until("/v1/plugins/bad", |page| page.json()["log_lines_dropped"].as_u64().unwrap() > 900);
    let log = host.until_logged("line 0");
    assert!(log.contains(r"line 0\n\u{1b}[31mforged"), "{log}");
    assert!(!log.lines().any(|line| line.contains("\u{1b}[31mforged")));
}

#[test]
fn a_file_is_read_when_it_is_granted_and_only_then() {
    let files = tempfile::tempdir().unwrap();
    let (granted, secret) = (files.path().join("granted.txt"), files.path().join("secret.txt"));
    std::fs::write(&granted, "12345").unwrap();
    std::fs::write(&secret, "secret").unwrap();
    let section = |name: &str, path: &std::path::Path| {
        format!(
            "[plugins.{name}]\nconfig = {{ read = '{}' }}\ngrants = {{ read = ['{}'] }}\n",
            path.display(),
            granted.display()
        )
    };
    let config = format!(
        "poll.interval = '100ms'\n[[instances]]\nid = 'read'\nsamplers = ['may', 'may-not']\n{}{}",
        section("may", &granted),
        section("may-not", &secret)
    );
    let host = Host::start(&config, &[("may", verbs()), ("may-not", verbs())]);
    host.until("/v1/instances/read/usage", |usage| usage.status == 200 && usage.json()["value"] == 5);
    let failure = failure_of(&host, "may-not");
    assert!(failure["reason"].as_str().unwrap().contains("denied"), "{failure}");
    let missing = host.plugin("may-not")["missing"].clone();
    assert_eq!(missing, json!([format!("read {}", secret.display())]));
    assert!(host.log().contains("[plugins.may-not.grants]"), "the lines to paste are in the log");
}

#[test]
fn a_file_of_a_bundled_plugins_name_takes_its_place_but_not_its_grants() {
    let host = Host::start("", &[("procfs", verbs())]);
    let page = host.until("/v1/plugins/procfs", |page| page.json()["state"] == "running").json();
    assert_eq!((&page["bundled"], &page["grants"]["read"]), (&json!(false), &json!([])));
}

#[test]
fn a_plugin_that_cannot_start_degrades_health_and_nothing_else() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n\
                  [plugins.refuses.config]\ninit = 'refuse'\n[plugins.spins]\nconfig = { init = 'spin' }\nlimits = { init_deadline = '200ms' }\n";
    let text = b"this is no plugin".as_slice();
    let plugins = [("good", verbs()), ("refuses", verbs()), ("spins", verbs()), ("text", text)];
    let host = Host::start(config, &plugins);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    for (name, state, reason) in [
        ("refuses", "failed", "its configuration cannot work: it says so"),
        ("text", "failed", "it is not WebAssembly"),
        ("spins", "backoff", "200ms"),
    ] {
        let page = host.until(&format!("/v1/plugins/{name}"), |page| page.json()["state"] == state).json();
        assert!(page["last_failure"]["reason"].as_str().unwrap().contains(reason), "{page}");
    }
    let health = host.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("degraded")));
    assert_eq!(health.json()["reasons"].as_array().unwrap().len(), 3);
}

#[test]
fn an_instance_that_is_gone_ends_and_keeps_its_history() {
    let config = "poll.interval = '100ms'\n[plugins.verbs.config]\ndiscover = ['ok', 'gone']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let ended = |page: &crate::harness::Response| {
        page.json().as_array().unwrap().iter().any(|one| one["id"] == "gone" && one["state"] == "ended")
    };
    host.until("/v1/instances", ended);
    assert_eq!(host.until("/v1/instances/ok/usage", |usage| usage.status == 200).json()["value"], 1);
}
