use crate::harness::{Host, Response, verbs};
use serde_json::{Value, json};

/// Starts a host with two instances of a workload and one without.
fn host() -> Host {
    let config = "poll.interval = '100ms'\n\
                  [[instances]]\nid = 'web-1'\nlabels = { workload = 'web' }\n\
                  [[instances]]\nid = 'web-2'\nlabels = { workload = 'web' }\n\
                  [[instances]]\nid = 'büro'\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    for id in ["web-1", "web-2", "b%C3%BCro"] {
        host.until(&format!("/v1/instances/{id}/usage"), |answer| answer.status == 200);
    }
    host
}

fn keys(answer: &Response) -> Vec<String> {
    answer.json().as_object().unwrap().keys().cloned().collect()
}

#[test]
fn usage_of_many_instances_can_be_selected_by_id_or_label() {
    let host = host();
    let named = host.get("/v1/usage?instance=web-1&instance=b%C3%BCro&instance=nobody");
    assert_eq!((named.status, keys(&named)), (200, vec!["büro".to_owned(), "web-1".to_owned()]));
    assert_eq!(named.json()["web-1"]["value"], 1);
    let labelled = host.get("/v1/usage?label=workload%3Dweb");
    assert_eq!(keys(&labelled), ["web-1", "web-2"]);
    assert_eq!(host.get("/v1/usage?label=workload%3Dnone").json(), json!({}));
    assert!(keys(&host.get("/v1/usage")).len() >= 3, "all");

    let ranges = host.get("/v1/usage/range?range=1h&resolution=100ms&fields=value&instance=web-2&instance=nobody");
    assert_eq!((ranges.status, keys(&ranges)), (400, vec!["code".to_owned(), "error".to_owned()]), "too many points");
    let ranges = host.get("/v1/usage/range?range=10m&resolution=100ms&fields=value&instance=web-2&instance=nobody");
    assert_eq!((&ranges.json()["nobody"], keys(&ranges).len()), (&json!([]), 2));
    let points = ranges.json()["web-2"].as_array().unwrap().clone();
    assert!(!points.is_empty() && points.iter().all(|point| point["value"] == 1), "{points:?}");
    for wrong in ["instance=a%2Fb", "instance=", "label=novalue", "instance=a&label=b%3Dc"] {
        assert_eq!(host.get(&format!("/v1/usage?{wrong}")).status, 400, "{wrong}");
    }
}

#[test]
fn a_response_about_5000_instances_is_sent_in_chunks() {
    let host = Host::start("poll.interval = '1s'\npoll.default_samplers = ['verbs']\n", &[("verbs", verbs())]);
    let event = |nth| json!({ "type": "instance.created", "instance": format!("i-{nth:05}") });
    let events: Vec<_> = (0..5000).map(event).collect();
    assert_eq!(host.send_as_writer("POST", "/v1/events", &json!(events).to_string()).status, 202);
    host.until("/v1/instances/i-04999/usage", |answer| answer.status == 200);
    let listed = host.get("/v1/instances?limit=1200&after=i-00007").json();
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), ids[0], ids[1199]), (1200, "i-00008", "i-01207"));
    assert_eq!(host.get("/v1/instances?limit=0").body, "[]");
    let mut stream = host.stream("/v1/usage");
    let mut body = String::new();
    let mut pieces = 0;
    while let Some(piece) = stream.chunk() {
        body.push_str(&piece);
        pieces += 1;
    }
    let all: Value = serde_json::from_str(&body).unwrap();
    assert!(pieces > 2 && all.as_object().unwrap().len() >= 5000, "{pieces}");
}

#[test]
fn a_range_in_the_past_has_an_etag_and_gets_304_when_unchanged() {
    let host = host();
    let closed = "/v1/instances/web-1/usage/range?since=1700000000&until=1700003600";
    let answer = host.get(closed);
    let tag = answer.header("etag").unwrap().to_owned();
    assert_eq!(answer.header("cache-control"), Some("private, max-age=60"));
    let again = host.request_with("GET", closed, &format!("If-None-Match: W/{tag}\r\n"));
    assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", Some(&*tag)));
    assert_eq!(host.request_with("GET", closed, "If-None-Match: \"other\"\r\n").status, 200);
    for open in ["/v1/instances/web-1/usage/range?range=1h", "/v1/workloads/web/usage/range?range=1h"] {
        let answer = host.get(open);
        assert_eq!((answer.header("etag"), answer.header("cache-control")), (None, Some("no-store")));
    }
}

