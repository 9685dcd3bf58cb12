//! The bundled plugins beside real servers: nginx, exporters of Prometheus, VictoriaMetrics, Alertmanager and Podman.

use crate::harness::{Host, Nginx, Podman, Prometheus, Response, Server, wait_until};
use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_openmetrics::read::{ExpositionLine, read};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[test]
fn what_real_servers_expose_is_read_as_prometheus_reads_it_and_the_presets_find_their_metrics() {
    let nginx = Nginx::start();
    let (node, victoria_metrics) = (Server::node_exporter(), Server::victoria_metrics());
    let alertmanager = Server::alertmanager();
    if alertmanager.is_none() {
        say_not_tested("Alertmanager's templates cannot be mounted here");
    }
    let mut servers = vec![
        ("nginx", &nginx.exporter, "http-server", "requests_per_sec"),
        ("node", &node, "node", "memory_limit_mb"),
        ("victoria", &victoria_metrics, "http-server", "requests_per_sec"),
    ];
    servers.extend(alertmanager.iter().map(|server| ("alertmanager", server, "process", "memory_used_mb")));
    let addresses: Vec<_> = servers.iter().map(|(name, server, ..)| (*name, server.address.to_string())).collect();
    let targets: Vec<_> = addresses.iter().map(|(name, address)| (*name, &**address)).collect();
    let prometheus = Prometheus::start(&targets);
    let mut config = "poll.interval = '200ms'\n".to_owned();
    for (name, server, preset, _) in &servers {
        config += &format!(
            "[[plugins.scrape.config.targets]]\nid = '{name}'\nurl = 'http://{}/metrics'\npreset = '{preset}'\nkeep = 'all'\n",
            server.address
        );
    }
    let host = Host::start(&config, &[]);
    for (name, server, _, field) in &servers {
        // A server may count what it serves in series that are new at a scrape.
        let scraped = format!("scrape_samples_scraped{{job=\"{name}\"}}");
        wait_until("the numbers of samples differ", || prometheus.query(&scraped) == Some(samples(&server.metrics())));
        let usage = host.until(&format!("/v1/instances/{name}/usage"), |usage| {
            usage.status == 200 && usage.json()[field].as_f64() > Some(0.0)
        });
        assert_eq!(usage.json()["up"], 1, "{name}: {}", usage.body);
        // All samples are kept, under the names and labels that they have in Prometheus.
        let (ours, theirs) = (format!("{{sampler='scrape',id='{name}'}}"), format!("{{job='{name}'}}"));
        wait_until(&format!("the kept series of {name} are not those of Prometheus"), || {
            let (ours, theirs) = (host.get(&current(&ours)).json(), prometheus.get(&current(&theirs)));
            let ours = series(&ours, &["job", "instance", "id", "sampler"]);
            let theirs = series(&theirs, &["job", "instance"]);
            !theirs.is_empty() && ours == theirs
        });
    }
    let limits = ["host", "node"].map(|id| {
        // The row of a failed scrape has no values.
        host.until_usage(id, |usage| usage["memory_limit_mb"].is_number())["memory_limit_mb"].as_f64().unwrap()
    });
    assert!((limits[0] - limits[1]).abs() <= 1.0, "{limits:?}");
}

/// Returns the path of a question for the current series that a selector selects.
fn current(selector: &str) -> String {
    let encoded: String = selector.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("/api/v1/query?query={encoded}")
}

/// Returns the series in an answer of the API without labels that only one of two hosts has. A label that was renamed
/// because of those has its name again.
fn series(answer: &Value, own: &[&str]) -> BTreeSet<BTreeMap<String, String>> {
    let all = answer["data"]["result"].as_array().into_iter().flatten().map(|series| series["metric"].clone());
    let all = all.filter_map(|series| serde_json::from_value::<BTreeMap<String, String>>(series).ok());
    let is_of_one =
        |name: &str| ["dropsonde_", "scrape_series_", "scrape_samples_post_"].iter().any(|of| name.starts_with(of));
    let all = all.filter(|labels| !is_of_one(&labels["__name__"]));
    let others = |labels: BTreeMap<String, String>| {
        let others = labels.into_iter().filter(|(name, _)| !own.contains(&&**name));
        others.map(|(name, value)| (name.trim_start_matches("exported_").to_owned(), value)).collect()
    };
    all.map(others).collect()
}

pub(crate) fn say_not_tested(why: &str) {
    let _ = writeln!(std::io::stderr(), "not tested: {why}");
}

/// Returns the number of samples in an exposition.
fn samples(text: &str) -> f64 {
    let mut samples = 0;
    read(text.as_bytes(), ExpositionFormat::Text, &mut |line| {
        samples += u32::from(matches!(line, ExpositionLine::Sample(_)));
    })
    .unwrap();
    f64::from(samples)
}

