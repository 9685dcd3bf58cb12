use crate::harness::{Host, verbs};
use serde_json::{Value, json};

const FAST: &str = "poll.interval = '100ms'\n";

/// Starts a host with two instances, one of them with a label.
fn host() -> Host {
    let config = format!(
        "{FAST}labels = {{ site = 'fra1' }}\n[plugins.procfs]\ninterval = '100ms'\nconfig = {{ top = 0 }}\n\
         [[instances]]\nid = 'web 1%'\nlabels = {{ workload = 'web' }}\nsamplers = ['verbs']\n"
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200 && usage.json()["cpu_percent"].is_number());
    host.until("/v1/instances/web%201%25/usage", |usage| usage.status == 200);
    host
}

#[test]
fn a_plugin_failure_is_shown_with_its_time_and_as_resolved_after_a_successful_poll() {
    let instances =
        "[[instances]]\nid = 'ok'\nsamplers = ['verbs']\n[[instances]]\nid = 'unavailable'\nsamplers = ['verbs']\n";
    let host = Host::start(&format!("{FAST}{instances}"), &[("verbs", verbs())]);
    let failing = host.until("/v1/plugins/verbs", |page| page.json()["calls"].as_u64() > Some(3)).json();
    assert_eq!(failing["last_failure"]["over"], false, "it goes on: {failing}");
    assert!(host.get("/").body.contains("Z: unavailable: "), "{}", host.get("/").body);
    assert_eq!(host.send_as_writer("DELETE", "/v1/instances/unavailable", "").status, 204);
    let over = host.until("/v1/plugins/verbs", |page| page.json()["last_failure"]["over"] == true).json();
    let at = over["last_failure"]["at"].as_str().unwrap();
    let page = host.get("/").body;
    assert!(page.contains(&format!("<td>resolved; at {at}: unavailable: ")), "{page}");
}

#[test]
fn the_bundled_sampler_gives_plausible_values_of_this_machine() {
    let host = host();
    let usage = host.get("/v1/instances/host/usage").json();
    let at: jiff::Timestamp = usage["at"].as_str().unwrap().parse().unwrap();
    assert!(at.as_second() > 1_700_000_000);
    // Over a tenth of a second, a reading that came late shows: it may be more than all there is. One in time is not.
    host.until("/v1/instances/host/usage", |usage| {
        usage.json()["cpu_percent"].as_f64().is_some_and(|percent| (0.0..150.0).contains(&percent))
    });
    let memory = usage["memory_used_mb"].as_f64().unwrap();
    assert!(memory > 10.0 && memory < usage["memory_limit_mb"].as_f64().unwrap(), "{usage}");
    for field in ["load_1m", "swap_used_mb", "uptime_seconds", "disk_used_mb", "disk_limit_mb"] {
        assert!(usage[field].as_f64().is_some_and(|value| value >= 0.0), "{field} in {usage}");
    }
    assert!(usage.get("threads").is_none(), "what the host has no value for is absent: {usage}");
}

#[test]
fn instances_are_listed_with_labels_and_filtered_by_them() {
    let host = host();
    let all = host.get("/v1/instances").json();
    let ids: Vec<_> = all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["host", "web 1%"]);
    let web = &all[1];
    assert_eq!(web["labels"], json!({ "site": "fra1", "workload": "web" }));
    assert_eq!((&web["state"], &web["samplers"]), (&json!("tracked"), &json!(["verbs"])));
    assert!(web["last_at"].is_string());
    let by_label = host.get("/v1/instances?label=workload=web&label=site=fra1").json();
    assert_eq!(by_label.as_array().unwrap().len(), 1);
    assert_eq!(host.get("/v1/instances?label=workload=db").body, "[]");
    assert_eq!(host.get("/v1/instances?limit=1&after=host").json()[0]["id"], "web 1%");
    assert_eq!(host.get("/v1/instances?label=workload").status, 400);
}

