//! Measures queries in PromQL over HTTP: 350 series of some days at 10 s, 100 histograms of 12 buckets for six hours, and
//! 80 000 series of five minutes. Debian's Prometheus and VictoriaMetrics, which `cargo dev setup` unpacks, get the same
//! samples and the same queries in the same run.
//!
//! ```text
//! cargo bench -p dropsonde --bench promql                  # 7 days
//! cargo bench -p dropsonde --bench promql -- --days 1 --alone
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

use dropsonde::store::{GroupKey, InstanceId, Labels, MetricType, SeriesGroup, SeriesHandle, Store, StoreLimits};
use series::{Corpus, STEP_MS};
use shared::Host;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const INSTANCES: usize = 50;
const HISTOGRAMS: usize = 100;
const BUCKETS: usize = 12;
const MANY: usize = 80_000;

/// Ticks between two steps of the store's keeper.
const STEP: usize = 100;

/// Series per request of remote write.
const SERIES_AT_ONCE: usize = 5000;

/// How long a query is repeated.
const LONG: Duration = Duration::from_secs(3);

/// A query, its window, and its step. Without a step it is asked once, at the end.
struct Asked {
    expression: &'static str,
    window_s: u64,
    step_s: Option<u64>,
}

const fn asked(expression: &'static str, window_s: u64, step_s: Option<u64>) -> Asked {
    Asked { expression, window_s, step_s }
}

const DAY: u64 = 86_400;

fn queries(days: u64) -> Vec<Asked> {
    let all = days * DAY;
    vec![
        asked("avg_over_time(g[1d])", all, Some(3600)),
        asked("sum by (workload) (rate(c_total[5m]))", all, Some(3600)),
        asked("sum by (workload) (rate(c_total[5m]))", 6 * 3600, Some(30)),
        asked("quantile_over_time(0.99, g[1h])", all, Some(3600)),
        asked("topk(5, g)", all, Some(3600)),
        asked("histogram_quantile(0.99, sum by (le, n) (rate(h_bucket[5m])))", 6 * 3600, Some(60)),
        asked("g", 3600, Some(10)),
        asked("max_over_time(g[1h])", all, Some(3600)),
        asked("sum(x)", 0, None),
    ]
}

fn main() {
    let (mut days, mut is_alone) = (7, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--days" => days = arguments.next().expect("a number").parse().expect("a number"),
            "--alone" => is_alone = true,
            _ => {}
        }
    }
    let rows = (days * DAY * 1000 / STEP_MS as u64) as usize;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    let data = Data { corpus: Corpus::made(INSTANCES, rows), rows, end_ms: now_ms / 60_000 * 60_000 };
    let folder = tempfile::tempdir_in(".").expect("a folder");
    data.fill_store(&folder.path().join("host/history"));
    std::fs::write(folder.path().join("host.toml"), "metrics.history = false\npoll.default_samplers = []\n").unwrap();
    let config = folder.path().join("host.toml");
    let host = Host::start(&folder.path().join("host"), &["--config", config.to_str().unwrap()]);
    let mut engines = vec![Engine { name: "dropsonde", address: host.address.clone(), process: host.id() }];
    let peers = if is_alone { Vec::new() } else { peers(folder.path(), &data) };
    engines.extend(peers.iter().map(|peer| Engine {
        name: peer.name,
        address: peer.address.clone(),
        process: peer.child.id(),
    }));
    println!(
        "{days} days of {} series at 10 s; {HISTOGRAMS} × {BUCKETS} buckets for 6 h; {MANY} series",
        INSTANCES * 7
    );
    println!("median over HTTP, one client; the most memory of the process so far");
    for Asked { expression, window_s, step_s } in queries(days) {
        let end = data.end_ms as u64 / 1000;
        let query: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = match step_s {
            Some(step) => {
                format!("/api/v1/query_range?query={query}&start={}&end={end}&step={step}&nocache=1", end - window_s)
            }
            None => format!("/api/v1/query?query={query}&time={end}&nocache=1"),
        };
        let step = step_s.map_or("at once".to_owned(), |step| format!("{} h step {step} s", window_s / 3600));
        print!("{expression:<62} {step:<18}");
        let mut first: Option<f64> = None;
        for engine in &engines {
            let (median, bytes, digest) = engine.measure(&path);
            let first = *first.get_or_insert(median);
            print!(
                " | {} {:8.2} ms ({:4.1}×) {:>8} B {digest} {:>5} MB",
                engine.name,
                median * 1000.0,
                median / first,
                bytes,
                peak_mb(engine.process)
            );
        }
        println!();
    }
}

