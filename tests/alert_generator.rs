//! The specification of alert generators (`alert_generator/specification.md` in prometheus/compliance), point by point,
//! against the real binary. Each test has the name of a section there.

use crate::harness::{Host, Measured, Received, Receiver, wait_until};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fs;

/// Milliseconds between two evaluations.
const INTERVAL: i64 = 200;

/// The least milliseconds between two sends of an alert.
const RESEND: i64 = 1000;

/// A host with rules, that tells a receiver of alerts as it would tell an Alertmanager.
struct Generator {
    host: Host,
    alertmanager: Receiver,
    measured: Measured,
}

impl Generator {
    fn start(values: &str, rules: &str) -> Self {
        let (measured, alertmanager) = (Measured::start(values), Receiver::start());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.yml");
        fs::write(&file, format!("groups:\n- name: g\n  interval: {INTERVAL}ms\n  rules:\n{rules}")).unwrap();
        let config = format!(
            "rules = ['{}']\n{}[alerting]\nalertmanagers = ['http://{}']\nresend_delay = '{RESEND}ms'\n\
             external_url = 'http://me/'\n",
            file.display(),
            measured.config(),
            alertmanager.address
        );
        let host = Host::start(&config, &[]);
        // The file is read by then.
        host.until("/api/v1/rules", |rules| rules.body.contains("\"lastEvaluation\":\"2"));
        Self { host, alertmanager, measured }
    }

    /// Returns all alerts that were sent, in the order of their requests.
    fn sent(&self) -> Vec<Value> {
        let alerts = |request: &Received| request.json().as_array().unwrap().clone();
        self.alertmanager.received().iter().flat_map(alerts).collect()
    }

    /// Waits until a number of alerts was sent.
    fn until_sent(&self, count: usize) -> Vec<Value> {
        wait_until("not enough alerts were sent", || self.sent().len() >= count);
        self.sent()
    }

    /// Waits until a rule has a state, and returns it.
    fn until_rule(&self, name: &str, state: &str) -> Value {
        let mut found = Value::Null;
        wait_until(&format!("{name} is not {state}"), || {
            found = self.rule(name);
            found["state"] == state
        });
        found
    }

    fn rule(&self, name: &str) -> Value {
        let listed = self.host.get("/api/v1/rules").json();
        let rules = listed["data"]["groups"][0]["rules"].as_array().unwrap().clone();
        rules.into_iter().find(|rule| rule["name"] == name).unwrap()
    }

