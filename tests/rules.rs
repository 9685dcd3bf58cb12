//! Rules: their files and unit tests, beside Debian's promtool.

use crate::harness::{dropsonde, prometheus_tool, run, workspace};
use std::fs;
use std::path::Path;

fn rules(command: &str, file: &Path) -> (i32, String, String) {
    run(dropsonde().args(["rules", command]).arg(file))
}

#[test]
fn the_rules_of_this_repository_are_checked_and_tested_with_the_verdict_of_promtool() {
    let folder = workspace().join("host/monitoring");
    for name in ["alerts.yml", "measured.yml", "self.yml"] {
        let (code, out, error) = rules("check", &folder.join(name));
        assert!(code == 0 && out.contains("1 group, "), "{out}{error}");
    }
    for name in ["alerts_test.yml", "measured_test.yml", "self_test.yml"] {
        let (code, out, error) = rules("test", &folder.join(name));
        assert!(code == 0 && out.ends_with(": ok\n"), "{out}{error}");
        let (code, ..) = run(prometheus_tool("promtool").args(["test", "rules"]).arg(folder.join(name)));
        assert_eq!(code, 0);
    }
}

#[test]
fn unit_tests_of_every_change_of_state_have_the_verdict_of_promtool() {
    let tests = workspace().join("tests/rule_files/states_test.yml");
    let (code, out, error) = rules("test", &tests);
    assert!(code == 0, "{out}{error}");
    let (code, out, error) = run(prometheus_tool("promtool").args(["test", "rules"]).arg(&tests));
    assert!(code == 0, "{out}{error}");
}

#[test]
fn a_broken_rule_file_is_reported_with_its_place_and_a_failed_test_with_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yml");
    fs::write(&broken, "groups:\n  - name: g\n    rules:\n      - { record: a, expr: 'sum(' }\n").unwrap();
    let (code, _, error) = rules("check", &broken);
    assert!(
        code == 1 && error.contains("broken.yml:4:28: expr: 1:5") && error.contains("1 file with a mistake"),
        "{error}"
    );
    let several = "groups:\n- name: g\n  rules:\n  - {record: a, expr: 'sum('}\n  - {record: b, expr: up}\n  - {alert: c, expr: 'x ='}\n\
                 - name: g\n  rules:\n  - {alert: d, expr: up, labels: {a-b: c}}\n";
    fs::write(&broken, several).unwrap();
    let (code, _, error) = rules("check", &broken);
    let places: Vec<_> =
        error.lines().filter_map(|line| line.split_once("broken.yml:")?.1.split(": ").next()).collect();
    assert_eq!((code, places), (1, vec!["4:23", "6:22", "7:9", "9:40"]), "{error}");
    fs::write(folder.path().join("good.yml"), "groups: [{ name: g, rules: [{ alert: A, expr: up == 0 }] }]\n").unwrap();
    let test = folder.path().join("test.yml");
    let text = "rule_files: ['good.yml']\ntests:\n  - name: one\n    input_series: [{ series: up, values: '0' }]\n    \
                alert_rule_test: [{ eval_time: 0m, alertname: A, exp_alerts: [] }]\n";
    fs::write(&test, text).unwrap();
    let (code, out, error) = rules("test", &test);
    assert!(code == 1 && out.contains("test.yml: FAILED\n  one: alertname A, at 0s"), "{out}{error}");
    fs::write(&test, text.replace("good.yml", "none-*.yml")).unwrap();
    let (code, _, error) = rules("test", &test);
    assert!(code == 1 && error.contains("no rule file is"), "{error}");
}

