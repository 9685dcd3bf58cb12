//! Rules and alerts in a running host: rule files, alerts of the configuration, their API, and restarts.

use crate::harness::{Host, Measured, dropsonde, host_with_rules, put_rules, run, wait_until};
use serde_json::{Value, json};
use std::fs;

/// Returns the answer to an instant query: the labels and the value of each series, sorted.
fn asked(host: &Host, expression: &str) -> Vec<(Value, f64)> {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = host.get(&format!("/api/v1/query?query={encoded}")).json();
    let found = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
    let mut found: Vec<(Value, f64)> =
        found.iter().map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().parse().unwrap())).collect();
    found.sort_by_key(|(labels, _)| labels.to_string());
    found
}

fn group(rules: &str) -> String {
    format!("groups:\n- name: g\n  interval: 200ms\n  rules:\n{rules}")
}

/// Waits until an alert has a state, and returns it.
fn until_state(host: &Host, name: &str, state: &str) -> Value {
    let mut found = Value::Null;
    host.until("/v1/alerts", |alerts| {
        let alerts = alerts.json();
        let one = alerts.as_array().unwrap().iter().find(|alert| alert["name"] == name && alert["state"] == state);
        found = one.cloned().unwrap_or_default();
        !found.is_null()
    });
    found
}

#[test]
fn rules_see_what_earlier_ones_of_their_group_made_and_all_of_it_is_in_history() {
    let measured = Measured::start("queue{zone=\"a\"} 3\nqueue{zone=\"b\"} 4\n");
    let rules = "  - {record: 'zone:queue:sum', expr: sum by (zone) (queue), labels: {kind: sum}}\n\
                 \x20 - {record: 'queue:sum', expr: 'sum(zone:queue:sum)'}\n\
                 \x20 - {alert: Long, expr: 'queue:sum > 5', labels: {severity: page}, annotations: {summary: '{{ $value }} wait'}}\n\
                 \x20 - {record: 'alerts:count', expr: 'count(ALERTS{alertstate=\"firing\"})'}\n";
    let host = host_with_rules(&measured, &group(rules), "");
    wait_until("no alert is counted", || {
        asked(&host, "alerts:count") == [(json!({ "__name__": "alerts:count" }), 1.0)]
    });
    // A series of a rule has the labels that the rule gives it, and no others.
    let zone = |zone: &str| json!({ "__name__": "zone:queue:sum", "kind": "sum", "zone": zone });
    assert_eq!(asked(&host, "zone:queue:sum"), [(zone("a"), 3.0), (zone("b"), 4.0)]);
    assert_eq!(asked(&host, "queue:sum"), [(json!({ "__name__": "queue:sum" }), 7.0)]);
    let alert = json!({ "__name__": "ALERTS", "alertname": "Long", "alertstate": "firing", "severity": "page" });
    assert_eq!(asked(&host, "ALERTS"), [(alert, 1.0)]);
    assert_eq!(asked(&host, "time() - ALERTS_FOR_STATE < bool 60")[0].1, 1.0);
    // A series that a rule no longer makes ends.
    measured.set("queue{zone=\"a\"} 3\n");
    wait_until("a series goes on", || asked(&host, "zone:queue:sum").len() == 1);
    wait_until("the alert goes on", || asked(&host, "ALERTS").is_empty());
}

