//! The bundled plugin `scrape`.

use crate::harness::{Host, MadeServer, Prometheus, client, wait_until};
use serde_json::json;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// An address at which a connection is made and nothing is answered.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    (listener, url)
}

/// Returns the lines that a plugin logged.
fn log_of(host: &Host, plugin: &str) -> String {
    let page = host.plugin(plugin);
    let lines = page["log"].as_array().into_iter().flatten().filter_map(|line| line["line"].as_str());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_target_has_the_fields_of_its_preset_and_the_plugin_is_granted_exactly_its_url() {
    let scrapes = AtomicU64::new(0);
    let server = MadeServer::start(move |path, head| {
        assert!(path == "/m?a=b" && head.contains("authorization: bearer let-me-in"), "{head}");
        let nth = scrapes.fetch_add(1, Relaxed);
        let (good, bad) = (90 * nth, 10 * nth);
        let mut text = format!(
            "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {good}\n\
             http_requests_total{{code=\"503\"}} {bad}\n"
        );
        for (upper, count) in [("0.1", 50 * nth), ("0.2", 100 * nth), ("+Inf", 100 * nth)] {
            writeln!(text, "http_request_duration_seconds_bucket{{le=\"{upper}\"}} {count}").unwrap();
        }
        writeln!(text, "queue_length{{queue=\"a\"}} 3\nqueue_length{{queue=\"b\"}} 4").unwrap();
        (200, text)
    });
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "let-me-in\n").unwrap();
    let config = format!(
        "poll.interval = '200ms'\n[[plugins.scrape.config.targets]]\nid = 'web-1'\nurl = '{}'\npreset = 'http-server'\n\
         labels = {{ workload = 'web' }}\nbearer_file = '{}'\n\
         mapping = {{ waiting = {{ value = 'queue_length{{queue!=\"b\"}}' }} }}\n",
        server.url("/m?a=b"),
        token.display()
    );
    let host = Host::start(&config, &[]);
    let sample = host.until_usage("web-1", |usage| usage["latency_p95_ms"].is_number());
    assert_eq!((&sample["up"], &sample["error_rate"]), (&json!(1), &json!(10)), "{sample}");
    assert_eq!((&sample["latency_p95_ms"], &sample["latency_p99_ms"]), (&json!(190), &json!(198)), "{sample}");
    assert_eq!(sample["waiting"], 3.0);
    let rate = sample["requests_per_sec"].as_f64().unwrap();
    assert!(rate > 100.0 && sample["scrape_duration_ms"].as_f64() > Some(0.0), "{sample}");
    let page = host.plugin("scrape");
    let origin = format!("http://{}", server.address);
    assert_eq!(page["grants"]["http"], json!([format!("GET {origin} /m")]));
    assert_eq!(page["grants"]["read"], json!([token.display().to_string()]));
    let workload = host.get("/v1/workloads/web/usage/range?range=1m&fields=error_rate").json();
    assert_eq!(workload.as_array().unwrap().last().unwrap()["error_rate"], 10, "{workload}");
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_sample_requests_total{workload=\"web\",id=\"web-1\",sampler=\"scrape\"} "));
}

#[test]
fn a_target_that_does_not_answer_is_down_and_delays_no_other() {
    let server = MadeServer::start(|_, _| (200, "queue_length 1\n".to_owned()));
    let broken = MadeServer::start(|_, _| (200, "queue_length one\n".to_owned()));
    let refusing = MadeServer::start(|_, _| (503, String::new()));
    let (_listener, dead) = silent();
    let targets =
        [("fine", server.url("/")), ("dead", dead), ("broken", broken.url("/")), ("refusing", refusing.url("/"))];
    let mut config = "poll.interval = '1s'\n".to_owned();
    for (id, url) in targets {
        let mapping = "mapping = { waiting = { value = 'queue_length' } }";
        writeln!(config, "[[plugins.scrape.config.targets]]\nid = '{id}'\nurl = '{url}'\n{mapping}").unwrap();
    }
    let host = Host::start(&config, &[]);
    for id in ["dead", "broken", "refusing"] {
        let sample = host.until_usage(id, |usage| usage["up"] == 0.0);
        assert!(sample["waiting"].is_null(), "{sample}");
    }
    let mut stream = host.stream("/v1/instances/fine/usage/stream");
    for _ in 0..3 {
        let sample = stream.next_sample();
        assert_eq!((&sample["up"], &sample["waiting"]), (&json!(1), &json!(1)));
        assert!(sample["scrape_duration_ms"].as_f64() < Some(800.0), "{sample}");
    }
    let log = log_of(&host, "scrape");
    for line in [
        "target broken: line 1: its value is not a number",
        "target refusing: the server answered with status 503",
        "target dead: ",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{log}");
    }
    let page = host.plugin("scrape");
    assert_eq!((&page["state"], &page["failures"]), (&json!("running"), &json!(0)), "{page}");
}