/// The templates of annotations, each a case.
const TEMPLATES: [&str; 34] = [
    "{{ $value }} {{ .Value }} {{ $labels.job }} {{ .Labels.missing }}|",
    "{{ $labels }} {{ $externalLabels.region }} {{ $externalURL }}",
    "{{ if gt $value 1.0 }}high{{ else if eq $value 1.0 }}one{{ else }}low{{ end }}",
    "{{ with query \"sort(up)\" }}{{ . | first | value | humanize }}{{ end }}",
    "{{ range query \"sort(up)\" }}{{ .Labels.instance }}={{ .Value }};{{ end }}",
    "{{ range $nth, $s := query \"sort(up)\" | sortByLabel \"instance\" }}{{ $nth }}:{{ $s | label \"instance\" }} {{ end }}",
    "{{ range query \"nothing\" }}x{{ else }}none{{ end }}",
    "{{ with $labels.missing }}x{{ else }}y{{ end }}",
    "a  {{- \" b \" -}}  c {{- /* no */ -}}  d",
    "{{ $x := 2 }}{{ $x = 3 }}{{ $x }} {{ and 1 0 2 }} {{ or \"\" \"z\" }} {{ not true }}",
    "{{ printf \"%.2f|%5.1f|%-6s|%6s|%q\" 1.005 2.25 \"ab\" \"cd\" \"e\\\"f\" }}",
    "{{ printf \"%d %05d %+d %x %X %o %b %c %t %%\" 7 42 3 255 255 8 5 65 true }}",
    "{{ printf \"%v %v %v %s %g %e %.3g\" 1.0 \"a\" 1000000.0 \"b\" 0.00001 123456.0 1234.5 }}",
    "{{ printf \"%d\" 1.5 }} {{ printf \"%s\" 1.5 }} {{ printf \"%d %d\" 1 }} {{ printf \"%d\" 1 \"x\" }}",
    "{{ 1 }} {{ 1.50 }} {{ 1e6 }} {{ 123456789.0 }} {{ 0.00001 }} {{ 1e21 }} {{ 0x1F }} {{ -3 }} {{ 'a' }} {{ true }}",
    "{{ humanize 0.0 }} {{ humanize 1.0 }} {{ humanize 1234567.0 }} {{ humanize 0.12 }} {{ humanize \"1e-5\" }} {{ humanize \"+Inf\" }}",
    "{{ humanize1024 0.0 }} {{ humanize1024 1048576.0 }} {{ humanize1024 0.12 }} {{ humanize1024 -5000.0 }}",
    "{{ humanizeDuration 0 }} {{ humanizeDuration 1 }} {{ humanizeDuration 60 }} {{ humanizeDuration 90000 }}",
    "{{ humanizeDuration -183845.0 }} {{ humanizeDuration 899.99 }} {{ humanizeDuration 0.12345 }} {{ humanizeDuration 1.2345 }}",
    "{{ humanizePercentage 0.1234567 }} {{ humanizePercentage -0.22222 }} {{ humanizePercentage 1.0 }}",
    "{{ humanizeTimestamp 1435065584.128 }} {{ humanizeTimestamp 0 }}",
    "{{ 1435065584.128 | toTime }}",
    "{{ title \"it's a-b c_d\" }} {{ toUpper \"aé\" }} {{ toLower \"AÉ\" }}",
    "{{ match \"a+b\" \"xaab\" }} {{ reReplaceAll \"(a+)b\" \"$1-\" \"aab ab\" }} {{ reReplaceAll \"x(.)\" \"${1}y\" \"xz\" }}",
    "{{ stripPort \"h:80\" }} {{ stripPort \"[::1]:80\" }} {{ stripDomain \"a.b.c:80\" }} {{ stripDomain \"10.0.0.1:80\" }} {{ stripPort \"x\" }}",
    "{{ len \"abc\" }} {{ len $labels }} {{ index $labels \"job\" }} {{ slice \"abcd\" 1 3 }}",
    "{{ print 1 2 \"a\" 3 }} {{ print \"a\" \"b\" }} {{ println 1 \"a\" }}",
    "{{ html \"<a & 'b'>\" }} {{ urlquery \"a b&c\" }} {{ js \"a'b<\" }}",
    "{{ graphLink \"up == 1\" }} {{ tableLink \"up{a=\\\"b\\\"}\" }}",
    "{{ with args 1 \"b\" }}{{ .arg0 }}{{ .arg1 }}{{ end }} {{ eq 1 2 1 }} {{ ne \"a\" \"b\" }} {{ lt 1.5 2.5 }} {{ ge \"b\" \"a\" }}",
    "{{ parseDuration \"1h30m\" }} {{ safeHtml \"<\" }}",
    "{{ query \"sort(up)\" | first }}",
    "{{ range $name, $text := $labels }}{{ $name }}={{ $text }} {{ end }}",
    "{{ (query \"sort(up)\" | first).Labels.instance }} {{ $labels.job | printf \"%s!\" }} {{ printf \"%d\" (len \"ab\") }}",
];

#[test]
fn annotations_are_expanded_as_promtool_expands_them() {
    let folder = tempfile::tempdir().unwrap();
    let annotations: serde_json::Map<String, serde_json::Value> =
        TEMPLATES.iter().enumerate().map(|(nth, text)| (format!("t{nth}"), (*text).into())).collect();
    let rule = serde_json::json!({ "alert": "A", "expr": "up == 2", "annotations": annotations });
    let rules_file = serde_json::json!({ "groups": [{ "name": "g", "rules": [rule] }] });
    fs::write(folder.path().join("rules.yml"), rules_file.to_string()).unwrap();
    let tests = |expected: serde_json::Value| {
        let alert = serde_json::json!({ "exp_labels": { "job": "a", "instance": "i2" }, "exp_annotations": expected });
        serde_json::json!({
            "rule_files": ["rules.yml"],
            "tests": [{
                "interval": "1m",
                "external_labels": { "region": "north" },
                "external_url": "http://host:9090/path",
                "input_series": [
                    { "series": "up{job=\"a\",instance=\"i1\"}", "values": "1 1" },
                    { "series": "up{job=\"a\",instance=\"i2\"}", "values": "2 2" },
                ],
                "alert_rule_test": [{ "eval_time": "1m", "alertname": "A", "exp_alerts": [alert] }],
            }],
        })
    };
    // What promtool expects is learnt from its complaint, one template at a time.
    let file = folder.path().join("test.yml");
    let none: serde_json::Map<String, serde_json::Value> =
        annotations.keys().map(|name| (name.clone(), "".into())).collect();
    fs::write(&file, tests(none.into()).to_string()).unwrap();
    let (_, out, error) = run(prometheus_tool("promtool").args(["test", "rules"]).arg(&file));
    let complaint = format!("{out}{error}");
    let got = complaint.split("got:").nth(1).unwrap_or_else(|| panic!("{complaint}"));
    let mut expected = serde_json::Map::new();
    for name in annotations.keys() {
        let begin = format!("{name}=\"");
        let at = got
            .find(&format!("{{{begin}"))
            .map(|at| at + 1)
            .or_else(|| got.find(&format!(", {begin}")).map(|at| at + 2));
        let rest = &got[at.unwrap_or_else(|| panic!("{name}: {complaint}")) + begin.len() - 1..];
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let text = stream.next().unwrap().unwrap_or_else(|error| panic!("{name}: {error}: {rest}"));
        expected.insert(name.clone(), text.into());
    }
    fs::write(&file, tests(expected.into()).to_string()).unwrap();
    let (code, out, error) = run(prometheus_tool("promtool").args(["test", "rules"]).arg(&file));
    assert_eq!(code, 0, "promtool's own answers: {out}{error}");
    let (code, out, error) = rules("test", &file);
    assert_eq!(code, 0, "{out}{error}");
}