#[test]
fn a_workload_sums_its_instances_and_reports_their_number() {
    let host = host();
    let mut stream = host.stream("/v1/workloads/web/usage/stream");
    let sample = std::iter::repeat_with(|| stream.next_event().2).find(|sample| sample["replica_count"] == 2).unwrap();
    assert_eq!(sample["value"], 2, "a sum");
    let path = "/v1/workloads/web/usage/range?range=10m&resolution=1m";
    let points = host.get(path).json();
    let last = points.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["value"], &last["replica_count"]), (&json!(2), &json!(2)));
    assert!(last.get("calls_per_sec").is_none_or(Value::is_number));
    assert_eq!(host.get("/v1/workloads/nobody/usage/range").json(), json!([]));
    assert_eq!(host.get("/v1/workloads/web/usage/range?bands=1").status, 400);
    // One that goes is none of it from then on.
    host.send_as_writer("DELETE", "/v1/instances/web-2", "");
    std::iter::repeat_with(|| stream.next_event().2).find(|sample| sample["replica_count"] == 1).unwrap();
    host.send_as_writer("PUT", "/v1/instances/new", r#"{"labels":{"workload":"web"}}"#);
    std::iter::repeat_with(|| stream.next_event().2).find(|sample| sample["replica_count"] == 2).unwrap();
}

#[test]
fn telemetry_history_and_hosts_include_every_instance() {
    let host = host();
    let hosts = host.get("/telemetry/hosts").json()["hosts"].clone();
    assert!(["büro", "web-1", "web-2"].iter().all(|id| hosts.as_array().unwrap().contains(&json!(id))), "{hosts}");
    for (range, label) in [("30m", "30 minutes"), ("1h", "1 hour"), ("6h", "6 hours"), ("24h", "24 hours")] {
        let history = host.get(&format!("/telemetry/history?host=web-1&range={range}")).json();
        assert_eq!((&history["host"], &history["range"]), (&json!("web-1"), &json!(label)));
        assert_eq!(history["samples"][0]["value"], 1);
    }
    assert_eq!(host.get("/telemetry/history?host=nobody").json()["samples"], json!([]));
    assert!(host.get("/telemetry/history").body.contains("host parameter required"));
    assert!(host.get("/telemetry/history?host=x&range=2h").body.contains("invalid range; use 30m, 1h, 6h, or 24h"));
    assert_eq!(host.request("POST", "/telemetry/hosts").status, 405);
}

