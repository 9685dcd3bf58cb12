//! Rule files, the states of alerts, and unit tests in the format of promtool.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics says what is wrong")]

use dropsonde_rules::{RuleFile, TestFile};

/// Runs a unit test with rules. Returns what is not as expected.
fn failures(rules: &str, tests: &str) -> Vec<String> {
    let files = [RuleFile::parse(rules).unwrap()];
    TestFile::parse(tests).unwrap().run(&files).unwrap()
}

const RULES: &str = r#"
groups:
  - name: first
    labels: { team: infra, severity: none }
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
        labels: { team: "" }
      - alert: Down
        expr: job:up:sum < 2
        for: 2m
        keep_firing_for: 3m
        labels: { severity: '{{ if eq $value 0.0 }}page{{ else }}ticket{{ end }}' }
        annotations:
          summary: '{{ $labels.job }} has {{ $value }} of {{ query "count(up)" | first | value }}, {{ $externalLabels.region }}'
"#;

#[test]
fn the_rules_of_this_repository_give_the_verdict_of_their_unit_tests() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring");
    for (rules, tests) in [("alerts.yml", "alerts_test.yml"), ("measured.yml", "measured_test.yml")] {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(failures(&read(rules), &read(tests)), [""; 0], "{tests}");
    }
}

#[test]
fn an_alert_is_pending_then_fires_is_kept_firing_and_is_resolved() {
    let tests = r#"
tests:
  - name: states
    interval: 1m
    external_labels: { region: north }
    input_series:
      - { series: 'up{job="a",i="1"}', values: '1 0 0 0 0 1x20' }
      - { series: 'up{job="a",i="2"}', values: '1x30' }
    promql_expr_test:
      - { expr: 'job:up:sum', eval_time: 1m, exp_samples: [{ labels: 'job:up:sum{job="a",severity="none"}', value: 1 }] }
      - { expr: 'ALERTS', eval_time: 0m, exp_samples: [] }
      - expr: 'ALERTS{alertstate="pending"}'
        eval_time: 2m
        exp_samples: [{ labels: 'ALERTS{alertname="Down",alertstate="pending",job="a",severity="ticket",team="infra"}', value: 1 }]
      - expr: 'ALERTS_FOR_STATE'
        eval_time: 3m
        exp_samples: [{ labels: 'ALERTS_FOR_STATE{alertname="Down",job="a",severity="ticket",team="infra"}', value: 60 }]
      - { expr: 'ALERTS{alertstate="pending"}', eval_time: 3m, exp_samples: [] }
      - { expr: 'count(ALERTS)', eval_time: 7m, exp_samples: [{ labels: '{}', value: 1 }] }
      - { expr: 'ALERTS', eval_time: 8m, exp_samples: [] }
    alert_rule_test:
      - { eval_time: 2m, alertname: Down, exp_alerts: [] }
      - eval_time: 3m
        alertname: Down
        exp_alerts:
          - exp_labels: { job: a, severity: ticket, team: infra }
            exp_annotations: { summary: 'a has 1 of 2, north' }
      - { eval_time: 8m, alertname: Down, exp_alerts: [] }
"#;
    assert_eq!(failures(RULES, tests), [""; 0]);
}

#[test]
fn a_wrong_expectation_is_told_with_what_was_found() {
    let tests = r#"
tests:
  - name: wrong
    input_series: [{ series: 'up{job="a"}', values: '1 2 _ stale' }]
    promql_expr_test: [{ expr: 'up', eval_time: 1m, exp_samples: [{ labels: 'up{job="a"}', value: 3 }] }]
    alert_rule_test: [{ eval_time: 1m, alertname: Down, exp_alerts: [{ exp_labels: { job: x } }] }]
"#;
    let found = failures(RULES, tests).concat();
    for part in [
        "wrong: expr \"up\", at 1m",
        "expected:\n      {__name__=\"up\", job=\"a\"} 3",
        "{__name__=\"up\", job=\"a\"} 2",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    assert!(found.contains("alertname Down, at 1m") && found.contains("got: none"), "{found}");
}

#[test]
fn a_rule_whose_series_have_the_same_labels_fails_and_the_others_go_on() {
    let rules = r#"
groups:
  - name: g
    rules:
      - { record: same, expr: up, labels: { i: "" } }
      - { record: few, expr: up }
      - { record: good, expr: count(up) }
"#;
    let limited = rules.replace("name: g", "name: g\n    limit: 1");
    let tests = r#"
tests:
  - input_series: [{ series: 'up{i="1"}', values: '1' }, { series: 'up{i="2"}', values: '1' }]
    promql_expr_test: [{ expr: 'good', eval_time: 0m, exp_samples: [{ labels: 'good', value: 2 }] }]
"#;
    let found = failures(&limited, tests);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("same labelset") && found[1].contains("exceeded limit of 1 with 2 series"), "{found:?}");
}

#[test]
fn a_mistake_in_a_rule_file_has_its_line_and_column() {
    let group = |rule: &str| format!("groups:\n  - name: g\n    rules:\n      - {rule}\n");
    for (text, place, why) in [
        ("groups: [\n".to_owned(), "", ""),
        ("groupz: []\n".to_owned(), "1:1", "groupz"),
        ("groups:\n  - name: a\n  - name: a\n".to_owned(), "3:11", "two groups called \"a\""),
        (group("{ record: a, expr: 'sum(' }"), "4:28", "expr: 1:5"),
        (group("{ record: a, alert: b, expr: up }"), "4:19", "not both"),
        (group("{ expr: up }"), "4:17", "either record or alert"),
        (group("{ record: a-b, expr: up }"), "4:19", "not a metric's name"),
        (group("{ record: a, expr: up, for: 1m }"), "4:19", "has no for"),
        (group("{ alert: a, expr: up, for: 1 minute }"), "4:36", "1 minute"),
        (group("{ alert: a, expr: up, labels: { a-b: c } }"), "4:46", "not the name of a label"),
        (group("{ alert: a, expr: up, annotations: { s: '{{ $x }}' } }"), "4:49", "undefined variable"),
        (group("{ alert: a, expr: 'up[5m]' }"), "4:27", "instant vector"),
    ] {
        let error = RuleFile::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(place) && error.contains(why), "{text}: {error}");
    }
    assert!(RuleFile::parse("# nothing\n").unwrap().groups.is_empty());
}
