//! Measures remote write: history of some hours is drained to a VictoriaMetrics of Debian's, directly and through a
//! vmagent; then samples of now are sent for a while.
//!
//! ```text
//! cargo bench -p dropsonde --bench remote_write                    # 20 million samples
//! cargo bench -p dropsonde --bench remote_write -- --rows 5000 --steady 120
//! ```

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that cannot run says why"
)]

#[path = "../store/benches/support/series.rs"]
#[allow(dead_code, reason = "of what benches share, each uses a part")]
mod series;
mod shared;

use dropsonde::store::{GroupKey, InstanceId, Labels, MetricType, Store, StoreLimits};
use series::{Corpus, STEP_MS};
use shared::{Host, component, cpu, rss_kb};
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Instances and the series of each.
const INSTANCES: usize = 2000;
const SERIES: usize = 8;

/// Instances of the corpus, whose values are used again and again.
const CORPUS: usize = 50;

/// Ticks between two steps of the store's keeper.
const STEP: usize = 50;

/// The time that a host with nobody to send to is measured, about as long as sending takes.
const ALONE: Duration = Duration::from_secs(8);

/// Instances whose samples of now are sent; the guest has eight fields.
const STEADY_INSTANCES: usize = 10_000;

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let (mut rows, mut steady_s) = (1250, 60);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number");
        match &*argument {
            "--rows" => rows = number(),
            "--steady" => steady_s = number() as u64,
            _ => {}
        }
    }
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let path = folder.path();
    let samples = (INSTANCES * SERIES * rows) as f64;
    println!("{INSTANCES} instances × {SERIES} series × {rows} rows: {:.1} million samples", samples / 1e6);
    fill(&path.join("history"), rows);
    for through in ["", "vmagent"] {
        let victoria = free();
        let engine = start(
            path,
            "victoria-metrics",
            &[
                format!("-httpListenAddr={victoria}"),
                format!("-storageDataPath=victoria{through}"),
                "-retentionPeriod=1".to_owned(),
            ],
            &victoria,
        );
        let (mut url, mut relay) = (format!("http://{victoria}/api/v1/write"), None);
        if !through.is_empty() {
            let address = free();
            relay = Some(start(
                path,
                through,
                &[
                    format!("-httpListenAddr={address}"),
                    format!("-remoteWrite.url={url}"),
                    "-remoteWrite.tmpDataPath=vmagent-queue".to_owned(),
                ],
                &address,
            ));
            url = format!("http://{address}/api/v1/write");
        }
        // A host with the same history and nobody to send it to works, too: it reads the log and merges files.
        let alone = {
            let host = start_host(&with_history(path, &format!("alone{through}")), "");
            std::thread::sleep(ALONE);
            host.cpu()
        };
        let data = with_history(path, &format!("data{through}"));
        let began = Instant::now();
        let to = format!("[[remote_write]]\nname = 'far'\nurl = '{url}'\nsince = '7d'\ncatch_up_rate = '10GiB'\n");
        let host = start_host(&data, &to);
        let mut most_kb = 0;
        while metric(&host, "dropsonde_remote_lag_seconds") > 30.0
            || metric(&host, "dropsonde_remote_samples_total") < samples
        {
            // Each look costs the host about a millisecond.
            std::thread::sleep(Duration::from_millis(250));
            most_kb = most_kb.max(rss_kb(host.id()));
            assert!(began.elapsed() < Duration::from_secs(300), "it takes too long");
        }
        let took = began.elapsed().as_secs_f64();
        let per_sample = |used: Duration| used.as_secs_f64() * 1e9 / samples;
        let bytes = metric(&host, "dropsonde_remote_sent_bytes_total");
        println!(
            "{:<22} {:>6.2} s  {:>5.2} million samples/s  host {:>4.0} ns of CPU a sample beyond the host alone ({:.0} ns), \
             {:.2} bytes a sample, {} MB",
            if through.is_empty() { "to VictoriaMetrics" } else { "through vmagent" },
            took,
            samples / took / 1e6,
            per_sample(host.cpu().saturating_sub(alone)),
            per_sample(alone),
            bytes / samples,
            most_kb / 1024
        );
        if let Some(relay) = &relay {
            // It has a queue of its own.
            let mut before = Duration::ZERO;
            while cpu(relay.0.id()) > before {
                before = cpu(relay.0.id());
                std::thread::sleep(Duration::from_secs(1));
            }
            let sent = text_metric(&get(url.split('/').nth(2).unwrap()), "vmagent_remotewrite_bytes_sent_total");
            println!(
                "                       vmagent {:>4.0} ns of CPU a sample, {:.2} bytes a sample",
                per_sample(cpu(relay.0.id())),
                sent / samples
            );
        }
        println!("                       VictoriaMetrics {:>4.0} ns of CPU a sample", per_sample(cpu(engine.0.id())));
    }
    steady(path, steady_s);
}

/// Makes a data folder with a copy of the history.
fn with_history(path: &Path, name: &str) -> PathBuf {
    let data = path.join(name);
    std::fs::create_dir(&data).expect("a folder");
    copy(&path.join("history"), &data.join("history"));
    data
}