#[test]
fn misspelt_parameters_and_fields_get_400_with_a_suggestion_and_unknown_instances_an_empty_range() {
    let host = host();
    let refused = |path: &str| {
        let answer = host.get(path);
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        answer.json()["error"].as_str().unwrap().to_owned()
    };
    for of_probes_and_scrapers in ["/health?verbose=1", "/ready?x", "/metrics?name=x"] {
        assert_ne!(host.get(of_probes_and_scrapers).status, 400, "{of_probes_and_scrapers}");
    }
    let error = refused("/v1/instances/web-1/usage/range?resolutoin=30s");
    assert_eq!(
        error,
        "unknown parameter `resolutoin`; did you mean `resolution`? known: range, since, until, resolution, points, fields, \
         bands, align"
    );
    for (path, says) in [
        ("/v1/instances/nobody/usage/range?feilds=x", "did you mean `fields`?"),
        ("/v1/instances?lable=a%3Db", "did you mean `label`?"),
        ("/v1/usage?instanse=web-1", "did you mean `instance`?"),
        ("/v1/stream?lable=a%3Db", "did you mean `label`?"),
        ("/v1/snapshot?frehs=1", "did you mean `fresh`?"),
        ("/telemetry/history?hots=x", "did you mean `host`?"),
        ("/v1/workloads/web/usage/range?bands=1", "unknown parameter `bands`; known: range"),
        ("/v1/plugins?x", "unknown parameter `x`; none is known here"),
        ("/v1/instances/web-1/usage/stream?fields=value", "unknown parameter `fields`"),
        ("/v1/instances/web-1/usage/range?fields=valeu", "did you mean `value`?"),
        (
            "/v1/usage/range?instance=web-1&instance=web-2&fields=value,vlaue",
            "unknown field `vlaue`; did you mean `value`?",
        ),
        ("/v1/workloads/web/usage/range?fields=value,replica_cout", "did you mean `replica_count`?"),
    ] {
        let error = refused(path);
        assert!(error.contains(says), "{path}: {error}");
    }
    for path in ["/v1/instances/nobody/usage/range?fields=valeu", "/v1/instances/nobody/usage/range?range=7d"] {
        let answer = host.get(path);
        assert_eq!((answer.status, answer.json()), (200, json!([])), "{path}");
    }
    assert_eq!(host.get("/v1/workloads/web/usage/range?fields=value,replica_count").status, 200);
    let write =
        host.send_as_writer("POST", "/v1/events?dry_run=1", r#"{"type":"instance.deleted","instance":"web-1"}"#);
    assert_eq!(write.status, 400, "{}", write.body);
    assert_eq!(host.get("/v1/instances/web-1").status, 200, "and nothing was done");
}

#[test]
fn range_queries_follow_their_window_resolution_and_alignment_and_refuse_invalid_values() {
    let host = host();
    let now = jiff::Timestamp::now();
    let asked = |query: &str| {
        let answer = host.get(&format!("/v1/instances/web-1/usage/range?{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        answer.json().as_array().unwrap().clone()
    };
    let at_ms = |point: &Value| point["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let (since, until) = (now.as_second() - 60, now.as_second() + 60);
    let seconds = asked(&format!("since={since}&until={until}&resolution=1s&fields=value"));
    assert!(!seconds.is_empty() && seconds.iter().all(|point| at_ms(point) % 1000 == 0), "{seconds:?}");
    assert!(seconds.iter().all(|point| (since * 1000..until * 1000).contains(&at_ms(point))));
    assert!(seconds.windows(2).all(|pair| at_ms(&pair[0]) < at_ms(&pair[1])), "ascending");
    let rfc = |second| jiff::Timestamp::from_second(second).unwrap().to_string();
    let same = asked(&format!("since={}&until={}&resolution=1&fields=value", rfc(since), rfc(until)));
    assert_eq!(same[0], seconds[0], "RFC 3339 and Unix seconds, 1 and 1s are the same");
    let aligned = asked(&format!("since={since}.25&until={until}&resolution=1s&align=since"));
    assert!(aligned.iter().all(|point| at_ms(point).rem_euclid(1000) == 250), "{aligned:?}");
    let coarse = asked("range=1h&points=3");
    assert!(coarse.iter().all(|point| at_ms(point) % 1_800_000 == 0), "at most three a window: {coarse:?}");
    let auto = asked("range=6h&resolution=auto");
    assert!(auto.iter().all(|point| at_ms(point) % 180_000 == 0), "{auto:?}");
    let bands = &asked("range=1h&bands=1&fields=value")[0];
    assert_eq!((&bands["value_min"], &bands["value_max"], bands.get("calls_per_sec")), (&json!(1), &json!(1), None));
    assert_eq!(host.get("/v1/instances/nobody/usage/range").json(), json!([]));
    for (query, parameter) in [
        ("range=soon", "range"),
        ("range=1h&since=5", "range"),
        ("since=9&until=5", "since"),
        ("until=tomorrow", "until"),
        ("resolution=0", "resolution"),
        ("range=7d&resolution=1s", "resolution"),
        ("points=0", "points"),
        ("points=12000", "points"),
        ("bands=maybe", "bands"),
        ("align=left", "align"),
    ] {
        for path in ["/v1/instances/web-1/usage/range", "/v1/usage/range", "/v1/workloads/web/usage/range"] {
            // Of a sum there are none.
            if parameter == "bands" && path.contains("workloads") {
                continue;
            }
            let answer = host.get(&format!("{path}?{query}"));
            let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
            assert_eq!(answer.status, 400, "{path}?{query}");
            assert!(error.starts_with(&format!("invalid {parameter} parameter: ")), "{path}?{query}: {error}");
        }
    }
}