struct Engine {
    name: &'static str,
    address: String,
    process: u32,
}

impl Engine {
    /// Asks again and again. Returns the median in seconds, the length of an answer, and the number of its series.
    fn measure(&self, path: &str) -> (f64, usize, String) {
        let (mut times, began) = (Vec::new(), Instant::now());
        let mut last = String::new();
        while times.len() < 3 || began.elapsed() < LONG {
            let asked = Instant::now();
            last = get(&self.address, path);
            times.push(asked.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let series = last.matches("\"metric\"").count();
        (times[times.len() / 2], last.len(), format!("{series:>6} series"))
    }
}

/// Returns the body of an answer.
fn get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("a server");
    socket.set_nodelay(true).expect("a socket");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a server");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{}", answer.lines().next().unwrap_or_default());
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

fn peak_mb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

/// The samples that all engines get.
struct Data {
    corpus: Corpus,
    rows: usize,
    end_ms: i64,
}

/// A series and the number of its column.
type Named = (Labels, MetricType, usize);

impl Data {
    fn at_ms(&self, row: usize) -> i64 {
        self.end_ms - (self.rows - 1 - row) as i64 * STEP_MS
    }

    fn of_instance(instance: usize) -> Vec<Named> {
        let series = |column: usize| {
            let (name, metric_type) =
                if column < 3 { ("g", MetricType::Gauge) } else { ("c_total", MetricType::Counter) };
            let labels = [
                ("__name__", name.to_owned()),
                ("id", format!("i{instance:02}")),
                ("n", column.to_string()),
                ("workload", format!("w{}", instance % 5)),
            ];
            (Labels::from(labels), metric_type, column)
        };
        (0..7).map(series).collect()
    }

    fn of_histogram(histogram: usize) -> Vec<Named> {
        let series = |bucket: usize| {
            let bound = if bucket + 1 == BUCKETS {
                "+Inf".to_owned()
            } else {
                format!("{}", 0.01 * f64::powi(2.0, bucket as i32))
            };
            let labels = [("__name__", "h_bucket".to_owned()), ("le", bound), ("n", format!("h{histogram:02}"))];
            (Labels::from(labels), MetricType::Histogram, bucket)
        };
        (0..BUCKETS).map(series).collect()
    }

    fn of_many(nth: usize) -> Labels {
        Labels::from([("__name__", "x".to_owned()), ("host", format!("host-{:03}", nth % 100)), ("n", nth.to_string())])
    }

    /// Returns the values of an instance at a row; `totals` are those of its counters so far.
    fn row(&self, instance: usize, row: usize, totals: &mut [f64; 7]) -> [f64; 7] {
        let mut values = [0.0; 7];
        self.corpus.row(instance, row, &mut values);
        std::array::from_fn(|column| {
            if column < 3 {
                return (values[column] * 100.0).round() / 100.0;
            }
            totals[column] += (values[column] * 10.0).round();
            totals[column]
        })
    }

    fn bucket(histogram: usize, bucket: usize, row: usize) -> f64 {
        (row * (histogram + 3) * (bucket + 1).min(10)) as f64
    }

    fn first_of_histograms(&self) -> usize {
        self.rows.saturating_sub(6 * 360 + 60)
    }

