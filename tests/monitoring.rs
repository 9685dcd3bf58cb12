//! The alerts and the dashboard use metrics that the host has.

use crate::harness::{Host, app, prometheus_tool, verbs, workspace};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

fn run_in_monitoring_folder(command: &mut Command) -> String {
    let output = command.current_dir(workspace().join("host/monitoring")).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn the_alert_rules_are_valid_and_pass_their_promtool_tests() {
    for rules in ["alerts", "measured"] {
        let (file, tests) = (format!("{rules}.yml"), format!("{rules}_test.yml"));
        let checked = run_in_monitoring_folder(prometheus_tool("promtool").args(["check", "rules", &file]));
        assert!(checked.contains("SUCCESS"), "{checked}");
        run_in_monitoring_folder(prometheus_tool("promtool").args(["test", "rules", &tests]));
    }
}

/// Returns the words of a text that look like metrics of the host.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("dropsonde_"));
    let stem = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word).to_owned()
    };
    words.map(stem).collect()
}

/// Returns the metrics that the host can expose: those it registers by name, and those of a scrape.
fn exposed_metrics() -> BTreeSet<String> {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'panic'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs()), ("app", app())]);
    let shown = host.until("/metrics", |metrics| metrics.body.contains("dropsonde_panics_total{"));
    let sources =
        ["core.rs", "host.rs"].map(|file| fs::read_to_string(workspace().join("host/engine/src/metrics").join(file)));
    let registered = sources.into_iter().flat_map(|source| {
        let source = source.unwrap();
        // First arguments, but for those of tests.
        let code = source.split("#[cfg(test)]").next().unwrap_or_default().replace(char::is_whitespace, "");
        let names = code.split("(\"").skip(1).filter_map(|rest| rest.split('"').next());
        names.map(|name| format!("dropsonde_{name}")).collect::<Vec<String>>()
    });
    metrics_in(&shown.body).into_iter().chain(registered).collect()
}

#[test]
fn alerts_and_dashboard_use_only_metrics_that_the_host_exposes() {
    let known = exposed_metrics();
    for file in ["alerts.yml", "dashboard.json"] {
        let text = fs::read_to_string(workspace().join("host/monitoring").join(file)).unwrap();
        let asked = metrics_in(&text);
        assert!(asked.len() > 10, "{file}");
        let missing: Vec<_> = asked.difference(&known).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    let dashboard = fs::read_to_string(workspace().join("host/monitoring/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(dashboard["title"], "Dropsonde");
}
