use super::client;
use super::guests::workspace;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Returns the command for a program of Prometheus: from Debian's package that `cargo dev setup` unpacks, else from the
/// PATH.
pub(crate) fn prometheus_tool(name: &str) -> Command {
    let unpacked = workspace().join("target/prometheus/usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { name.into() })
}

/// Longest wait; reached only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prometheus on a free port, with a data directory of its own.
pub(crate) struct Prometheus {
    pub(crate) address: String,
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes these addresses twice a second.
    pub(crate) fn start(targets: &[(&str, &str)]) -> Self {
        let jobs = targets.iter().map(|(job, address)| {
            format!("  - job_name: {job}\n    static_configs:\n      - targets: ['{address}']\n")
        });
        Self::with(&jobs.collect::<String>())
    }

    /// Starts a Prometheus with these jobs in its configuration.
    pub(crate) fn with(jobs: &str) -> Self {
        Self::with_arguments(jobs, &[])
    }

    /// Starts a Prometheus that takes what others send.
    pub(crate) fn receiving() -> Self {
        Self::with_arguments("", &["--web.enable-remote-write-receiver"])
    }

    fn with_arguments(jobs: &str, arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let config = format!("global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\nscrape_configs:\n{jobs}");
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let mut child = prometheus_tool("prometheus")
            .arg("--config.file")
            .arg(folder.path().join("prometheus.yml"))
            .arg("--storage.tsdb.path")
            .arg(folder.path().join("data"))
            .args(["--web.listen-address", "127.0.0.1:0"])
            .args(arguments)
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

    /// Returns an answer of the API, or null.
    pub(crate) fn get(&self, path: &str) -> serde_json::Value {
        let answer = client::request(&self.address, "GET", path, "");
        let body = match answer.header("transfer-encoding") {
            Some("chunked") => without_chunks(&answer.body),
            _ => answer.body,
        };
        // Until it is ready it says so in words.
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Returns the value of a query now, if it has one.
    pub(crate) fn query(&self, query: &str) -> Option<f64> {
        let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let json = self.get(&format!("/api/v1/query?query={query}"));
        json["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok())
    }

    /// Waits until the value of a query is as wanted, and returns it.
    pub(crate) fn until(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let started = Instant::now();
        loop {
            let value = self.query(query);
            if let Some(value) = value.filter(|value| wanted(*value)) {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "{query}: {value:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// Returns a body without the lengths of its chunks.
fn without_chunks(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((size, behind)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&behind[..size]);
        rest = behind[size..].trim_start_matches("\r\n");
    }
    whole
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