    fn first_of_many(&self) -> usize {
        self.rows.saturating_sub(31)
    }

    fn fill_store(&self, folder: &Path) {
        let limits = StoreLimits { series: 1_000_000, ..StoreLimits::default() };
        let (store, mut keeper, _) = Store::open(folder, &limits).expect("a folder");
        let group = |name: String| {
            let instance = InstanceId::new(name).expect("an id");
            store.series_group(GroupKey {
                instance,
                group: "bench".into(),
                owner: "bench".into(),
                interval_ms: STEP_MS,
            })
        };
        let defined = |group: &mut SeriesGroup, named: Vec<Named>| -> Vec<SeriesHandle> {
            named.into_iter().map(|(labels, kind, _)| group.series(&labels, kind).expect("short labels")).collect()
        };
        let mut instances: Vec<_> = (0..INSTANCES)
            .map(|nth| {
                let mut group = group(format!("i{nth}"));
                let handles = defined(&mut group, Self::of_instance(nth));
                (group, handles, [0.0; 7])
            })
            .collect();
        let mut histograms: Vec<_> = (0..HISTOGRAMS)
            .map(|nth| {
                let mut group = group(format!("h{nth}"));
                let handles = defined(&mut group, Self::of_histogram(nth));
                (group, handles)
            })
            .collect();
        let mut many: Vec<_> = (0..100).map(|nth| (group(format!("x{nth}")), Vec::new())).collect();
        for row in 0..self.rows {
            let at_ms = self.at_ms(row);
            for (nth, (group, handles, totals)) in instances.iter_mut().enumerate() {
                let values = self.row(nth, row, totals);
                let samples: Vec<_> = handles.iter().copied().zip(values).collect();
                group.push(at_ms, &samples);
            }
            if row >= self.first_of_histograms() {
                for (nth, (group, handles)) in histograms.iter_mut().enumerate() {
                    let values = handles.iter().enumerate();
                    let samples: Vec<_> =
                        values.map(|(bucket, handle)| (*handle, Self::bucket(nth, bucket, row))).collect();
                    group.push(at_ms, &samples);
                }
            }
            if row >= self.first_of_many() {
                for (host, (group, handles)) in many.iter_mut().enumerate() {
                    if handles.is_empty() {
                        let of_host = (host..MANY).step_by(100);
                        let define = |nth| group.series(&Self::of_many(nth), MetricType::Gauge).expect("short labels");
                        *handles = of_host.map(define).collect();
                    }
                    let samples: Vec<_> =
                        handles.iter().enumerate().map(|(nth, handle)| (*handle, (nth + row % 7) as f64)).collect();
                    group.push(at_ms, &samples);
                }
            }
            if row % STEP == 0 {
                keeper.step(at_ms);
            }
        }
        assert!(keeper.close(self.at_ms(self.rows - 1)), "history is written");
    }

