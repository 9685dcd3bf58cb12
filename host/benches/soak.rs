//! Measures whether memory levels off under ten times the default load: 5 000 instances at 200 ms, 500 more that change
//! every second, newer versions of a plugin, reloads of the configuration, streams, scrapes, queries, and instances
//! that come and go. `cargo bench -p dropsonde --bench soak [-- MINUTES]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run says why"
)]

mod shared;

use shared::{Host, component, rss_kb};
use std::fs;
use std::io::{BufRead, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// Minutes until memory should be level: until then history fills its share of the disk, and with it what the host keeps
/// in memory to find it again.
const WARM_UP: usize = 10;

fn config(nth: u64) -> String {
    format!(
        "poll.discover_interval = '1s'\nstore.max_disk = '16MiB'\nstore.block_cache = '8MiB'\nlabels = {{ nth = '{}' }}\n\
         [plugins.flock]\ninterval = '200ms'\nconfig = {{ flock = 5000 }}\n\
         [plugins.churning]\ninterval = '1s'\nconfig = {{ flock = 500, churn = true }}\n\
         [plugins.swapped]\ninterval = '200ms'\nconfig = {{ discover = ['swapped'] }}\n",
        nth % 2
    )
}

fn main() {
    let minutes: usize = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(60);
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("dropsonde.toml"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data.join("plugins")).unwrap();
    fs::write(&file, config(0)).unwrap();
    let verbs = component("verbs");
    let put_in_place = |name: &str, component: &[u8]| {
        let half = folder.path().join("half");
        fs::write(&half, component).unwrap();
        fs::rename(half, data.join("plugins").join(name).with_extension("wasm")).unwrap();
    };
    ["flock", "churning", "swapped"].iter().for_each(|name| put_in_place(name, &verbs));
    let host = Host::start(&data, &["--config", file.to_str().unwrap()]);
    let admin = fs::read_to_string(data.join("admin.token")).unwrap().trim().to_owned();
    let (is_over, events) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sizes = Vec::new();
    let go_on = |pause: u64, work: &(dyn Fn(u64) + Sync)| {
        for nth in 0.. {
            if is_over.load(Relaxed) {
                return;
            }
            work(nth);
            std::thread::sleep(Duration::from_millis(pause));
        }
    };
    let ask = |path: &str| drop(host.get(path).read_to_end(&mut Vec::new()));
    let order = |method: &str, path: &str, body: &str| {
        let mut socket = TcpStream::connect(&host.address).unwrap();
        let (address, length) = (&host.address, body.len());
        let _ = write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {admin}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let _ = socket.read_to_end(&mut Vec::new());
    };
    std::thread::scope(|scope| {
        let (go_on, ask, order) = (&go_on, &ask, &order);
        let (config_file, verbs, put_in_place) = (&file, &verbs, &put_in_place);
        scope.spawn(move || go_on(1000, &|_| ask("/metrics")));
        scope.spawn(move || go_on(100, &|nth| ask(&format!("/v1/instances/flock-{}/usage/range", nth % 5000))));
        scope.spawn(move || go_on(1000, &|_| ask("/v1/usage/range?range=5m&points=5")));
        scope.spawn(move || {
            go_on(50, &|nth| {
                order("PUT", &format!("/v1/instances/come-{}", nth % 1000), r#"{"samplers":["flock"]}"#);
                order("DELETE", &format!("/v1/instances/come-{}", (nth + 500) % 1000), "");
            });
        });
        scope.spawn(move || {
            // A custom section makes each a different component.
            go_on(10_000, &|nth| put_in_place("swapped", &[&verbs[..], &[0, 2, 1, b'a' + (nth % 26) as u8]].concat()));
        });
        scope.spawn(move || go_on(15_000, &|nth| fs::write(config_file, config(nth)).unwrap()));
        for _ in 0..20 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let stream = host.get("/v1/stream?instance=flock-1&instance=flock-2&instance=swapped");
                    // Reconnects after a while, as readers do.
                    for line in stream.lines().map_while(Result::ok).take(3000) {
                        events.fetch_add(u64::from(line.starts_with("data: ")), Relaxed);
                        if is_over.load(Relaxed) {
                            break;
                        }
                    }
                }
            });
        }
        let (began, cpu) = (Instant::now(), host.cpu());
        for minute in 1..=minutes {
            std::thread::sleep((began + MINUTE * minute as u32).saturating_duration_since(Instant::now()));
            sizes.push(rss_kb(host.id()) as f64);
            println!("{minute} min: {} kB", sizes[minute - 1]);
        }
        let share = (host.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        println!("{:.0} % of one CPU, {} events read", share * 100.0, events.load(Relaxed));
        is_over.store(true, Relaxed);
    });
    let level = &sizes[WARM_UP.min(sizes.len())..];
    println!("growth of memory after the first {WARM_UP} minutes: {:+.2} % per hour", slope(level) * 60.0 * 100.0);
}

/// Returns the growth per minute as a share of the mean, from the line that fits best.
fn slope(sizes: &[f64]) -> f64 {
    let count = sizes.len() as f64;
    let (middle, mean) = ((count - 1.0) / 2.0, sizes.iter().sum::<f64>() / count);
    let offsets = || sizes.iter().enumerate().map(|(nth, size)| (nth as f64 - middle, size - mean));
    let (both, own) = offsets().fold((0.0, 0.0), |(both, own), (x, y)| (both + x * y, own + x * x));
    both / own / mean
}