    fn asked(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.host.get(&format!("/api/v1/query?query={encoded}")).json();
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

fn ms(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<Timestamp>().unwrap().as_millisecond()
}

#[test]
fn alert_format_and_payload_format_to_send_alerts_to_alertmanager() {
    let rules =
        "  - {alert: A, expr: 'queue > 5', labels: {severity: page}, annotations: {summary: 'at {{ $value }}'}}\n";
    let generator = Generator::start("queue{zone=\"a\"} 7\n", rules);
    let sent = generator.until_sent(1)[0].clone();
    let labels = json!({ "alertname": "A", "id": "app", "instance": "me", "job": "dropsonde", "sampler": "scrape",
        "severity": "page", "zone": "a" });
    assert_eq!((&sent["labels"], &sent["annotations"]), (&labels, &json!({ "summary": "at 7" })));
    assert_eq!(sent["generatorURL"], "http://me/graph?g0.expr=queue%20%3E%205&g0.tab=1");
    assert_eq!(sent.as_object().unwrap().len(), 5, "{sent}");
    // The end of a firing alert is four times the longer of the interval and of the time between two sends away.
    let fired = ms(&sent["startsAt"]);
    assert_eq!(ms(&sent["endsAt"]) - fired, 4 * RESEND);
    generator.measured.set("queue{zone=\"a\"} 1\n");
    wait_until("the end is not sent", || {
        ms(&generator.sent().last().unwrap()["endsAt"]) < Timestamp::now().as_millisecond()
    });
    let last = generator.sent().last().unwrap().clone();
    let resolved = generator.host.get("/v1/alerts").json()[0]["resolved_at"].clone();
    assert_eq!((ms(&last["startsAt"]), ms(&last["endsAt"])), (fired, ms(&resolved)));
}

#[test]
fn alerting_rules_the_format_and_its_constraints() {
    // Optional functions and variables of templates are no mistakes.
    let optional = "{{ graphLink \"up\" }}{{ tableLink \"up\" }}{{ pathPrefix }}{{ safeHtml \"x\" }}{{ strvalue . }}{{ $externalURL }}";
    let rules = format!(
        "  - {{record: 'queue:sum', expr: 'sum(queue)'}}\n  - {{alert: A, expr: 'queue:sum > 5'}}\n\
         \x20 - {{record: 'alerts:sum', expr: 'sum(ALERTS{{alertname=\"A\"}})'}}\n\
         \x20 - {{alert: B, expr: 'alerts:sum == 1', annotations: {{all: '{optional}'}}}}\n"
    );
    let generator = Generator::start("queue{zone=\"a\"} 3\nqueue{zone=\"b\"} 4\n", &rules);
    // Each rule needs the result of the one before, in the same evaluation.
    let fired = generator.until_rule("B", "firing");
    let first = generator.until_rule("A", "firing");
    assert_eq!(ms(&fired["alerts"][0]["activeAt"]), ms(&first["alerts"][0]["activeAt"]));
}

#[test]
fn processing_instant_query_result_steps_1_to_3() {
    let rules = "  - {alert: A, expr: 'queue > 5', labels: {zone: '{{ $labels.zone }}-x', alertname: other, kind: '{{ $value }}'}}\n";
    let generator = Generator::start("queue{zone=\"a\",alertname=\"mine\"} 7\nqueue{zone=\"b\"} 8\n", rules);
    let sent = generator.until_sent(2);
    let mut labels: Vec<_> = sent.iter().take(2).map(|alert| alert["labels"].clone()).collect();
    labels.sort_by_key(ToString::to_string);
    let own = |zone: &str, kind: &str| {
        json!({ "alertname": "A", "id": "app", "instance": "me", "job": "dropsonde", "kind": kind,
            "sampler": "scrape", "zone": zone })
    };
    assert_eq!(labels, [own("a-x", "7"), own("b-x", "8")]);
}

#[test]
fn processing_instant_query_result_step_4() {
    let rules = "  - {alert: A, expr: 'queue > 5', labels: {zone: same}}\n";
    let generator = Generator::start("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 8\n", rules);
    wait_until("the rule does not fail", || generator.rule("A")["health"] == "err");
    let rule = generator.rule("A");
    let why = "vector contains metrics with the same labelset after applying alert labels";
    assert_eq!((&rule["lastError"], &rule["alerts"]), (&json!(why), &json!([])));
    assert!(generator.sent().is_empty() && generator.asked("ALERTS").is_empty());
}

#[test]
fn pending_state_conditions() {
    let rules = "  - {alert: A, expr: 'queue > 5', for: 1h, annotations: {at: '{{ $value }}'}}\n";
    let generator = Generator::start("queue 7\n", rules);
    let active = generator.until_rule("A", "pending")["alerts"][0]["activeAt"].clone();
    generator.measured.set("queue 9\n");
    wait_until("the annotations stay", || generator.rule("A")["alerts"][0]["annotations"]["at"] == "9");
    let rule = generator.rule("A");
    assert_eq!((&rule["alerts"][0]["activeAt"], &rule["state"]), (&active, &json!("pending")));
    assert!(generator.sent().is_empty(), "a pending alert is not sent");
    assert_eq!(generator.asked("ALERTS{alertstate=\"pending\"}").len(), 1);
}

#[test]
fn firing_state_conditions() {
    let rules = "  - {alert: Now, expr: 'queue > 5'}\n  - {alert: Next, expr: 'queue > 5', for: 50ms}\n\
                 \x20 - {alert: Later, expr: 'queue > 5', for: 1s}\n";
    let generator = Generator::start("queue 7\n", rules);
    wait_until("not all fire", || generator.host.get("/v1/alerts?state=firing").json().as_array().unwrap().len() == 3);
    let alerts = generator.host.get("/v1/alerts").json();
    let waited = |name: &str| {
        let alert = alerts.as_array().unwrap().iter().find(|alert| alert["name"] == name).unwrap();
        ms(&alert["fired_at"]) - ms(&alert["active_at"])
    };
    assert_eq!((waited("Now"), waited("Next"), waited("Later")), (0, INTERVAL, 1000));
}

#[test]
fn inactive_state_conditions() {
    let generator = Generator::start("queue 7\n", "  - {alert: A, expr: 'queue > 5'}\n");
    let first = generator.until_rule("A", "firing")["alerts"][0]["activeAt"].clone();
    generator.measured.set("queue 1\n");
    generator.until_rule("A", "inactive");
    generator.measured.set("queue 7\n");
    let second = generator.until_rule("A", "firing")["alerts"][0]["activeAt"].clone();
    assert!(ms(&second) > ms(&first), "an alert after an inactive one is new");
}

#[test]
fn time_series_to_create() {
    let rules = "  - {alert: A, expr: 'queue > 5', labels: {alertstate: mine}}\n";
    let generator = Generator::start("queue{zone=\"a\"} 7\n", rules);
    generator.until_rule("A", "firing");
    let series = generator.asked("ALERTS");
    let labels = json!({ "__name__": "ALERTS", "alertname": "A", "alertstate": "firing", "id": "app", "instance": "me",
        "job": "dropsonde", "sampler": "scrape", "zone": "a" });
    assert_eq!((series.len(), &series[0]["metric"], &series[0]["value"][1]), (1, &labels, &json!("1")));
    // Its time is that of an evaluation.
    let at = generator.asked("timestamp(ALERTS)")[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    let evaluated = ms(&generator.rule("A")["lastEvaluation"]);
    assert_eq!(((at * 1000.0).round() as i64 - evaluated).rem_euclid(INTERVAL), 0);
    generator.measured.set("queue{zone=\"a\"} 1\n");
    generator.until_rule("A", "inactive");
    assert!(generator.asked("ALERTS").is_empty());
}

#[test]
fn conditions_for_sending_firing_alerts() {
    let generator = Generator::start("queue 7\n", "  - {alert: A, expr: 'queue > 5'}\n");
    let sent = generator.until_sent(4);
    // An end is as far from its evaluation as the next, so the differences are those between evaluations.
    let ends: Vec<i64> = sent.iter().map(|alert| ms(&alert["endsAt"])).collect();
    assert!(ends.windows(2).all(|pair| pair[1] - pair[0] == RESEND), "{ends:?}");
    assert!(sent.iter().all(|alert| alert["startsAt"] == sent[0]["startsAt"]));
}

#[test]
fn conditions_for_sending_inactive_alerts() {
    let generator = Generator::start("queue 7\n", "  - {alert: A, expr: 'queue > 5'}\n");
    generator.until_sent(1);
    generator.measured.set("queue 1\n");
    generator.until_rule("A", "inactive");
    let over = |sent: &[Value]| {
        sent.iter()
            .filter(|alert| ms(&alert["endsAt"]) < Timestamp::now().as_millisecond())
            .cloned()
            .collect::<Vec<_>>()
    };
    wait_until("the end is not sent again", || over(&generator.sent()).len() >= 3);
    let ends = over(&generator.sent());
    assert!(ends.iter().all(|alert| alert["endsAt"] == ends[0]["endsAt"]), "{ends:?}");
    generator.measured.set("queue 7\n");
    generator.until_rule("A", "firing");
    let before = generator.sent().len();
    let later = generator.until_sent(before + 2)[before..].to_vec();
    assert!(over(&later).is_empty(), "a new alert takes the place of the inactive one: {later:?}");
}

#[test]
fn apis_to_support() {
    let rules = "  - {alert: A, expr: 'queue > 5', for: 1s, labels: {severity: page}, annotations: {at: '{{ $value }}'}}\n\
                 \x20 - {alert: B, expr: 'queue > 5', for: 1h}\n\x20 - {alert: C, expr: 'queue > 500'}\n";
    let generator = Generator::start("queue 7\n", rules);
    let rule = generator.until_rule("A", "firing");
    generator.until_rule("B", "pending");
    generator.until_rule("C", "inactive");
    let expected = json!({ "type": "alerting", "name": "A", "query": "queue > 5", "duration": 1,
        "labels": { "severity": "page" }, "annotations": { "at": "{{ $value }}" }, "health": "ok", "state": "firing" });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&rule[key], value, "{key}");
    }
    assert!(rule["evaluationTime"].is_f64() && rule.get("lastError").is_none(), "{rule}");
    let alert = &rule["alerts"][0];
    assert_eq!(
        (&alert["state"], &alert["value"], &alert["annotations"]),
        (&json!("firing"), &json!("7e+00"), &json!({ "at": "7" }))
    );
    let group = generator.host.get("/api/v1/rules").json()["data"]["groups"][0].clone();
    assert_eq!((&group["name"], &group["interval"]), (&json!("g"), &json!(0.2)));
    let alerts = generator.host.get("/api/v1/alerts").json();
    let mut states: Vec<_> =
        alerts["data"]["alerts"].as_array().unwrap().iter().map(|alert| alert["state"].to_string()).collect();
    states.sort();
    assert_eq!(
        (&alerts["status"], states),
        (&json!("success"), vec!["\"firing\"".to_owned(), "\"pending\"".to_owned()])
    );
}