#[test]
fn a_range_query_returns_aligned_buckets_with_bands_and_chosen_fields() {
    let host = host();
    let range = host.get("/v1/instances/host/usage/range?range=5m&resolution=60s&fields=memory_used_mb&bands=1").json();
    let points = range.as_array().unwrap();
    assert!(!points.is_empty());
    for point in points {
        let at: jiff::Timestamp = point["at"].as_str().unwrap().parse().unwrap();
        assert_eq!(at.as_second() % 60, 0, "buckets begin at whole steps: {point}");
        let value = |name: &str| point[name].as_f64().unwrap();
        assert!(value("memory_used_mb_min") <= value("memory_used_mb"));
        assert!(value("memory_used_mb") <= value("memory_used_mb_max"));
        assert_eq!(point.as_object().unwrap().len(), 4);
    }
}

#[test]
fn unknown_paths_and_invalid_parameters_get_a_json_error() {
    let host = host();
    let error = |method: &str, path: &str| {
        let response = host.request(method, path);
        let body: Value = response.json();
        assert_eq!(body["code"], response.status, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        (response.status, body["error"].as_str().unwrap().to_owned(), response.header("allow").map(str::to_owned))
    };
    assert_eq!(error("GET", "/v1/instances/nobody/usage").0, 404);
    assert_eq!(error("GET", "/no/such/path").0, 404);
    assert_eq!(error("GET", "/v1/plugins/none").0, 404);
    let (status, _, allow) = error("POST", "/v1/instances");
    assert_eq!((status, allow.as_deref()), (405, Some("GET,HEAD")));
    for (path, begins) in [
        ("/v1/instances/host/usage/range?range=soon", "invalid range parameter: "),
        ("/v1/instances/host/usage/range?range=7d&resolution=1s", "invalid resolution parameter: "),
        ("/v1/instances/a%2Fb/usage", "invalid instance parameter: "),
        ("/v1/instances/%FF/usage", "invalid path parameter: "),
        ("/v1/instances/a%0Ab/usage/stream", "invalid instance parameter: "),
    ] {
        let (status, message, _) = error("GET", path);
        assert!(status == 400 && message.starts_with(begins), "{path}: {status} {message}");
    }
    assert_eq!(host.get("/v1/instances/nobody/usage/range").body, "[]", "never tracked is an empty list");
}

#[test]
fn plugin_pages_show_grants_and_call_statistics_but_no_configuration() {
    let host = host();
    let procfs = host.plugin("procfs");
    assert_eq!((&procfs["state"], &procfs["bundled"]), (&json!("running"), &json!(true)));
    assert_eq!(procfs["roles"], json!(["sampler"]));
    assert_eq!(procfs["digest"].as_str().unwrap().len(), 64);
    assert!(procfs["grants"]["read"].as_array().unwrap().contains(&json!("/proc/stat")));
    assert!(procfs["calls"].as_u64().unwrap() > 0 && procfs["memory_bytes"].as_u64().unwrap() > 0);
    assert!(procfs["call_seconds"]["p99"].as_f64().unwrap() > 0.0);
    assert_eq!(procfs["missing"], json!([]));
    assert!(procfs.get("config").is_none(), "configuration may hold secrets");
    assert_eq!(host.get("/v1/plugins").json().as_array().unwrap().len(), 3, "two come with the binary");
}

#[test]
fn health_and_ready_return_json_with_a_status() {
    let host = host();
    let health = host.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("healthy")));
    assert!(health.json()["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!(host.until("/ready", |ready| ready.status == 200).json()["status"], "ready");
}

#[test]
fn the_front_page_shows_samples_and_escapes_instance_names() {
    let config = "[[instances]]\nid = '<script>'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let page = host.until("/", |page| page.body.contains("&lt;script&gt;") && page.body.contains("memory_used_mb"));
    assert!(!page.body.contains("<script>"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(page.body.contains("/v1/instances/%3Cscript%3E/usage"));
}

#[test]
fn the_response_to_a_head_request_has_no_body() {
    let host = host();
    let head = host.request("HEAD", "/health");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}