#[test]
fn rules_and_alerts_are_listed_as_prometheus_lists_them() {
    let measured = Measured::start("queue 7\n");
    let rules = "  - {record: 'queue:double', expr: queue * 2}\n\
                 \x20 - {alert: Long, expr: queue > 5, for: 1h, keep_firing_for: 5m, labels: {severity: '{{ \"x\" }}'}, annotations: {summary: 'at {{ $value }}'}}\n\
                 \x20 - {alert: Broken, expr: 'queue * on() group_left() (queue or vector(1))'}\n";
    let host = host_with_rules(&measured, &group(rules), "");
    until_state(&host, "Long", "pending");
    let mut listed = host.get("/api/v1/rules").json();
    let group = &mut listed["data"]["groups"][0];
    assert_eq!(group["file"], host.folder().join("rules/a.yml").display().to_string());
    assert_eq!((&group["name"], &group["interval"], &group["limit"]), (&json!("g"), &json!(0.2), &json!(0)));
    let recording = &group["rules"][0];
    assert_eq!(
        (&recording["type"], &recording["name"], &recording["query"], &recording["health"]),
        (&json!("recording"), &json!("queue:double"), &json!("queue * 2"), &json!("ok"))
    );
    let alerting = &group["rules"][1];
    assert_eq!(
        (&alerting["type"], &alerting["state"], &alerting["duration"], &alerting["keepFiringFor"]),
        (&json!("alerting"), &json!("pending"), &json!(3600), &json!(300))
    );
    assert_eq!(alerting["labels"], json!({ "severity": "{{ \"x\" }}" }));
    let alert = &alerting["alerts"][0];
    assert_eq!((&alert["state"], &alert["value"]), (&json!("pending"), &json!("7e+00")));
    assert_eq!(alert["annotations"], json!({ "summary": "at 7" }));
    assert_eq!(alert["labels"]["severity"], "x");
    let active = host.get("/api/v1/alerts").json();
    assert_eq!(active["data"]["alerts"][0]["labels"], alert["labels"]);
    let broken = &group["rules"][2];
    assert_eq!(broken["health"], "err");
    assert!(broken["lastError"].as_str().unwrap().contains("many-to-many"), "{broken}");
    // Parameters.
    let count = |query: &str| {
        let listed = host.get(&format!("/api/v1/rules?{query}")).json();
        let groups = listed["data"]["groups"].as_array().unwrap().clone();
        groups.iter().map(|group| group["rules"].as_array().unwrap().len()).sum::<usize>()
    };
    assert_eq!((count("type=alert"), count("type=record"), count("rule_name[]=Long")), (2, 1, 1));
    assert_eq!((count("rule_group[]=g"), count("rule_group[]=h"), count("file[]=none")), (3, 0, 0));
    assert_eq!((count("match[]=%7Bseverity=%22z%22%7D"), count("match[]=%7Bseverity!=%22%22%7D")), (0, 1));
    assert_eq!(host.get("/api/v1/rules?type=other").status, 400);
    let without = host.get("/api/v1/rules?exclude_alerts=true").json();
    assert_eq!(without["data"]["groups"][0]["rules"][1]["alerts"], json!([]));
}

#[test]
fn a_rule_file_with_a_mistake_leaves_its_earlier_rules_in_force_and_health_names_the_place() {
    let measured = Measured::start("queue 7\n");
    let host = host_with_rules(&measured, &group("  - {record: one, expr: queue}\n"), "");
    wait_until("no rule is evaluated", || asked(&host, "one").len() == 1);
    put_rules(&host, "b.yml", &group("  - {record: other, expr: queue}\n"));
    put_rules(&host, "a.yml", &group("  - {record: two, expr: 'queue +'}\n"));
    let health = host.until("/health", |health| health.body.contains("a.yml"));
    let place = "rules/a.yml are not in force: 5:25: expr: 1:8: parse error: expected an expression, but the text ends";
    assert!(health.body.contains(place), "{}", health.body);
    wait_until("the other file is not read", || asked(&host, "other").len() == 1);
    assert_eq!(asked(&host, "one").len(), 1);
    let reload = host.send_as_admin("POST", "/v1/reload", b"");
    assert!(reload.status == 422 && reload.body.contains("\"rules\""), "{reload:?}");
    // Files are followed: nobody has to ask for a reload.
    fs::write(host.folder().join("rules/a.yml"), group("  - {record: two, expr: queue}\n")).unwrap();
    wait_until("the mended file is not read", || asked(&host, "two").len() == 1);
    wait_until("the series of a rule that is gone goes on", || asked(&host, "one").is_empty());
    host.until("/health", |health| !health.body.contains("a.yml"));
    fs::remove_file(host.folder().join("rules/b.yml")).unwrap();
    wait_until("the series of a file that is gone goes on", || asked(&host, "other").is_empty());
}

#[test]
fn a_host_with_a_broken_rule_file_starts_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yml");
    fs::write(&file, "groups: [{name: g, rules: [{record: one}]}]").unwrap();
    let host = Host::start(&format!("rules = ['{}', '/nowhere/b.yml']\n", file.display()), &[]);
    let health = host.until("/health", |health| health.body.contains("a.yml"));
    assert!(health.body.contains("missing field `expr`"), "{}", health.body);
    assert!(health.body.contains("/nowhere/b.yml are not in force: there is no such file"), "{}", health.body);
}