#[test]
fn the_history_of_a_real_nginx_has_the_rate_that_prometheus_computes_of_it() {
    let nginx = Nginx::start();
    let address = nginx.exporter.address.to_string();
    let prometheus = Prometheus::start(&[("nginx", &address)]);
    let config = format!(
        "poll.interval = '500ms'\n[[plugins.scrape.config.targets]]\nid = 'proxy'\nurl = 'http://{address}/metrics'\n\
         preset = 'reverse-proxy'\ninterval = '500ms'\n"
    );
    let host = Host::start(&config, &[]);
    let load = Load::start(&nginx.socket);
    let rate = "rate(nginx_http_requests_total[8s])";
    let mean = || {
        let history = host.get("/v1/instances/proxy/usage/range?range=8s&resolution=1s&fields=requests_sec").json();
        let rates: Vec<f64> = history.as_array()?.iter().filter_map(|point| point["requests_sec"].as_f64()).collect();
        (rates.len() >= 7).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
    };
    // Both windows end at slightly different times, so the load must have been even in both.
    wait_until("the rates differ", || {
        let both = mean().zip(prometheus.query(rate));
        both.is_some_and(|(ours, theirs)| theirs > 100.0 && (ours / theirs - 1.0).abs() < 0.01)
    });
    load.stop();
    let answer = host.get("/telemetry/history?host=proxy&range=30m").json();
    assert_eq!((&answer["host"], &answer["range"]), (&json!("proxy"), &json!("30 minutes")));
    let sample = answer["samples"].as_array().and_then(|samples| samples.last()).unwrap();
    assert!(sample["ts"].is_i64() && sample["requests_sec"].as_f64() > Some(0.0), "{sample}");
    assert_eq!(sample["active_backends"], 1, "{sample}");
    // nginx's status page tells neither latencies nor errors.
    assert_eq!((&sample["p99_ms"], &sample["error_rate"]), (&Value::Null, &Value::Null));
    assert!(host.get("/telemetry/hosts").json()["hosts"].as_array().unwrap().contains(&json!("proxy")));
}

/// 200 requests per second to nginx.
struct Load {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    fn start(socket: &Path) -> Self {
        const PAUSE: Duration = Duration::from_millis(5);
        let is_over = Arc::<AtomicBool>::default();
        let (is_over_too, mut stream) = (is_over.clone(), UnixStream::connect(socket).unwrap());
        let thread = std::thread::spawn(move || {
            let (mut answers, started) = (BufReader::new(stream.try_clone().unwrap()), Instant::now());
            for nth in 1_u32.. {
                if is_over_too.load(Relaxed) {
                    return;
                }
                stream.write_all(b"GET / HTTP/1.1\r\nHost: nginx\r\n\r\n").unwrap();
                read_answer(&mut answers);
                std::thread::park_timeout((PAUSE * nth).saturating_sub(started.elapsed()));
            }
        });
        Self { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Relaxed);
        self.thread.join().unwrap();
    }
}

fn read_answer(answers: &mut impl BufRead) {
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(answers.read_line(&mut line).unwrap() > 0, "nginx closed the connection");
    }
    answers.read_exact(&mut [0; b"ok".len()]).unwrap();
}

#[test]
fn a_container_of_a_real_podman_has_the_figures_that_podman_shows() {
    let limits = ["--memory", "64m", "--cpus", "0.1", "--label", "com.docker.compose.service=shop"];
    let podman = match Podman::with_container("web-1", &limits) {
        Ok(podman) => podman,
        Err(error) => return say_not_tested(&format!("Podman cannot run containers here: {error}")),
    };
    let socket = podman.socket.display().to_string();
    let config = format!(
        "poll.interval = '500ms'\npoll.discover_interval = '1s'\n[plugins.containers.config]\nsocket = '{socket}'\n"
    );
    let host = Host::start(&config, &[]);
    // The kernel lets it run for at most a tenth of the time, and it wants to run always. A busy machine may let it catch
    // up for a moment.
    let is_a_tenth = |usage: &Value| usage["cpu_percent"].as_f64().is_some_and(|cpu| (5.0..15.0).contains(&cpu));
    let usage = host.until("/v1/instances/web-1/usage", |usage| {
        usage.status == 200 && usage.json()["cpu_limit_percent"].as_f64() > Some(50.0) && is_a_tenth(&usage.json())
    });
    let usage = usage.json();
    let cpu = usage["cpu_percent"].as_f64().unwrap();
    let of_limit = usage["cpu_limit_percent"].as_f64().unwrap();
    assert!((of_limit / cpu / 10.0 - 1.0).abs() < 0.05, "{usage}");
    for (field, value) in [("memory_limit_mb", 64), ("processes", 1), ("restarts", 0)] {
        assert_eq!(usage[field], value, "{field}: {usage}");
    }
    let stats: Value =
        serde_json::from_str(&podman.run(&["stats", "--no-stream", "--format", "json"]).unwrap()).unwrap();
    // Such as `798.7kB / 67.11MB`, in powers of ten.
    let shown = stats[0]["mem_usage"].as_str().unwrap().split("kB").next().unwrap().parse::<f64>().unwrap();
    let ours = usage["memory_used_mb"].as_f64().unwrap() * 1048.576;
    assert!((ours - shown).abs() < 500.0, "{ours} kB, {stats}");
    let labels = &host.get("/v1/instances/web-1").json()["labels"];
    assert_eq!((&labels["name"], &labels["workload"]), (&json!("web-1"), &json!("shop")), "{labels}");
    // It stays the same instance when it is started again.
    let uptime = |usage: &Response| usage.json()["uptime_seconds"].as_f64();
    host.until("/v1/instances/web-1/usage", |usage| uptime(usage) > Some(4.0));
    podman.run(&["restart", "--time", "0", "web-1"]).unwrap();
    host.until("/v1/instances/web-1/usage", |usage| usage.status == 200 && uptime(usage) < Some(4.0));
}
