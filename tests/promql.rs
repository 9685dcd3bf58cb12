//! The query API of Prometheus, asked as its clients ask it.

use crate::harness::{Host, Prometheus, dropsonde, prometheus_tool, request, run, send, verbs, wait_until, workspace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

/// A host whose plugin registers metrics each time it samples the instance `measure`.
const MEASURING: &str = "external_name = 'web-1:9090'\npoll.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n\
                         [[instances]]\nid = 'measure'\nsamplers = ['verbs']\nlabels = { zone = 'a' }\n";

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn instant(expression: &str) -> String {
    format!("/api/v1/query?query={}", encoded(expression))
}

/// Waits until an expression has a value, and returns the series.
fn until_some(host: &Host, expression: &str) -> Vec<Value> {
    let has_some = |answer: &Value| answer["data"]["result"].as_array().is_some_and(|all| !all.is_empty());
    let answer = host.until(&instant(expression), |answer| has_some(&answer.json()));
    answer.json()["data"]["result"].as_array().unwrap().clone()
}

fn data(host: &Host, path: &str) -> Value {
    let answer = host.get(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    let json = answer.json();
    assert_eq!(json["status"], "success", "{path}");
    json["data"].clone()
}

#[test]
fn history_is_asked_in_promql_as_a_prometheus_has_it_that_scrapes_the_host() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    let level = until_some(&host, "verbs_level");
    let labels = json!({"__name__": "verbs_level", "instance": "web-1:9090", "job": "dropsonde", "plugin": "verbs"});
    assert_eq!((&level[0]["metric"], &level[0]["value"][1]), (&labels, &"4.5".into()));
    // Fields of samples have the names, the units and the labels that they have on /metrics.
    let sampled = until_some(&host, "{id=\"measure\", sampler=\"verbs\", job=\"dropsonde\"}");
    let exposed = host.get("/metrics").body;
    for series in &sampled {
        let name = series["metric"]["__name__"].as_str().unwrap();
        assert!(exposed.contains(&format!("\n{name}{{")), "{name}");
        assert_eq!(series["metric"]["zone"], "a");
    }
    until_some(&host, "sum by (instance) (rate(dropsonde_plugin_polls_total[1m])) > 0");
    until_some(&host, "up == 1");
    until_some(&host, "histogram_quantile(0.5, rate(verbs_seconds_bucket[1m]))");
    // A range has the values of each step, and a series that has ended has none.
    let now = host.get("/api/v1/query?query=time()").json()["data"]["result"][0].as_f64().unwrap();
    let (start, end) = (now - 4.0, now + 1.0);
    let range = data(&host, &format!("/api/v1/query_range?query=verbs_level&start={start}&end={end}&step=1s"));
    assert_eq!((&range["resultType"], &range["result"][0]["metric"]), (&"matrix".into(), &labels));
    fs::remove_file(host.plugin_file("verbs")).unwrap();
    host.until(&instant("verbs_level"), |answer| answer.json()["data"]["result"] == json!([]));
    let kept = data(&host, &instant("max_over_time(verbs_level[1m])"));
    assert_eq!(kept["result"][0]["value"][1], "4.5", "its history stays");
    // Another name applies at once, to what is in history too.
    host.reconfigure(&MEASURING.replace("web-1:9090", "web-2"));
    host.until(&instant("max_over_time(verbs_level{instance='web-2'}[1m])"), |answer| answer.body.contains("4.5"));
}

#[test]
fn labels_values_series_and_metadata_are_listed() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    until_some(&host, "verbs_level and on () {id=\"measure\"}");
    let names = data(&host, "/api/v1/labels");
    for name in ["__name__", "id", "instance", "job", "plugin", "sampler", "zone"] {
        assert!(names.as_array().unwrap().contains(&name.into()), "{name}: {names}");
    }
    let of_level = data(&host, &format!("/api/v1/labels?match[]={}", encoded("verbs_level")));
    assert_eq!(of_level, json!(["__name__", "instance", "job", "plugin"]));
    assert_eq!(data(&host, "/api/v1/label/zone/values"), json!(["a"]));
    assert_eq!(data(&host, "/api/v1/label/instance/values"), json!(["web-1:9090"]));
    assert_eq!(data(&host, "/api/v1/label/U__zone/values"), json!(["a"]));
    assert_eq!(data(&host, "/api/v1/label/nothing/values"), json!([]));
    let values = data(&host, &format!("/api/v1/label/__name__/values?match[]={}", encoded("{plugin='verbs'}")));
    assert!(values.as_array().unwrap().contains(&"verbs_level".into()), "{values}");
    let listed = data(&host, &format!("/api/v1/series?match[]={}", encoded("verbs_level{job='dropsonde'}")));
    let labels = json!({"__name__": "verbs_level", "instance": "web-1:9090", "job": "dropsonde", "plugin": "verbs"});
    assert_eq!(listed, json!([labels]));
    let none = data(&host, &format!("/api/v1/series?match[]={}", encoded("verbs_level{job='other'}")));
    assert_eq!(none, json!([]));
    let cut = host.get("/api/v1/label/__name__/values?limit=2").json();
    assert_eq!(cut["data"].as_array().unwrap().len(), 2);
    assert_eq!(cut["warnings"], json!(["results truncated due to limit"]));
    let known = data(&host, "/api/v1/metadata");
    assert_eq!(known["dropsonde_build_info"][0]["type"], "gauge");
    assert_eq!(known["verbs_seconds"][0]["type"], "histogram");
    assert_eq!(known["verbs_seconds"][0]["unit"], "seconds");
    assert!(known["dropsonde_build_info"][0]["help"].as_str().unwrap().contains("version"));
    let one = data(&host, "/api/v1/metadata?metric=verbs_level");
    assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), ["verbs_level"]);
}