#[test]
fn alerts_of_the_configuration_name_fields_in_their_own_units() {
    let measured = Measured::start("queue 7\n");
    let more = "[plugins.scrape.config.targets.mapping]\nqueue_mb = { value = 'queue' }\n\
                [[alerts]]\nname = 'B'\nwhen = 'queue_mb > 5'\nseverity = 'critical'\ninstance = 'a*'\n\
                [[alerts]]\nname = 'A'\nwhen = 'queue_mb > 5'\nfor = '1s'\nsummary = '{{ $value }} MB of {{ $labels.id }}'\n\
                [[alerts]]\nname = 'C'\nwhen = 'queue_mb > 5'\ninstance = 'b*'\n\
                [[alerts]]\nname = 'D'\nwhen = 'qeue_mb > 5'\n";
    let host = Host::start(&format!("{}{more}", measured.config()), &[]);
    until_state(&host, "A", "firing");
    until_state(&host, "B", "firing");
    let firing = host.get("/v1/alerts?state=firing").json();
    let names: Vec<_> = firing.as_array().unwrap().iter().map(|alert| alert["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["A", "B"]);
    assert_eq!((&firing[0]["severity"], &firing[1]["severity"]), (&json!("warning"), &json!("critical")));
    assert_eq!((&firing[0]["value"], &firing[0]["annotations"]["summary"]), (&json!(7.0), &json!("7 MB of app")));
    assert_eq!(firing[0]["expr"], "(dropsonde_sample_queue_bytes / 1048576) > 5");
    let metrics = host.get("/metrics").body;
    for line in ["{alert=\"A\",severity=\"warning\"} 1", "{alert=\"B\",severity=\"critical\"} 1"] {
        assert!(metrics.contains(&format!("dropsonde_alerts_firing{line}\n")), "{metrics}");
    }
    let health = host.until("/health", |health| health.body.contains("cannot fire"));
    assert!(health.body.contains("nothing has a field qeue_mb; did you mean queue_mb?"), "{}", health.body);
    // A condition that is none is refused with its key.
    let (code, _, error) = run(dropsonde().args(["serve", "--check", "--memory-only", "--config"]).arg({
        let file = host.folder().join("wrong.toml");
        fs::write(&file, "[[alerts]]\nname = 'x'\nwhen = 'cpu_percent >'\n").unwrap();
        file
    }));
    assert!(code == 1 && error.contains("alerts[0].when") && error.contains("1:14"), "{error}");
}

#[test]
fn a_restart_neither_forgets_a_pending_alert_nor_resolves_a_firing_one() {
    let measured = Measured::start("queue{zone=\"a\"} 7\nlast 1\n");
    let rules = "  - {alert: Fires, expr: queue > 5}\n  - {alert: Waits, expr: queue > 5, for: 1h}\n\
                 \x20 - {alert: Over, expr: last > 0}\n";
    let host = host_with_rules(&measured, &group(rules), "");
    let before = [until_state(&host, "Fires", "firing"), until_state(&host, "Waits", "pending")];
    until_state(&host, "Over", "firing");
    measured.set("queue{zone=\"a\"} 7\nlast 0\n");
    let over = until_state(&host, "Over", "resolved");
    // While the host is away nothing is measured; then it starts without the scraped values for a moment.
    let host = host.kill_and_restart();
    let after = [until_state(&host, "Fires", "firing"), until_state(&host, "Waits", "pending")];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before["active_at"], &before["fired_at"]), (&after["active_at"], &after["fired_at"]));
    }
    wait_until("no rule is evaluated", || asked(&host, "ALERTS{alertname='Fires'}").len() == 1);
    let still = until_state(&host, "Over", "resolved");
    assert_eq!(still["resolved_at"], over["resolved_at"]);
    assert_eq!(host.get("/v1/alerts?state=firing").json().as_array().unwrap().len(), 1);
    // After the time in which series may be incomplete, alerts are resolved again.
    measured.set("last 0\n");
    until_state(&host, "Fires", "resolved");
}

#[test]
fn a_changed_rule_keeps_the_alerts_that_it_has_in_common_with_the_earlier_one() {
    let measured = Measured::start("queue 7\n");
    let rule = |more: &str| group(&format!("  - {{alert: Long, expr: queue > 5, {more}}}\n"));
    let host = host_with_rules(&measured, &rule("annotations: {summary: one}"), "");
    let before = until_state(&host, "Long", "firing");
    put_rules(&host, "a.yml", &rule("annotations: {summary: two}"));
    host.until("/v1/alerts", |alerts| alerts.json()[0]["annotations"]["summary"] == "two");
    let after = until_state(&host, "Long", "firing");
    assert_eq!(before["fired_at"], after["fired_at"]);
    // It must hold for longer now than it has held.
    put_rules(&host, "a.yml", &rule("for: 1h"));
    let pending = until_state(&host, "Long", "pending");
    assert_eq!(pending["active_at"], before["active_at"]);
}