    /// Writes all samples to another engine, in the order of time.
    fn write_to(&self, address: &str) {
        let mut totals = vec![[0.0; 7]; INSTANCES];
        let mut request: Vec<(Labels, Vec<(i64, f64)>)> = Vec::new();
        // An hour of each series at a time.
        for first in (0..self.rows).step_by(360) {
            let rows = first..(first + 360).min(self.rows);
            for (nth, totals) in totals.iter_mut().enumerate() {
                let mut columns = vec![Vec::new(); 7];
                for row in rows.clone() {
                    for (column, value) in columns.iter_mut().zip(self.row(nth, row, totals)) {
                        column.push((self.at_ms(row), value));
                    }
                }
                let named = Self::of_instance(nth).into_iter().zip(columns);
                request.extend(named.map(|((labels, ..), samples)| (labels, samples)));
            }
            for nth in 0..HISTOGRAMS {
                for (labels, _, bucket) in Self::of_histogram(nth) {
                    let rows = rows.clone().filter(|row| *row >= self.first_of_histograms());
                    let samples = rows.map(|row| (self.at_ms(row), Self::bucket(nth, bucket, row))).collect();
                    request.push((labels, samples));
                }
            }
            for nth in 0..MANY {
                let rows = rows.clone().filter(|row| *row >= self.first_of_many());
                let samples: Vec<_> = rows.map(|row| (self.at_ms(row), (nth / 100 + row % 7) as f64)).collect();
                if !samples.is_empty() {
                    request.push((Self::of_many(nth), samples));
                }
            }
            request.retain(|(_, samples)| !samples.is_empty());
            for part in request.chunks(SERIES_AT_ONCE) {
                remote_write(address, part);
            }
            request.clear();
        }
    }
}

/// Sends samples by remote write 1.0.
fn remote_write(address: &str, series: &[(Labels, Vec<(i64, f64)>)]) {
    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        out.push(number << 3 | 2);
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
    let mut message = Vec::new();
    for (labels, samples) in series {
        let mut one = Vec::new();
        for (name, value) in labels.iter() {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_bytes());
            field(&mut label, 2, value.as_bytes());
            field(&mut one, 1, &label);
        }
        for (at_ms, value) in samples {
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value.to_le_bytes());
            sample.push(2 << 3);
            varint(&mut sample, *at_ms as u64);
            field(&mut one, 2, &sample);
        }
        field(&mut message, 1, &one);
    }
    // A block of snappy may hold literals alone.
    let mut block = Vec::new();
    varint(&mut block, message.len() as u64);
    for literal in message.chunks(1 << 16) {
        block.push(61 << 2);
        block.extend_from_slice(&((literal.len() - 1) as u16).to_le_bytes());
        block.extend_from_slice(literal);
    }
    let mut socket = TcpStream::connect(address).expect("a server");
    write!(
        socket,
        "POST /api/v1/write HTTP/1.1\r\nHost: {address}\r\nContent-Encoding: snappy\r\n\
         Content-Type: application/x-protobuf\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        block.len()
    )
    .expect("a server");
    socket.write_all(&block).expect("a server");
    let mut line = String::new();
    let mut answer = BufReader::new(socket);
    answer.read_line(&mut line).expect("an answer");
    let mut rest = String::new();
    if !line.starts_with("HTTP/1.1 2") {
        let _ = answer.read_to_string(&mut rest);
    }
    assert!(line.starts_with("HTTP/1.1 2"), "{line}{rest}");
}

/// Another engine, which is ended when this is dropped.
struct Peer {
    name: &'static str,
    address: String,
    child: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peers(folder: &Path, data: &Data) -> Vec<Peer> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").to_string();
    let start = |name: &'static str, program: PathBuf, arguments: &[String], address: String| {
        let child = Command::new(&program)
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} ({error}): `cargo dev setup` unpacks it", program.display()));
        let began = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "{name} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        // It listens before it takes requests.
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        data.write_to(&address);
        println!("{name}: all samples were written in {:.0} s", began.elapsed().as_secs_f64());
        Peer { name, address, child }
    };
    std::fs::write(folder.join("prometheus.yml"), "").unwrap();
    let (prometheus, victoria) = (free(), free());
    vec![
        start(
            "Prometheus",
            target.join("prometheus/usr/bin/prometheus"),
            &[
                "--config.file=prometheus.yml".to_owned(),
                "--storage.tsdb.path=prometheus".to_owned(),
                "--storage.tsdb.retention.time=30d".to_owned(),
                "--web.enable-remote-write-receiver".to_owned(),
                format!("--web.listen-address={prometheus}"),
            ],
            prometheus,
        ),
        start(
            "VictoriaMetrics",
            target.join("servers/usr/bin/victoria-metrics"),
            &[
                "-storageDataPath=victoria".to_owned(),
                "-retentionPeriod=1".to_owned(),
                "-search.latencyOffset=0s".to_owned(),
                format!("-httpListenAddr={victoria}"),
            ],
            victoria,
        ),
    ]
}