#[test]
fn an_error_has_the_type_and_the_status_that_clients_of_prometheus_know() {
    let config = "[query]\nmax_samples = 10\ntimeout = '5s'\n[plugins.procfs]\ninterval = '1h'\n";
    let host = Host::start(config, &[]);
    let now = 1_800_000_000;
    for (path, status, error_type, says) in [
        (instant("sum("), 400, "bad_data", "1:5: parse error: expected an expression, but the text ends"),
        (instant("rate(up)"), 400, "bad_data", "`rate` takes a range vector"),
        ("/api/v1/query".to_owned(), 400, "bad_data", "invalid parameter \"query\""),
        ("/api/v1/query?query=1&time=soon".to_owned(), 400, "bad_data", "cannot parse \"soon\" to a valid timestamp"),
        (format!("/api/v1/query_range?query=1&start={now}&end=1&step=1"), 400, "bad_data", "before start time"),
        (format!("/api/v1/query_range?query=1&start=1&end={now}&step=1"), 400, "bad_data", "11,000 points"),
        ("/api/v1/query_range?query=1&start=1&end=2&step=0".to_owned(), 400, "bad_data", "zero or negative"),
        ("/api/v1/query_range?query=x[5m]&start=1&end=2&step=1".to_owned(), 400, "bad_data", "range query"),
        (instant("label_replace(vector(1), 'a', 'b', 'c', '(')"), 422, "execution", "invalid regular expression"),
        ("/api/v1/series".to_owned(), 400, "bad_data", "no match[] parameter provided"),
        (format!("/api/v1/series?match[]={}", encoded("{a=~'.*'}")), 400, "bad_data", "at least one matcher"),
        ("/api/v1/labels?match[]=)".to_owned(), 400, "bad_data", "expected the name of a metric"),
        ("/api/v1/label/U__zz/values?limit=x".to_owned(), 400, "bad_data", "\"x\" is not a whole number"),
    ] {
        let answer = host.get(&path);
        let json = answer.json();
        assert_eq!((answer.status, &json["status"], &json["errorType"]), (status, &"error".into(), &error_type.into()));
        assert!(json["error"].as_str().unwrap().contains(says), "{path}: {json}");
    }
    assert_eq!(host.get("/api/v1/status/flags").status, 404);
    let form = format!("query={}", "x".repeat(300_000));
    let headers = "content-type: application/x-www-form-urlencoded\r\n";
    let refused = send(&host.address, "POST", "/api/v1/query", headers, form.as_bytes());
    assert_eq!((refused.status, &refused.json()["status"]), (413, &"error".into()));
    let too_many = instant("count({__name__=~\"dropsonde_.*\"})");
    let refused = host.until(&too_many, |answer| answer.status == 422).json();
    assert_eq!(refused["errorType"], "execution");
    assert!(refused["error"].as_str().unwrap().contains("more than 10 samples"), "{refused}");
    // A function that Prometheus has behind a flag is known once it is switched on.
    assert!(host.get(&instant("limitk(1, up)")).body.contains("experimental functions are off"));
    host.reconfigure("[query]\nexperimental = true\n[plugins.procfs]\ninterval = '1h'\n");
    host.until(&instant("limitk(1, up)"), |answer| answer.status == 200);
}