#[test]
fn a_stream_tells_of_all_active_alerts_and_then_of_each_change() {
    let measured = Measured::start("queue 7\nother 0\n");
    let rules = "  - {alert: Long, expr: queue > 5}\n  - {alert: Other, expr: other > 5}\n";
    let host = host_with_rules(&measured, &group(rules), "");
    until_state(&host, "Long", "firing");
    let mut stream = host.stream("/v1/alerts/stream");
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    let (kind, _, alerts) = stream.next_event();
    assert_eq!((kind.as_str(), &alerts[0]["name"], alerts.as_array().unwrap().len()), ("alerts", &json!("Long"), 1));
    measured.set("queue 1\nother 7\n");
    let mut changes = [stream.next_event(), stream.next_event()]
        .map(|(kind, _, alert)| (kind, alert["name"].as_str().unwrap().to_owned(), alert["state"].clone()));
    changes.sort_by_key(|(_, name, _)| name.clone());
    let expected = [("Long", "resolved"), ("Other", "firing")]
        .map(|(name, state)| ("alert".to_owned(), name.to_owned(), json!(state)));
    assert_eq!(changes, expected);
}

#[test]
fn silences_are_made_listed_and_ended_by_those_who_may_write() {
    let measured = Measured::start("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\n");
    let host = host_with_rules(&measured, &group("  - {alert: Long, expr: queue > 5}\n"), "");
    until_state(&host, "Long", "firing");
    let matchers = "[{\"name\":\"alertname\",\"value\":\"L.*\",\"isRegex\":true},{\"name\":\"zone\",\"value\":\"a\"}]";
    let body = format!("{{\"matchers\":{matchers},\"duration\":\"1h\",\"createdBy\":\"me\",\"comment\":\"known\"}}");
    assert_eq!(host.request_with("POST", "/v1/silences", "").status, 401);
    let made = host.send_as_writer("POST", "/v1/silences", &body);
    assert_eq!(made.status, 201, "{}", made.body);
    let (id, status) = (made.json()["id"].as_str().unwrap().to_owned(), made.json()["status"].clone());
    assert_eq!(status, json!({ "state": "active" }));
    let silenced = |zone: &str| {
        let alerts = host.get("/v1/alerts").json();
        let alert = alerts.as_array().unwrap().iter().find(|alert| alert["labels"]["zone"] == zone).unwrap().clone();
        alert["silenced_by"].clone()
    };
    assert_eq!((silenced("a"), silenced("b")), (json!([id]), Value::Null));
    let listed = host.get("/v1/silences").json();
    assert_eq!((&listed[0]["id"], &listed[0]["matchers"][1]["isEqual"]), (&json!(id), &json!(true)));
    let host = host.kill_and_restart();
    assert_eq!(host.get(&format!("/v1/silences/{id}")).json()["comment"], "known");
    assert_eq!(host.send_as_writer("DELETE", &format!("/v1/silences/{id}"), "").status, 204);
    assert_eq!(host.get(&format!("/v1/silences/{id}")).json()["status"]["state"], "expired");
    assert_eq!(host.send_as_writer("DELETE", "/v1/silences/none", "").status, 404);
    for (body, why) in [
        ("{\"matchers\":[],\"duration\":\"1h\"}", "give 1 to 32"),
        ("{\"matchers\":[{\"name\":\"a\",\"value\":\"b\"}]}", "endsAt"),
        ("{\"matchers\":[{\"name\":\"a\",\"value\":\"(\",\"isRegex\":true}],\"duration\":\"1h\"}", "matchers"),
        ("{\"matchers\":[{\"name\":\"a\",\"value\":\"b\"}],\"endsAt\":\"2020-01-01T00:00:00Z\"}", "in the future"),
        ("{\"matcher\":[]}", "unknown field"),
    ] {
        let refused = host.send_as_writer("POST", "/v1/silences", body);
        assert!(refused.status == 400 && refused.body.contains(why), "{body}: {refused:?}");
    }
    let audit = host.until_audited(|line| line["path"] == format!("/v1/silences/{id}"));
    assert!(audit.iter().any(|line| line["path"] == "/v1/silences"), "{audit:?}");
}

