//! A real Prometheus scrapes a real host, in both formats.

use crate::harness::{Host, client, prometheus_tool, verbs};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait; reached only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prometheus on a free port, with a data directory of its own.
struct Prometheus {
    address: String,
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes these addresses twice a second.
    fn start(targets: &[(&str, &str)]) -> Self {
        let jobs = targets.iter().map(|(job, address)| {
            format!("  - job_name: {job}\n    static_configs:\n      - targets: ['{address}']\n")
        });
        Self::with(&jobs.collect::<String>())
    }

    /// Starts a Prometheus with these jobs in its configuration.
    fn with(jobs: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let config = format!("global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\nscrape_configs:\n{jobs}");
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let mut child = prometheus_tool("prometheus")
            .arg("--config.file")
            .arg(folder.path().join("prometheus.yml"))
            .arg("--storage.tsdb.path")
            .arg(folder.path().join("data"))
            .args(["--web.listen-address", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus ({error}): `cargo dev setup` unpacks it"));
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let listening = log.by_ref().find(|line| line.contains("\"Listening on\"")).expect("it listens");
        let address = listening.split("address=").nth(1).unwrap().trim().to_owned();
        // It would wait for whoever reads its log.
        std::thread::spawn(move || log.for_each(drop));
        Self { address, child, _folder: folder }
    }

    /// Waits until the value of a query is as wanted, and returns it.
    fn until(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let started = Instant::now();
        let path = format!(
            "/api/v1/query?query={}",
            percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC)
        );
        loop {
            let answer = client::request(&self.address, "GET", &path, "");
            // Until it is ready it says so in words.
            let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let value = json["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok());
            if let Some(value) = value.filter(|value| wanted(*value)) {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "{query}: {}", answer.body);
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a proxy that scrapes a host in the classic text format. Returns its address.
fn classic_format_proxy(address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let answer = client::request(&address, "GET", "/metrics", "Accept: text/plain;version=0.0.4\r\n");
            let (kind, length) = (answer.header("content-type").unwrap(), answer.body.len());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.body.as_bytes()));
        }
    });
    own
}

#[test]
fn prometheus_scrapes_both_formats_and_reads_the_values_of_the_api() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'version'\nlabels = { workload = 'w' }\nsamplers = ['verbs']\n[[instances]]\nid = 'measure'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/instances/measure/usage", |usage| usage.status == 200);
    let prometheus =
        Prometheus::start(&[("open", &host.address), ("classic", &classic_format_proxy(host.address.clone()))]);
    for job in ["open", "classic"] {
        assert_eq!(prometheus.until(&format!("up{{job=\"{job}\"}}"), |up| up == 1.0), 1.0);
        let version =
            format!("dropsonde_sample_value{{job=\"{job}\",id=\"version\",workload=\"w\",sampler=\"verbs\"}}");
        let usage = host.get("/v1/instances/version/usage").json();
        assert_eq!(Some(prometheus.until(&version, |_| true)), usage["value"].as_f64());
        prometheus.until(&format!("verbs_level{{job=\"{job}\",plugin=\"verbs\"}}"), |level| level == 4.5);
        prometheus
            .until(&format!("rate(dropsonde_sample_verb_calls_total{{job=\"{job}\",id=\"version\"}}[1m])"), |rate| {
                rate > 1.0
            });
        let quantile = format!("histogram_quantile(0.9, rate(verbs_seconds_bucket{{job=\"{job}\"}}[1m]))");
        prometheus.until(&quantile, |quantile| (0.1..=1.0).contains(&quantile));
        prometheus.until(&format!("scrape_samples_scraped{{job=\"{job}\"}}"), |samples| samples > 100.0);
    }
    // The same series under the same labels, whichever format they came in.
    let differ = "count(count by (__name__, le) ({job=\"open\",__name__=~\"verbs_.*\"}) unless count by (__name__, le) ({job=\"classic\"})) or vector(0)";
    prometheus.until(differ, |differ| differ == 0.0);
}

#[test]
fn prometheus_scrapes_a_host_that_requires_a_token_and_a_client_certificate() {
    let folder = TempDir::new().unwrap();
    let here = folder.path().display().to_string();
    let write = |file: &str, pem: String| fs::write(folder.path().join(file), pem).unwrap();
    for file in ["host", "client"] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write(&format!("{file}.pem"), made.cert.pem());
        write(&format!("{file}.key"), made.signing_key.serialize_pem());
    }
    let config = format!(
        "poll.interval = '100ms'\nauth.read_token_file = '{here}/read.token'\n\
         [tls]\ncert = '{here}/host.pem'\nkey = '{here}/host.key'\nclient_ca = '{here}/client.pem'\n"
    );
    let host = Host::start(&config, &[]);
    let address = host.address.replace("127.0.0.1", "localhost");
    let job = |name: &str, more: &str| {
        format!(
            "  - job_name: {name}\n    scheme: https\n    tls_config:\n      ca_file: {here}/host.pem\n      \
             cert_file: {here}/client.pem\n      key_file: {here}/client.key\n{more}    static_configs:\n      \
             - targets: ['{address}']\n"
        )
    };
    let token = format!("    authorization: {{ credentials_file: {here}/read.token }}\n");
    let prometheus = Prometheus::with(&(job("known", &token) + &job("stranger", "")));
    prometheus.until("up{job=\"known\"}", |up| up == 1.0);
    prometheus.until("up{job=\"stranger\"}", |up| up == 0.0);
    prometheus.until("dropsonde_sample_memory_used_bytes{job=\"known\",id=\"host\"}", |bytes| bytes > 0.0);
}