#[test]
fn answers_are_written_byte_for_byte_as_prometheus_writes_them() {
    let host = Host::start("[plugins.procfs]\ninterval = '1h'\n", &[]);
    let prometheus = Prometheus::start(&[]);
    for path in [
        "/api/v1/query?query=1%2B1&time=4",
        "/api/v1/query?query=0.0000001&time=1.5",
        "/api/v1/query?query=vector(0.0000001)&time=1.5",
        "/api/v1/query?query=vector(1e21)&time=1700000000.123",
        "/api/v1/query?query=-1/0&time=1",
        "/api/v1/query?query=vector(NaN)&time=1",
        "/api/v1/query?query=%22a%5C%22b%5Cn%22&time=1",
        "/api/v1/query?query=nothing&time=1",
        "/api/v1/query?query=nothing[5m]&time=1",
        "/api/v1/query?query=label_replace(vector(1),%22a%22,%22%C3%A9%5C%22%22,%22%22,%22%22)&time=1",
        "/api/v1/query_range?query=time()/7&start=0&end=3&step=0.5",
        "/api/v1/query_range?query=vector(1)&start=1&end=2&step=1",
        "/api/v1/query_exemplars?query=up&start=1700000000000&end=1700000060000",
        "/api/v1/rules",
        "/api/v1/alerts",
        "/api/v1/format_query?query=sum(a)/b",
    ] {
        let theirs = wait_for(&prometheus.address, path);
        assert_eq!(host.get(path).body, theirs, "{path}");
    }
}

/// Asks a Prometheus, once it is ready.
fn wait_for(address: &str, path: &str) -> String {
    let mut body = String::new();
    wait_until("Prometheus does not answer", || {
        let answer = request(address, "GET", path, "");
        body = answer.body;
        answer.status == 200
    });
    body
}

