//! The bundled plugins that ask servers and read files, and `serve --demo`.

use crate::harness::{Host, Prometheus, Response, client, dropsonde, run, wait_until, workspace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A server whose answer to a path is made anew each time. It ends with the test run.
struct MadeServer {
    address: SocketAddr,
}

impl MadeServer {
    /// `answer` gets the path and all headers as they were sent. Returns the status and the body.
    fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, answer) = (listener.local_addr().unwrap(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = answer.clone();
                std::thread::spawn(move || respond(&stream, &*answer));
            }
        });
        Self { address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Answers the request of a connection.
fn respond<S>(stream: &S, answer: &dyn Fn(&str, &str) -> (u16, String))
where
    for<'a> &'a S: Read + Write,
{
    let mut stream = stream;
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let (status, body) = answer(&path, &head.join("\n").to_lowercase());
    let head = format!("HTTP/1.1 {status} Made\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// An address at which a connection is made and nothing is answered.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    (listener, url)
}

fn usage(host: &Host, instance: &str) -> Value {
    host.get(&format!("/v1/instances/{instance}/usage")).json()
}

/// Waits until the latest sample of an instance is as wanted, and returns it.
fn until_usage(host: &Host, instance: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let is_wanted = |usage: &Response| usage.status == 200 && wanted(&usage.json());
    host.until(&format!("/v1/instances/{instance}/usage"), is_wanted).json()
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
    let sample = until_usage(&host, "web-1", |usage| usage["latency_p95_ms"].is_number());
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
        let sample = until_usage(&host, id, |usage| usage["up"] == 0.0);
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
    until_usage(&host, "one", |usage| usage["up"] == 1.0);
    let one = host.get("/v1/instances/one").json();
    assert_eq!(one["labels"], json!({ "workload": "web" }), "{one}");
    list("b.json", format!("[{{\"targets\": [\"{address}\"], \"labels\": {{\"__meta_name\": \"two\"}}}}]"));
    until_usage(&host, "two", |usage| usage["up"] == 1.0);
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
    until_usage(&host, "web-1", |usage| usage["requests_per_sec"].is_number());
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
    until_usage(&host, "web-1", |usage| usage["up"] == 1.0);
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
    until_usage(&host, "proxy", |usage| usage["p99_ms"].is_number());
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

#[test]
fn a_probe_tells_status_times_and_whether_the_body_matches() {
    let server = MadeServer::start(|path, _| match path {
        "/moved" => (302, String::new()),
        "/broken" => (500, String::new()),
        _ => (200, "all is well".to_owned()),
    });
    let mut config = "poll.interval = '200ms'\n".to_owned();
    for (id, path, more) in [
        ("fine", "/", "matches = 'is w.ll'"),
        ("other", "/", "matches = 'nothing'"),
        ("moved", "/moved", ""),
        ("broken", "/broken", "interval = '1h'"),
    ] {
        let url = server.url(path);
        writeln!(config, "[[plugins.probe.config.targets]]\nid = '{id}'\nurl = '{url}'\n{more}").unwrap();
    }
    let host = Host::start(&config, &[]);
    let outcome = |id: &str| {
        let sample = until_usage(&host, id, |usage| usage["status"].is_number());
        assert!(sample["total_ms"].as_f64() >= sample["first_byte_ms"].as_f64(), "{sample}");
        (sample["up"].clone(), sample["status"].clone(), sample["body_matches"].clone())
    };
    assert_eq!(outcome("fine"), (json!(1), json!(200), json!(1)));
    assert_eq!(outcome("other"), (json!(0), json!(200), json!(0)));
    assert_eq!(outcome("moved"), (json!(1), json!(302), Value::Null), "redirects are not followed");
    assert_eq!(outcome("broken"), (json!(0), json!(500), Value::Null));
    // It was asked once, and an hour has not passed.
    let before = usage(&host, "broken")["at"].clone();
    let fine = usage(&host, "fine")["at"].clone();
    until_usage(&host, "fine", |usage| usage["at"] != fine);
    assert_eq!(usage(&host, "broken")["at"], before);
}

#[test]
fn fields_are_read_from_json_and_from_text_files() {
    let server = MadeServer::start(|_, _| (200, json!({ "queue": { "length": 3 }, "ok": true }).to_string()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("backup.prom"), "backup_bytes{db=\"a\"} 10\nbackup_bytes{db=\"b\"} 5\n").unwrap();
    let config = format!(
        "poll.interval = '200ms'\n[[plugins.httpjson.config.targets]]\nid = 'queue'\nurl = '{}'\n\
         fields.waiting = {{ pointer = '/queue/length', precision = 1 }}\nfields.ok = {{ pointer = '/ok' }}\n\
         [[plugins.textfile.config.folders]]\nid = 'backups'\npath = '{}'\n\
         mapping.backup_bytes = {{ value = 'backup_bytes' }}\n",
        server.url("/stats"),
        folder.path().canonicalize().unwrap().display()
    );
    let host = Host::start(&config, &[]);
    let queue = until_usage(&host, "queue", |usage| usage["up"] == 1.0);
    assert_eq!((&queue["waiting"], &queue["ok"]), (&json!(3), &json!(1)), "{queue}");
    let backups = until_usage(&host, "backups", |usage| usage["files"] == 1.0);
    assert_eq!((&backups["backup_bytes"], &backups["failed_files"]), (&json!(15), &json!(0)), "{backups}");
    let age = backups["oldest_file_seconds"].as_f64().unwrap();
    assert!((0.0..600.0).contains(&age), "{backups}");
}

/// A container engine with the container `web-1`, which uses more CPU time at each request.
struct Engine {
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Engine {
    fn start() -> Self {
        const ID: &str = "0123456789abcdef";
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let reads = AtomicU64::new(1);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                respond(&stream, &|path, _| {
                    let answer = match path.strip_prefix("/v1.41/containers/").unwrap() {
                        "json" => json!([{ "Id": ID, "Names": ["/web-1"], "Image": "nginx:1",
                            "Labels": { "com.docker.compose.service": "web" } }]),
                        "0123456789abcdef/json" => {
                            json!({ "RestartCount": 2, "HostConfig": { "NanoCpus": 500_000_000_u64 },
                            "State": { "StartedAt": "2026-01-01T00:00:00Z", "Health": { "Status": "healthy" } } })
                        }
                        "0123456789abcdef/stats?stream=false&one-shot=true" => json!({
                            "cpu_stats": { "cpu_usage": { "total_usage": reads.fetch_add(1, Relaxed) * 20_000_000 } },
                            "memory_stats": { "usage": 3_145_728, "limit": 8_388_608, "stats": { "inactive_file": 1_048_576 } },
                            "networks": { "eth0": { "rx_bytes": 5, "tx_bytes": 6 } }, "pids_stats": { "current": 4 } }),
                        _ => return (404, String::new()),
                    };
                    (200, answer.to_string())
                });
            }
        });
        Self { socket, _folder: folder }
    }
}

#[test]
fn containers_of_an_engine_are_instances_and_the_plugin_can_only_read_them() {
    let Engine { socket, .. } = &Engine::start();
    let config = format!("poll.interval = '200ms'\n[plugins.containers.config]\nsocket = '{}'\n", socket.display());
    let host = Host::start(&config, &[]);
    let sample = until_usage(&host, "web-1", |usage| usage["cpu_limit_percent"].is_number());
    let expected =
        [("memory_used_mb", 2.0), ("memory_limit_mb", 8.0), ("processes", 4.0), ("restarts", 2.0), ("healthy", 1.0)];
    for (field, value) in expected {
        assert_eq!(sample[field], value, "{field}: {sample}");
    }
    let cpu = sample["cpu_percent"].as_f64().unwrap();
    assert!(cpu > 0.0 && sample["uptime_seconds"].as_f64() > Some(1e6), "{sample}");
    let labels = &host.get("/v1/instances/web-1").json()["labels"];
    assert_eq!(labels, &json!({ "name": "web-1", "image": "nginx:1", "compose_service": "web", "workload": "web" }));
    let granted = format!(
        "GET unix:{} as engine /v1.41/containers/json /v1.41/containers/*/json /v1.41/containers/*/stats",
        socket.display()
    );
    assert_eq!(host.plugin("containers")["grants"]["http"], json!([granted]));
}

#[test]
fn the_dashboard_and_the_alerts_of_what_hosts_measure_use_metrics_that_plugins_have() {
    let requests = AtomicU64::new(0);
    let server = MadeServer::start(move |_, _| {
        let nth = requests.fetch_add(1, Relaxed);
        let le = |upper| format!("http_request_duration_seconds_bucket{{le=\"{upper}\"}} {nth}\n");
        (200, format!("http_requests_total{{code=\"200\"}} {nth}\n{}{}", le("0.1"), le("+Inf")))
    });
    let (url, engine, folder) = (server.url("/metrics"), Engine::start(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("backup.prom"), "backup_bytes 10\n").unwrap();
    let config = format!(
        "poll.interval = '200ms'\n[plugins.containers.config]\nsocket = '{}'\n\
         [[plugins.scrape.config.targets]]\nid = 'web'\nurl = '{url}'\npreset = 'http-server'\n\
         [[plugins.probe.config.targets]]\nid = 'probed'\nurl = '{url}'\n\
         [[plugins.textfile.config.folders]]\nid = 'backups'\npath = '{}'\n",
        engine.socket.display(),
        folder.path().canonicalize().unwrap().display()
    );
    let host = Host::start(&config, &[]);
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("dropsonde_") && !word.ends_with('_')).map(str::to_owned).collect()
    };
    for file in ["measured.json", "measured.yml"] {
        let wanted = words(&std::fs::read_to_string(workspace().join("host/monitoring").join(file)).unwrap());
        assert!(wanted.len() > 5, "{file}: {wanted:?}");
        let mut missing = wanted.clone();
        wait_until(file, || {
            missing = wanted.difference(&words(&host.get("/metrics").body)).cloned().collect();
            missing.is_empty()
        });
    }
}

#[test]
fn the_bundled_plugins_replay_their_recorded_cases() {
    for name in ["containers", "httpjson", "probe", "scrape", "textfile"] {
        let project = workspace().join("plugins").join(name);
        let cases = std::fs::read_dir(project.join("tests")).unwrap().count();
        let (code, out, error) = run(dropsonde().args(["plugin", "test", "--file", name]).current_dir(project));
        assert!(code == 0 && out.matches(" ok").count() == cases && cases > 0, "{name}: {out}{error}");
    }
}

#[test]
fn a_recording_keeps_exchanges_without_credentials_and_replays_them_without_the_network() {
    let asked = Arc::<AtomicU64>::default();
    let server = {
        let asked = asked.clone();
        MadeServer::start(move |_, head| {
            assert!(head.contains("authorization: bearer let-me-in"), "{head}");
            (200, json!({ "n": asked.fetch_add(1, Relaxed) }).to_string())
        })
    };
    let project = tempfile::tempdir().unwrap();
    std::fs::write(project.path().join("token"), "let-me-in").unwrap();
    let config = json!({ "targets": [{ "id": "a", "url": server.url("/n?api_key=let-me-in"),
        "bearer_file": project.path().canonicalize().unwrap().join("token"), "fields": { "n": { "pointer": "/n" } } }] });
    let command = |arguments: &[&str]| run(dropsonde().arg("plugin").args(arguments).current_dir(project.path()));
    let config = config.to_string();
    let (code, out, error) =
        command(&["run", "httpjson", "--config", &config, "--instance", "a", "--record", "tests/one"]);
    assert!(code == 0 && out.contains('n'), "{out}{error}");
    let recorded = std::fs::read_to_string(project.path().join("tests/one/tick-1.http")).unwrap();
    assert!(recorded.contains("\"url\":") && !recorded.contains("let-me-in"), "{recorded}");
    let before = asked.load(Relaxed);
    let (code, out, error) = command(&["test", "--file", "httpjson"]);
    assert!(code == 0 && out.contains("ok"), "{out}{error}");
    assert_eq!(asked.load(Relaxed), before, "a replay asks nobody");
}

#[test]
fn a_demo_fills_every_surface_and_has_two_hours_of_history() {
    let mut command = dropsonde();
    command.args(["serve", "--demo"]);
    let mut demo = Demo::start(command);
    let get = |path: &str| client::request(&demo.address, "GET", path, "");
    wait_until("no snapshot", || get("/v1/snapshot").body.contains("total_users"));
    let count = |workload: &str| {
        let instances = get("/v1/instances").json();
        let ids = instances.as_array().into_iter().flatten().filter_map(|instance| instance["id"].as_str());
        ids.filter(|id| id.starts_with(&format!("{workload}-"))).count()
    };
    for workload in ["web", "api", "worker", "cache", "search"] {
        wait_until("instances are missing", || count(workload) == 10);
    }
    wait_until("no history", || {
        let range = get("/v1/instances/web-0/usage/range?range=2h&resolution=5m").json();
        range.as_array().is_some_and(|points| points.len() >= 24)
    });
    let workload = get("/v1/workloads/api/usage/range?range=1h&resolution=5m").json();
    let points = workload.as_array().unwrap();
    // The last five minutes are not over.
    let whole = points.iter().rev().skip(1);
    assert!(points.len() >= 12 && whole.clone().all(|point| point["replica_count"] == 10), "{workload}");
    assert!(get("/v1/plugins/flaky").json()["bundled"] == true);
    demo.stop();
}

/// A running `serve --demo`.
struct Demo {
    child: std::process::Child,
    address: String,
}

impl Demo {
    fn start(mut command: std::process::Command) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("://").next().unwrap_or_default().to_owned();
        Self { child, address }
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
