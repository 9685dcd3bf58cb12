//! Measures a healthy plugin beside hostile ones, through the whole binary: how late its samples are, how long /metrics
//! takes, and how much memory many idle plugins need. `cargo bench -p dropsonde --bench hostile [-- SECONDS]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run says why"
)]

mod shared;

use shared::{component, rss_kb};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const HOSTILE: [&str; 10] = ["panic", "spin", "wait", "hoard", "recurse", "long", "handles", "flood", "shout", "short"];

const IDLE: usize = 64;

/// A healthy plugin that is polled often.
const GOOD: &str =
    "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n[plugins.procfs]\ninterval = '10s'\n";

/// One plugin with 5 000 instances of 252 fields, and one with 20 000 instances that are new in every discovery.
const GREEDY: &str = "[plugins.wide]\ninterval = '1s'\nlimits = { cpu = '900ms', output = '64MiB', memory = '256MiB' }\n\
                      config = { flock = 5000, wide = 250 }\n\
                      [plugins.churning]\ninterval = '1s'\nconfig = { flock = 20000, churn = true }\n";

fn main() {
    let seconds: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(60);
    let (verbs, eight) = (component("verbs"), component("eight"));

    // A high limit of failures, so that the hostile plugins are not quarantined.
    let mut config = GOOD.to_owned();
    for verb in HOSTILE {
        let _ = write!(
            config,
            "[[instances]]\nid = '{verb}'\nsamplers = ['{verb}']\n[plugins.{verb}]\ninterval = '200ms'\nlimits.failures = 1000000\n"
        );
    }
    let files: Vec<_> = std::iter::once("good").chain(HOSTILE).map(|name| (name.to_owned(), &verbs[..])).collect();
    let host = Running::start(&config, &files);
    let (lateness, scrapes) = host.watch(Duration::from_secs(seconds));
    println!("beside {} hostile plugins for {seconds} s:", HOSTILE.len());
    show("delay of a healthy plugin's samples", lateness);
    show("time of /metrics", scrapes);
    let metrics = host.get("/metrics");
    let of = |name: &str| -> f64 {
        let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).sum()
    };
    println!(
        "calls {}, traps {}, missed ticks of the healthy plugin {}",
        of("dropsonde_plugin_call_seconds_count"),
        of("dropsonde_panics_total"),
        of("dropsonde_plugin_polls_missed_total{plugin=\"good\"}")
    );
    drop(host);

    let config = format!("{GOOD}{GREEDY}");
    let files = ["good", "wide", "churning"].map(|name| (name.to_owned(), &verbs[..]));
    let host = Running::start(&config, &files);
    let (lateness, scrapes) = host.watch(Duration::from_secs(seconds));
    println!("beside a plugin that wants all memory and one that wants all places, for {seconds} s:");
    show("delay of a healthy plugin's samples", lateness);
    show("time of /metrics", scrapes);
    let metrics = host.get("/metrics");
    let of = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    println!(
        "{} kB, refused instances {:?}, missed ticks of the healthy plugin {:?}",
        host.rss_kb(),
        of("dropsonde_share_refused_total{pool=\"history_rows_bytes\",owner=\"wide\"}"),
        of("dropsonde_plugin_polls_missed_total{plugin=\"good\"}")
    );
    drop(host);

    // A custom section makes each a different component.
    let others: Vec<_> = (0..IDLE).map(|nth| [&eight[..], &[0, 3, 1, b'n', nth as u8]].concat()).collect();
    let different: Vec<_> = others.iter().enumerate().map(|(nth, one)| (format!("p{nth:02}"), &one[..])).collect();
    let same: Vec<_> = (0..IDLE).map(|nth| (format!("p{nth:02}"), &eight[..])).collect();
    for (what, files) in [("all different", different), ("the same under different names", same)] {
        let host = Running::start("poll.interval = '1h'\n", &files);
        while host.get("/v1/plugins").matches("\"running\"").count() <= IDLE {
            std::thread::sleep(Duration::from_millis(100));
        }
        // The threads that loaded them end after ten seconds.
        std::thread::sleep(Duration::from_secs(12));
        println!("{IDLE} idle plugins, {what}: {} kB", host.rss_kb());
    }
}

struct Running {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(config: &str, plugins: &[(String, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dropsonde.toml"), config).unwrap();
        std::fs::create_dir_all(folder.path().join("data/plugins")).unwrap();
        for (name, bytes) in plugins {
            std::fs::write(folder.path().join("data/plugins").join(name).with_extension("wasm"), bytes).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_dropsonde"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(folder.path().join("dropsonde.toml"))
            .arg("--data")
            .arg(folder.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("listening on http://").to_owned();
        Self { child, address, _folder: folder }
    }

    fn request(&self, path: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        socket
    }

    fn get(&self, path: &str) -> String {
        let mut text = String::new();
        self.request(path).read_to_string(&mut text).unwrap();
        text
    }

    /// Returns how late each sample of `ok` came after its tick, and how long each scrape took meanwhile.
    fn watch(&self, time: Duration) -> (Vec<Duration>, Vec<Duration>) {
        let stream = self.request("/v1/instances/ok/usage/stream");
        let end = Instant::now() + time;
        std::thread::scope(|scope| {
            let lateness = scope.spawn(move || {
                let mut lateness = Vec::new();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let Some(at) = line.split("\"at\":\"").nth(1).and_then(|rest| rest.split('"').next()) else {
                        continue;
                    };
                    let at: jiff::Timestamp = at.parse().unwrap();
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                    lateness.push(now.saturating_sub(Duration::from_millis(at.as_millisecond() as u64)));
                    if Instant::now() > end {
                        break;
                    }
                }
                lateness
            });
            let mut scrapes = Vec::new();
            while Instant::now() < end {
                let started = Instant::now();
                self.get("/metrics");
                scrapes.push(started.elapsed());
                std::thread::sleep(Duration::from_millis(50));
            }
            (lateness.join().unwrap(), scrapes)
        })
    }

    fn rss_kb(&self) -> u64 {
        rss_kb(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:.1?}, p99 {:.1?}, worst {:.1?}, of {}", at(0.5), at(0.99), at(1.0), times.len());
}