#[test]
fn the_command_alerts_lists_them_with_their_summaries() {
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let rules = "  - {alert: Long, expr: queue > 5, labels: {severity: page}, annotations: {summary: 'zone {{ $labels.zone }}'}}\n\
                 \x20 - {alert: Waits, expr: queue > 5, for: 1h}\n";
    let host = host_with_rules(&measured, &group(rules), "");
    until_state(&host, "Long", "firing");
    until_state(&host, "Waits", "pending");
    let list = |args: &[&str]| run(dropsonde().args(["alerts", "--url", &host.url()]).args(args)).1;
    let all = list(&[]);
    let lines: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ALERT", "STATE", "SEVERITY", "SINCE", "INSTANCE", "SUMMARY"]);
    assert_eq!((&lines[1][..3], &lines[1][4..]), (&["Long", "firing", "page"][..], &["app", "zone", "a"][..]));
    assert_eq!(lines[2][..3], ["Waits", "pending", "-"]);
    assert_eq!(list(&["--state", "pending"]).lines().count(), 2);
    assert_eq!(list(&["--state", "resolved"]), "no alerts\n");
    let json: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!(json[0]["name"], "Long");
}

#[test]
fn alerts_of_the_configuration_can_be_about_the_snapshot() {
    let config = "poll.interval = '200ms'\nsnapshot.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n[plugins.synthetic.config]\ninstances = 1\n\
                  [[alerts]]\nname = 'Members'\nwhen = 'presence_total_users >= 0'\n";
    let host = Host::start(config, &[]);
    let alert = until_state(&host, "Members", "firing");
    assert!(alert["expr"].as_str().unwrap().starts_with("(dropsonde_snapshot_presence_"), "{alert}");
}

#[test]
fn a_rule_that_would_have_too_many_alerts_fails_and_keeps_those_that_it_has() {
    let measured = Measured::start("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\n");
    let rules = group("  - {alert: Long, expr: queue > 5}\n");
    let host = host_with_rules(&measured, &rules, "[alerting]\nmax_alerts = 2\n");
    host.until("/v1/alerts?state=firing", |alerts| alerts.json().as_array().unwrap().len() == 2);
    measured.set("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\nqueue{zone=\"c\"} 7\n");
    let rules = host.until("/api/v1/rules", |rules| rules.body.contains("\"health\":\"err\""));
    assert!(
        rules.body.contains("it has 1 new alerts, and there is room for 0: narrow it, or raise alerting.max_alerts"),
        "{}",
        rules.body
    );
    assert_eq!(host.get("/v1/alerts?state=firing").json().as_array().unwrap().len(), 2);
}

#[test]
fn the_rules_that_come_with_the_program_are_evaluated_without_a_failure() {
    let host = Host::start("alerting = { default_rules = true, interval = '1s' }\npoll.interval = '1s'\n", &[]);
    let all_evaluated = |rules: &Value| {
        let groups = rules["data"]["groups"].as_array().unwrap();
        let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        rules.len() > 15 && rules.iter().all(|rule| rule["health"] == "ok")
    };
    host.until("/api/v1/rules", |rules| all_evaluated(&rules.json()));
}

#[test]
fn a_link_of_an_alert_leads_to_its_expression() {
    let measured = Measured::start("queue 7\n");
    let host = host_with_rules(&measured, &group("  - {alert: Long, expr: 'queue{id=\"app\"} > 5'}\n"), "");
    let url = until_state(&host, "Long", "firing")["url"].as_str().unwrap().to_owned();
    let (_, path) = url.split_once("/graph?").unwrap();
    let led = host.get(&format!("/graph?{path}"));
    let to = led.header("location").unwrap();
    assert_eq!((led.status, to), (303, "/#/explore?expr=queue%7Bid%3D%22app%22%7D%20%3E%205"));
}

#[test]
fn a_group_that_takes_too_long_keeps_its_ticks_and_counts_what_it_missed() {
    let measured = Measured::start("queue 7\n");
    // Each of these takes long enough that all of them take longer than the interval.
    let slow = "  - {record: slow, expr: 'sum(sum_over_time(vector(1)[100d:1s]))'}\n";
    let host = host_with_rules(&measured, &group(slow), "");
    let missed = || {
        let metrics = host.get("/metrics").body;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("dropsonde_rule_group_evaluations_missed_total"))
            .map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    wait_until("no evaluation is missed", || missed() > 0);
    let at = |host: &Host| {
        host.get("/api/v1/rules").json()["data"]["groups"][0]["lastEvaluation"].as_str().unwrap().to_owned()
    };
    let offset = |time: &str| {
        let at: jiff::Timestamp = time.parse().unwrap();
        at.as_millisecond().rem_euclid(200)
    };
    let first = at(&host);
    wait_until("there is no further evaluation", || at(&host) != first);
    assert_eq!(offset(&first), offset(&at(&host)), "evaluations stay on their grid");
}