#[test]
fn promtool_asks() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    until_some(&host, "verbs_level");
    let promtool = |arguments: &[&str]| {
        let output = prometheus_tool("promtool").args(["query"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let level = "verbs_level{instance=\"web-1:9090\", job=\"dropsonde\", plugin=\"verbs\"}";
    let url = host.url();
    assert!(promtool(&["instant", &url, "verbs_level"]).starts_with(&format!("{level} => 4.5 @[")));
    assert!(promtool(&["range", "--step=1s", &url, "verbs_level"]).starts_with(&format!("{level} =>\n4.5 @[")));
    let series = promtool(&["series", "--match=verbs_level", &url]);
    assert!(series.contains("__name__=\"verbs_level\""), "{series}");
    assert_eq!(promtool(&["labels", &url, "job"]), "dropsonde\n");
}

/// The requests that Grafana's data source makes: its test, the editor, variables, Explore.
#[test]
fn grafanas_data_source_is_answered_in_the_shapes_that_it_expects() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    until_some(&host, "verbs_level");
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let post = |path: &str, body: &str| {
        let answer = send(&host.address, "POST", path, form, body.as_bytes());
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
        answer.json()["data"].clone()
    };
    // Save & test.
    let sum = post("/api/v1/query", "query=1%2B1&time=4");
    assert_eq!(sum, json!({"resultType": "scalar", "result": [4, "2"]}));
    let about = data(&host, "/api/v1/status/buildinfo");
    let version: Vec<u32> = about["version"].as_str().unwrap().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(version > vec![2, 24] && about.get("features").is_none(), "{about}");
    // The editor.
    let end = host.get("/api/v1/query?query=time()").json()["data"]["result"][0].as_f64().unwrap() as i64 + 1;
    let start = end - 3600;
    let names = data(&host, &format!("/api/v1/label/__name__/values?start={start}&end={end}&limit=40000"));
    assert!(names.as_array().unwrap().contains(&"verbs_level".into()));
    let labels = post("/api/v1/labels", &format!("start={start}&end={end}&limit=40000&match%5B%5D=verbs_level"));
    assert_eq!(labels, json!(["__name__", "instance", "job", "plugin"]));
    assert_eq!(data(&host, "/api/v1/metadata")["verbs_level"][0]["type"], "gauge");
    assert_eq!(data(&host, "/api/v1/rules"), json!({"groups": []}));
    assert_eq!(data(&host, "/api/v1/rules?type=alert&group_limit=10&rule_name[]=x&file[]=y"), json!({"groups": []}));
    // Variables.
    let matched = format!("match%5B%5D=verbs_level&start={start}&end={end}");
    assert_eq!(data(&host, &format!("/api/v1/label/plugin/values?{matched}")), json!(["verbs"]));
    assert_eq!(post("/api/v1/series", &matched).as_array().unwrap().len(), 1);
    // Explore: a graph and a table, and the probe for exemplars, in milliseconds.
    let graph = post("/api/v1/query_range", &format!("query=verbs_level&start={start}&end={end}&step=15"));
    assert_eq!(graph["resultType"], "matrix");
    let table = post("/api/v1/query", &format!("query=verbs_level&time={end}.5"));
    assert_eq!((&table["resultType"], &table["result"][0]["value"][1]), (&"vector".into(), &"4.5".into()));
    let exemplars = format!("query=verbs_level&start={start}000&end={end}000");
    assert_eq!(post("/api/v1/query_exemplars", &exemplars), json!([]));
    // Perses reads the tree of an expression.
    let tree = post("/api/v1/parse_query", &format!("query={}", encoded("sum by (a) (rate(x{b='c'}[5m] offset 1m))")));
    assert_eq!(
        (&tree["type"], &tree["grouping"], &tree["expr"]["func"]["name"]),
        (&"aggregation".into(), &json!(["a"]), &"rate".into())
    );
    let selector = &tree["expr"]["args"][0];
    assert_eq!((&selector["range"], &selector["offset"]), (&300_000.into(), &60_000.into()));
    assert_eq!(selector["matchers"][0], json!({"name": "b", "type": "=", "value": "c"}));
}

#[test]
fn a_form_needs_only_the_read_right_and_a_token_is_also_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("read");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let config = format!("[auth]\nread_token_file = {token:?}\n[plugins.procfs]\ninterval = '1h'\n");
    let host = Host::start(&config, &[]);
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let ask =
        |headers: &str| send(&host.address, "POST", "/api/v1/query", &format!("{form}{headers}"), b"query=1").status;
    assert_eq!(ask(""), 401);
    assert_eq!(ask("authorization: Bearer 0123456789abcdef0123456789abcdef\r\n"), 200);
    // `grafana:TOKEN` and `:TOKEN`.
    assert_eq!(ask("authorization: Basic Z3JhZmFuYTowMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg==\r\n"), 200);
    assert_eq!(ask("authorization: basic OjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVm\r\n"), 200);
    assert_eq!(ask("authorization: Basic Z3JhZmFuYTp3cm9uZw==\r\n"), 401);
    assert_eq!(ask("authorization: Basic !\r\n"), 401);
    // It changes nothing, so the audit log has nothing of it.
    host.send_as_admin("POST", "/v1/reload", b"");
    let audited = host.until_audited(|entry| entry["path"] == "/v1/reload");
    assert!(audited.iter().all(|entry| entry["path"] != "/api/v1/query"), "{audited:?}");
}

/// Returns the expressions of a dashboard's panels, for one host and a range of a minute.
fn panels() -> Vec<String> {
    fn expressions(of: &Value, found: &mut Vec<String>) {
        match of {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| expressions(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
            _ => {}
        }
    }
    let text = fs::read_to_string(workspace().join("host/monitoring/dashboard.json")).unwrap();
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text).unwrap(), &mut found);
    let filled =
        |text: String| text.replace("$instance", ".*").replace("$__rate_interval", "1m").replace("$__range", "1m");
    found.into_iter().map(filled).collect()
}

/// Returns the expressions of the alerts.
fn alerts() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("host/monitoring/alerts.yml")).unwrap();
    let mut found: Vec<String> = Vec::new();
    let mut indent: Option<usize> = None;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        if let Some(rest) = line.trim().strip_prefix("expr: ") {
            indent = (rest == "|").then_some(depth);
            found.push(if rest == "|" { String::new() } else { rest.to_owned() });
        } else if indent.is_some_and(|indent| depth > indent) {
            found.last_mut().unwrap().push_str(&format!("{}\n", line.trim()));
        } else {
            indent = None;
        }
    }
    found
}

/// Returns the label sets of an answer.
fn label_sets(answer: &str) -> BTreeSet<String> {
    let json: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(json["status"], "success", "{answer}");
    let result = json["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}"));
    result.iter().map(|series| series["metric"].to_string()).collect()
}