/// Starts a host that measures nothing. `remote`: the part of its configuration that says where to send samples.
fn start_host(data: &Path, remote: &str) -> Host {
    let config = data.with_extension("toml");
    std::fs::write(&config, format!("metrics.history = false\npoll.default_samplers = []\n{remote}")).expect("a file");
    Host::start(data, &["--config", config.to_str().unwrap()])
}

/// Sends samples of now.
fn steady(path: &Path, seconds: u64) {
    let victoria = free();
    let _engine = start(
        path,
        "victoria-metrics",
        &[format!("-httpListenAddr={victoria}"), "-storageDataPath=victoria-steady".to_owned()],
        &victoria,
    );
    let eight = component("eight");
    let measure = |remote: &str| {
        let data = path.join(format!("steady{}", remote.len()));
        std::fs::create_dir_all(data.join("plugins")).expect("a folder");
        std::fs::write(data.join("plugins/eight.wasm"), &eight).expect("a file");
        let config = path.join("steady.toml");
        let instances: String =
            (0..STEADY_INSTANCES).map(|nth| format!("[[instances]]\nid = 'i{nth}'\nsamplers = ['eight']\n")).collect();
        std::fs::write(&config, format!("{remote}\n{instances}")).expect("a file");
        let host = Host::start(&data, &["--config", config.to_str().unwrap()]);
        std::thread::sleep(Duration::from_secs(25));
        let (before, sent) = (host.cpu(), metric(&host, "dropsonde_remote_samples_total"));
        let bytes = metric(&host, "dropsonde_remote_sent_bytes_total");
        std::thread::sleep(Duration::from_secs(seconds));
        let used = (host.cpu() - before).as_secs_f64() / seconds as f64;
        let sent = metric(&host, "dropsonde_remote_samples_total") - sent;
        let bytes = metric(&host, "dropsonde_remote_sent_bytes_total") - bytes;
        (used * 100.0, sent / seconds as f64, bytes / sent.max(1.0), rss_kb(host.id()) / 1024)
    };
    let (alone, ..) = measure("");
    let remote = format!("[[remote_write]]\nname = 'far'\nurl = 'http://{victoria}/api/v1/write'\n");
    let (used, rate, bytes, mb) = measure(&remote);
    println!(
        "{STEADY_INSTANCES} × 8 at 10 s: {rate:.0} samples/s sent; {:.2} % of a core beyond the host alone ({alone:.2} %); \
         {bytes:.1} bytes a sample; {mb} MB",
        used - alone
    );
}

fn fill(folder: &Path, rows: usize) {
    let limits = StoreLimits { series: 1_000_000, ..StoreLimits::default() };
    let (store, mut keeper, _) = Store::open(folder, &limits).expect("a folder");
    let corpus = Corpus::made(CORPUS, rows);
    let mut groups: Vec<_> = (0..INSTANCES)
        .map(|instance| {
            let key = GroupKey {
                instance: InstanceId::new(format!("i{instance}")).expect("an id"),
                group: "bench".into(),
                owner: "bench".into(),
                interval_ms: STEP_MS,
            };
            let mut group = store.series_group(key);
            let handles: Vec<_> = (0..SERIES)
                .map(|nth| {
                    let labels = Labels::from([
                        ("__name__", ["cpu_ratio", "memory_bytes", "requests_total"][nth % 3].to_owned()),
                        ("id", format!("i{instance}")),
                        ("n", nth.to_string()),
                        ("workload", format!("w{}", instance % 5)),
                    ]);
                    group.series(&labels, MetricType::Gauge).expect("short labels")
                })
                .collect();
            (group, handles)
        })
        .collect();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    let at_ms = |row: usize| now_ms - 60_000 - (rows - row) as i64 * STEP_MS;
    let mut values = [0.0; 7];
    for row in 0..rows {
        for (instance, (group, handles)) in groups.iter_mut().enumerate() {
            corpus.row(instance % CORPUS, row, &mut values);
            let value = |nth: usize| (values[nth % 7] * 100.0).round() / 100.0;
            let samples: Vec<_> = handles.iter().enumerate().map(|(nth, handle)| (*handle, value(nth))).collect();
            group.push(at_ms(row), &samples);
        }
        if row % STEP == 0 {
            keeper.step(at_ms(row));
        }
    }
    assert!(keeper.close(at_ms(rows - 1)), "history is written");
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").to_string()
}

fn start(folder: &Path, program: &str, arguments: &[String], address: &str) -> Peer {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers/usr/bin").join(program);
    let child = Command::new(&path)
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} ({error}): `cargo dev setup` unpacks it", path.display()));
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "{program} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Peer(child)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a file")),
        }
    }
}

/// Returns the value of a host's metric, or 0.
fn metric(host: &Host, name: &str) -> f64 {
    let mut text = String::new();
    host.get("/metrics").read_to_string(&mut text).expect("metrics");
    text_metric(&text, name)
}

/// Returns the sum of a metric in a text.
fn text_metric(text: &str, name: &str) -> f64 {
    let own = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    own.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Returns the metrics of another server.
fn get(address: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("a server");
    std::io::Write::write_all(&mut socket, b"GET /metrics HTTP/1.0\r\n\r\n").expect("a server");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("metrics");
    text
}
