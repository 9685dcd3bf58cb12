//! Measures range queries over HTTP, against an archived week of 50 instances × 7 fields at 10 s: the time of one
//! client's request, and the requests per second of several clients on the host's machine. `cargo bench -p dropsonde
//! --bench reads [-- SECONDS]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark that cannot run says why"
)]

#[path = "../store/benches/support/series.rs"]
#[allow(dead_code, reason = "of what benches share, each uses a part")]
mod series;
mod shared;

use dropsonde::store::{InstanceId, Store, StoreLimits};
use series::{Corpus, STEP_MS};
use shared::Host;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const INSTANCES: usize = 50;

/// Rows of a week.
const ROWS: usize = 60_480;

/// Ticks between two steps of the store's keeper.
const STEP: usize = 100;

/// Concurrent connections where requests per second are measured.
const CLIENTS: usize = 4;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let folder = tempfile::tempdir().expect("a folder");
    fill(&folder.path().join("history"));
    let host = Host::start(folder.path(), &[]);
    println!(
        "{INSTANCES} instances × 7 fields × {ROWS} samples, archived; one client, then {CLIENTS} clients together"
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    for query in [
        "range=7d".to_owned(),
        // A window in the past that begins and ends on no boundary of a bucket or block.
        format!("since={}&until={}", now - 604_321, now - 1234),
        // The same for its buckets, for which blocks cannot be prepared.
        "range=7d&align=since".to_owned(),
        "range=7d&fields=cpu_percent".to_owned(),
        "range=24h".to_owned(),
        "range=1h".to_owned(),
    ] {
        let (mut times, bytes) = ask(&host.address, &query, Duration::from_secs(seconds));
        times.sort_unstable();
        let all: usize = std::thread::scope(|scope| {
            let client = || ask(&host.address, &query, Duration::from_secs(seconds)).0.len();
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).sum()
        });
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let rate = all as u64 / seconds;
        println!("{query:<38} {bytes:>6} B: p50 {p50:.0?}, p99 {p99:.0?} for one client; {rate} requests/s together");
    }
}

/// Writes a week of history up to now, as a host would have.
fn fill(folder: &Path) {
    let corpus = Corpus::made(INSTANCES, ROWS);
    let (store, mut keeper, _) = Store::open(folder, &StoreLimits::default()).expect("a folder");
    let id = |nth| InstanceId::new(format!("i{nth:02}")).expect("an id");
    let frames: Vec<_> = (0..INSTANCES).map(|nth| store.frame(&id(nth), &corpus.schema(), STEP_MS)).collect();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    let at_ms = |row: usize| now_ms / STEP_MS * STEP_MS - (ROWS - row) as i64 * STEP_MS;
    let mut values = [0.0; 7];
    for row in 0..ROWS {
        for (nth, frame) in frames.iter().enumerate() {
            corpus.row(nth, row, &mut values);
            frame.push(at_ms(row), &values);
        }
        if row % STEP == 0 {
            keeper.step(at_ms(row));
        }
    }
    assert!(keeper.close(at_ms(ROWS)), "history is written");
}

/// Queries one instance after the other on one connection. Returns how long each answer took, and the length of the
/// last answer in bytes.
fn ask(address: &str, query: &str, long: Duration) -> (Vec<Duration>, usize) {
    let mut socket = TcpStream::connect(address).expect("the host");
    socket.set_nodelay(true).expect("a socket");
    let mut reader = BufReader::with_capacity(64 << 10, socket.try_clone().expect("a socket"));
    let (mut times, mut body, mut line) = (Vec::new(), Vec::new(), String::new());
    let began = Instant::now();
    while began.elapsed() < long {
        let nth = times.len() * 7 % INSTANCES;
        let asked = Instant::now();
        write!(socket, "GET /v1/instances/i{nth:02}/usage/range?{query} HTTP/1.1\r\nHost: {address}\r\n\r\n")
            .expect("the host");
        let mut length = 0;
        let mut is_first = true;
        loop {
            line.clear();
            reader.read_line(&mut line).expect("the host");
            assert!(!is_first || line.starts_with("HTTP/1.1 200 "), "{line}");
            is_first = false;
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).expect("the host");
        times.push(asked.elapsed());
    }
    (times, body.len())
}