#[test]
fn panels_and_alerts_find_what_they_find_in_a_prometheus_that_scrapes_the_host() {
    let config = "poll.interval = '200ms'\n[[instances]]\nid = 'measure'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.reconfigure(&format!("external_name = '{}'\n{config}", host.address));
    let prometheus = Prometheus::start(&[("dropsonde", &host.address)]);
    let asked: Vec<String> = panels().into_iter().chain(alerts()).collect();
    assert!(asked.len() > 60, "{}", asked.len());
    prometheus.until("count_over_time(up[1m])", |count| count > 3.0);
    for expression in &asked {
        let path = instant(expression);
        let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
        let are_same = || {
            theirs = label_sets(&request(&prometheus.address, "GET", &path, "").body);
            ours = label_sets(&host.get(&path).body);
            ours == theirs
        };
        wait_until(&format!("the answers differ: {expression}"), are_same);
    }
}

#[test]
fn values_are_those_of_a_prometheus_that_scrapes_the_host() {
    let config = "poll.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n\
                  [[instances]]\nid = 'measure'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let prometheus = Prometheus::start(&[("dropsonde", &host.address)]);
    prometheus.until("count_over_time(up[1m])", |count| count > 3.0);
    // Of what does not change, or does so evenly.
    for expression in [
        "verbs_level",
        "sum(verbs_level) * 2",
        "avg_over_time(verbs_level[10s])",
        "dropsonde_start_time_seconds",
        "count(dropsonde_build_info)",
        "changes(dropsonde_start_time_seconds[1m])",
        "sum by (plugin) (verbs_level) / on () group_left () count(verbs_level)",
    ] {
        let ours = until_some(&host, expression)[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap();
        let theirs = prometheus.until(expression, |_| true);
        assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{expression}: {ours} {theirs}");
    }
    // Once a tick: five in a second.
    let ticks = "sum(rate(dropsonde_plugin_polls_total{plugin='verbs'}[5s]))";
    prometheus.until(ticks, |rate| (3.0..7.0).contains(&rate));
    host.until(&instant(ticks), |answer| {
        let value = answer.json()["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse::<f64>().ok());
        value.is_some_and(|rate| (3.0..7.0).contains(&rate))
    });
}

#[test]
fn people_ask_at_the_command_line() {
    let host = Host::start(MEASURING, &[("verbs", verbs())]);
    until_some(&host, "verbs_level and on () (up offset 1s)");
    let url = host.url();
    let query = |arguments: &[&str]| run(dropsonde().args(["query", "--url", &url]).args(arguments));
    let (code, out, error) = query(&["verbs_level * 2"]);
    assert_eq!((code, &*out), (0, "{instance=\"web-1:9090\",job=\"dropsonde\",plugin=\"verbs\"}  9\n"), "{error}");
    assert_eq!(query(&["1 + 1"]).1, "2\n");
    let (code, out, _) = query(&["up", "--range", "1m", "--step", "1s"]);
    assert!(code == 0 && out.starts_with("up{instance=\"web-1:9090\",job=\"dropsonde\"}\n"), "{out}");
    let (code, out, _) = query(&["{__name__=~'verbs_level|up'}", "--range", "1m"]);
    assert!(code == 0 && out.starts_with("{instance=\"web-1:9090\",job=\"dropsonde\"}\nSERIES"), "{out}");
    let (code, out, _) = query(&["verbs_level[1m]"]);
    assert!(
        code == 0 && out.lines().nth(1).is_some_and(|line| line.starts_with("  20") && line.ends_with("Z  4.5")),
        "{out}"
    );
    let (code, out, _) = query(&["up", "--json"]);
    assert!(code == 0 && serde_json::from_str::<Value>(&out).unwrap()["status"] == "success");
    let (code, out, error) = query(&["sum(rate(verbs_level))"]);
    assert!(code == 1 && out.is_empty() && error.contains("\n  sum(rate(verbs_level))\n           ^"), "{error}");
    let (code, _, error) = query(&["nothing"]);
    assert!(code == 1 && error.contains("no series"), "{error}");
    let (code, _, error) = query(&["up", "--range", "soon"]);
    assert!(code == 1 && error.contains("--range") && error.contains("write it like 30m"), "{error}");
    let (code, _, error) = query(&["rate(verbs_level[1m])"]);
    assert!(code == 0 && error.contains("metric might not be a counter"), "{error}");
}
