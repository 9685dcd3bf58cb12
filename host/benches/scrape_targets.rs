//! Measures what scraping costs: 1 000 targets of 100 series each on loopback, every 10 s, by this host, by Prometheus and
//! by vmagent, one after the other. `cargo bench -p dropsonde --bench scrape_targets [-- SECONDS]`
//!
//! Prometheus and vmagent are those of `cargo dev setup`, else those on the PATH.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run says why"
)]

mod shared;

use shared::{Host, cpu, rss_kb};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const TARGETS: usize = 1000;

/// The time before the measurement: compiling, and the first scrapes.
const WARM_UP: Duration = Duration::from_secs(25);

/// A server with all targets: `/t/0/metrics` and so on.
struct Targets {
    address: SocketAddr,
    scrapes: Arc<AtomicU64>,
}

impl Targets {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, scrapes) = (listener.local_addr().unwrap(), Arc::<AtomicU64>::default());
        for _ in 0..8 {
            let (listener, scrapes) = (listener.try_clone().unwrap(), scrapes.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let scrapes = scrapes.clone();
                    // Prometheus and vmagent keep their connections.
                    std::thread::Builder::new().stack_size(64 << 10).spawn(move || serve(stream, &scrapes)).unwrap();
                }
            });
        }
        Self { address, scrapes }
    }
}

fn serve(mut stream: TcpStream, scrapes: &AtomicU64) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut closes = false;
    loop {
        let mut is_request = false;
        for line in lines.by_ref().map_while(Result::ok) {
            if line.is_empty() {
                break;
            }
            is_request = true;
            closes |= line.eq_ignore_ascii_case("connection: close");
        }
        if !is_request {
            return;
        }
        let body = exposition(scrapes.fetch_add(1, Relaxed));
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).is_err() || closes {
            return;
        }
    }
}

/// Returns 100 series, as a server has them.
fn exposition(nth: u64) -> String {
    let mut text = String::with_capacity(10_000);
    writeln!(text, "# HELP http_requests_total Requests.\n# TYPE http_requests_total counter").unwrap();
    for code in [200, 302, 404, 500, 503] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            writeln!(text, "http_requests_total{{method=\"{method}\",code=\"{code}\"}} {}", nth * 7 + code).unwrap();
        }
    }
    writeln!(text, "# HELP http_request_duration_seconds Time.\n# TYPE http_request_duration_seconds histogram")
        .unwrap();
    for handler in ["/", "/login", "/search", "/api"] {
        let uppers = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"];
        for (upper, share) in uppers.iter().zip(1..) {
            let count = nth * share;
            writeln!(text, "http_request_duration_seconds_bucket{{handler=\"{handler}\",le=\"{upper}\"}} {count}")
                .unwrap();
        }
        writeln!(text, "http_request_duration_seconds_sum{{handler=\"{handler}\"}} {}.5", nth).unwrap();
        writeln!(text, "http_request_duration_seconds_count{{handler=\"{handler}\"}} {}", nth * 10).unwrap();
    }
    writeln!(text, "# HELP go_stat A statistic.\n# TYPE go_stat gauge").unwrap();
    for stat in 0..32 {
        writeln!(text, "go_stat{{name=\"{stat}\"}} {}.25", nth + stat).unwrap();
    }
    text
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(60);
    let during = Duration::from_secs(seconds);
    let targets = Targets::start();
    println!("{TARGETS} targets of 100 series, {} bytes each, every 10 s", exposition(1_000_000).len());
    let folder = tempfile::tempdir().unwrap();

    let config = folder.path().join("dropsonde.toml");
    let mut text = "[plugins.scrape]\ninterval = '10s'\n".to_owned();
    for nth in 0..TARGETS {
        writeln!(
            text,
            "[[plugins.scrape.config.targets]]\nid = 't-{nth}'\nurl = 'http://{}/t/{nth}/metrics'\npreset = 'http-server'",
            targets.address
        )
        .unwrap();
    }
    fs::write(&config, text).unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let host = Host::start(&data, &["--config", config.to_str().unwrap()]);
    measure("dropsonde, host and plugin together", &targets, during, host.id());
    drop(host);

    let mut jobs =
        "global:\n  scrape_interval: 10s\nscrape_configs:\n  - job_name: all\n    static_configs:\n".to_owned();
    for nth in 0..TARGETS {
        let (address, path) = (targets.address, format!("/t/{nth}/metrics"));
        let labels = format!("{{ __metrics_path__: {path}, instance: t-{nth} }}");
        writeln!(jobs, "      - targets: ['{address}']\n        labels: {labels}").unwrap();
    }
    let jobs_file = folder.path().join("prometheus.yml");
    fs::write(&jobs_file, jobs).unwrap();
    let mut command = program("prometheus", "prometheus");
    command.arg("--config.file").arg(&jobs_file).args(["--web.listen-address", "127.0.0.1:0"]);
    command.arg("--storage.tsdb.path").arg(folder.path().join("prometheus"));
    measure_other("prometheus", command, &targets, during);

    // vmagent has to send somewhere: nobody listens there, so it keeps what it scraped on disk.
    let mut command = program("servers", "vmagent");
    command.arg(format!("-promscrape.config={}", jobs_file.display()));
    command.args(["-httpListenAddr=127.0.0.1:0", "-remoteWrite.url=http://127.0.0.1:9/"]);
    command.arg(format!("-remoteWrite.tmpDataPath={}", folder.path().join("vmagent").display()));
    measure_other("vmagent", command, &targets, during);
}

/// Returns the command for a program: that of a folder that `cargo dev setup` made, else the one on the PATH.
fn program(folder: &str, name: &str) -> Command {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(folder).join("usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { name.into() })
}

fn measure_other(name: &str, mut command: Command, targets: &Targets, during: Duration) {
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => {
            let mut child = KilledOnDrop(child);
            measure(name, targets, during, child.0.id());
            child.0.kill().unwrap();
        }
        Err(error) => println!("{name}: not measured: {error}"),
    }
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(name: &str, targets: &Targets, during: Duration, id: u32) {
    std::thread::sleep(WARM_UP);
    let (before, scrapes, started) = (cpu(id), targets.scrapes.load(Relaxed), Instant::now());
    std::thread::sleep(during);
    let seconds = started.elapsed().as_secs_f64();
    let used = (cpu(id) - before).as_secs_f64();
    let scrapes = targets.scrapes.load(Relaxed) - scrapes;
    println!(
        "{name}: {:.1} ms of CPU per second, {:.0} µs a scrape, {:.1} scrapes/s, RSS {} MB",
        1000.0 * used / seconds,
        1e6 * used / scrapes.max(1) as f64,
        scrapes as f64 / seconds,
        rss_kb(id) >> 10
    );
}