#[test]
fn many_targets_are_scraped_again_and_again() {
    const TARGETS: usize = 200;
    let server = MadeServer::start(|_, _| (200, "queue_length 1\n".to_owned()));
    let mut config = "poll.interval = '2s'\n".to_owned();
    for nth in 0..TARGETS {
        let url = server.url("/");
        writeln!(config, "[[plugins.scrape.config.targets]]\nid = 't-{nth}'\nurl = '{url}'").unwrap();
    }
    let host = Host::start(&config, &[]);
    host.until("/metrics", |metrics| metrics.body.matches("sampler=\"scrape\"} 1\n").count() == TARGETS);
    // More requests in all than it may have handles at a time.
    let page = host.until("/v1/plugins/scrape", |page| page.json()["calls"].as_u64() >= Some(4)).json();
    assert_eq!((&page["failures"], &page["workers_spawned"]), (&json!(0), &json!(1)), "{page}");
}

#[test]
fn targets_in_files_are_followed_and_relabelled() {
    let server = MadeServer::start(|_, _| (200, "up_since 1\n".to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let list = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let address = server.address;
    list("a.yml", format!("- targets: ['{address}']\n  labels: {{ job: web, __meta_name: one }}\n"));
    list("b.json", format!("[{{\"targets\": [\"{address}\"], \"labels\": {{\"__meta_name\": \"drop-me\"}}}}]"));
    let config = format!(
        "poll.interval = '200ms'\npoll.discover_interval = '1s'\n[[plugins.scrape.config.file_sd]]\n\
         files = ['{0}/*.yml', '{0}/*.json']\nrelabel = [\n\
         {{ source_labels = ['__meta_name'], target_label = 'id' }},\n\
         {{ source_labels = ['__meta_name'], regex = 'drop.*', action = 'drop' }} ]\n",
        folder.path().display()
    );
    let host = Host::start(&config, &[]);
    host.until_usage("one", |usage| usage["up"] == 1.0);
    let one = host.get("/v1/instances/one").json();
    assert_eq!(one["labels"], json!({ "workload": "web" }), "{one}");
    list("b.json", format!("[{{\"targets\": [\"{address}\"], \"labels\": {{\"__meta_name\": \"two\"}}}}]"));
    host.until_usage("two", |usage| usage["up"] == 1.0);
    // A list that cannot be read leaves the targets that it had.
    list("b.json", "[{".to_owned());
    host.until("/v1/plugins/scrape", |_| log_of(&host, "scrape").contains("b.json is not a list of targets"));
    assert_eq!(host.get("/v1/instances/two").json()["state"], "tracked");
    list("b.json", "[]".to_owned());
    host.until("/v1/instances/two", |two| two.json()["state"] == "ended");
    assert_eq!(host.get("/v1/instances/drop-me").status, 404);
}

#[test]
fn targets_come_from_a_server_that_asks_for_credentials() {
    let server = MadeServer::start(|path, head| match path {
        "/targets" if head.contains("authorization: bearer let-me-in") => {
            let address = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            (200, json!([{ "targets": [address], "labels": { "id": "web-1", "job": "web" } }]).to_string())
        }
        "/metrics" => (200, "http_requests_total 5\n".to_owned()),
        _ => (401, String::new()),
    });
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().canonicalize().unwrap().join("token");
    std::fs::write(&token, "let-me-in\n").unwrap();
    let config = format!(
        "poll.interval = '200ms'\npoll.discover_interval = '1s'\n[[plugins.scrape.config.http_sd]]\nurl = '{}'\n\
         list = {{ bearer_file = '{}' }}\npreset = 'http-server'\n",
        server.url("/targets"),
        token.display()
    );
    let host = Host::start(&config, &[]);
    host.until_usage("web-1", |usage| usage["requests_per_sec"].is_number());
    assert_eq!(host.get("/v1/instances/web-1").json()["labels"], json!({ "workload": "web" }));
    std::fs::write(&token, "no longer valid").unwrap();
    wait_until("the refusal is not logged", || log_of(&host, "scrape").contains("status 401"));
    assert_eq!(host.get("/v1/instances/web-1").json()["state"], "tracked", "its targets stay");
}

#[test]
fn a_bundled_plugin_runs_as_long_as_the_configuration_has_a_section_for_it() {
    let server = MadeServer::start(|_, _| (200, String::new()));
    let host = Host::start("poll.interval = '200ms'\n", &[]);
    assert_eq!(host.get("/v1/plugins/scrape").status, 404);
    let section = |url: &str| {
        format!("poll.interval = '200ms'\n[[plugins.scrape.config.targets]]\nid = 'web-1'\nurl = '{url}'\n")
    };
    host.configure(&section("no URL"));
    let reload = host.send_as_admin("POST", "/v1/reload", &[]);
    assert!(
        reload.status == 422 && reload.body.contains("the target web-1: \\\"no URL\\\" is not a URL"),
        "{reload:?}"
    );
    assert_eq!(host.get("/v1/plugins/scrape").status, 404);
    host.reconfigure(&section(&server.url("/")));
    host.until_usage("web-1", |usage| usage["up"] == 1.0);
    host.reconfigure("poll.interval = '200ms'\n");
    host.until("/v1/plugins/scrape", |page| page.status == 404);
    host.until("/v1/instances/web-1", |instance| instance.json()["state"] == "ended");
}

#[test]
fn the_history_of_a_scraped_proxy_has_the_four_fields_that_its_clients_know() {
    let scrapes = AtomicU64::new(0);
    let server = MadeServer::start(move |_, _| {
        let nth = scrapes.fetch_add(1, Relaxed);
        let mut text = format!("traefik_entrypoint_requests_total{{code=\"200\"}} {}\n", 100 * nth);
        for (upper, count) in [("0.5", 100 * nth), ("+Inf", 100 * nth)] {
            writeln!(text, "traefik_entrypoint_request_duration_seconds_bucket{{le=\"{upper}\"}} {count}").unwrap();
        }
        text += "traefik_service_server_up{url=\"a\"} 1\ntraefik_service_server_up{url=\"b\"} 0\n";
        (200, text)
    });
    let config = format!(
        "poll.interval = '200ms'\n[[plugins.scrape.config.targets]]\nid = 'proxy'\nurl = '{}'\n\
         preset = 'reverse-proxy'\ninterval = '200ms'\n",
        server.url("/metrics")
    );
    let host = Host::start(&config, &[]);
    host.until_usage("proxy", |usage| usage["p99_ms"].is_number());
    let history = host.get("/telemetry/history?host=proxy&range=30m").json();
    assert_eq!((&history["host"], &history["range"]), (&json!("proxy"), &json!("30 minutes")));
    let sample = history["samples"].as_array().and_then(|samples| samples.last()).unwrap();
    let names: Vec<&String> = sample.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 5, "{sample}");
    for name in ["ts", "requests_sec", "p99_ms", "error_rate", "active_backends"] {
        assert!(sample[name].is_number(), "{name}: {sample}");
    }
    assert_eq!((&sample["p99_ms"], &sample["active_backends"]), (&json!(495), &json!(1)));
    assert!(host.get("/telemetry/hosts").json()["hosts"].as_array().unwrap().contains(&json!("proxy")));
}

#[test]
fn rates_and_quantiles_are_those_that_prometheus_computes_of_a_real_exporter_under_load() {
    let prometheus = Prometheus::with("");
    let itself = Prometheus::start(&[("web", &prometheus.address)]);
    let config = format!(
        "poll.interval = '500ms'\n[[plugins.scrape.config.targets]]\nid = 'web'\nurl = 'http://{}/metrics'\n\
         [plugins.scrape.config.targets.mapping]\n\
         requests_per_sec = {{ rate = 'prometheus_http_requests_total{{handler=\"/-/healthy\"}}' }}\n\
         latency_p95_ms = {{ quantile = 0.95, of = 'prometheus_http_request_duration_seconds_bucket{{handler=\"/-/healthy\"}}' }}\n",
        prometheus.address
    );
    let host = Host::start(&config, &[]);
    let is_over = Arc::new(AtomicBool::new(false));
    let load = {
        let (is_over, address) = (is_over.clone(), prometheus.address.clone());
        std::thread::spawn(move || {
            let started = Instant::now();
            for nth in 1_u32.. {
                if is_over.load(Relaxed) {
                    return;
                }
                client::request(&address, "GET", "/-/healthy", "");
                let due = Duration::from_millis(10) * nth;
                std::thread::park_timeout(due.saturating_sub(started.elapsed()));
            }
        })
    };
    let series = "{handler=\"/-/healthy\",job=\"web\"}[8s]";
    let rate = format!("sum(rate(prometheus_http_requests_total{series}))");
    let p95 = format!(
        "1000 * histogram_quantile(0.95, sum by (le) (rate(prometheus_http_request_duration_seconds_bucket{series})))"
    );
    let mean = |field: &str| {
        let path = format!("/v1/instances/web/usage/range?range=8s&resolution=1s&fields={field}");
        let points = host.get(&path).json();
        let values: Vec<f64> = points.as_array()?.iter().filter_map(|point| point[field].as_f64()).collect();
        (values.len() >= 7).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let is_close = |ours: Option<f64>, theirs: Option<f64>| {
        ours.zip(theirs).is_some_and(|(ours, theirs)| theirs > 0.0 && (ours / theirs - 1.0).abs() < 0.01)
    };
    // Both windows end at slightly different times, so the load must have been even in both.
    wait_until("the rates differ", || is_close(mean("requests_per_sec"), itself.query(&rate)));
    wait_until("the quantiles differ", || is_close(mean("latency_p95_ms"), itself.query(&p95)));
    is_over.store(true, Relaxed);
    load.join().unwrap();
}
