//! Measures the dashboard in Chromium with 10 000 instances: the first paint, the work of a frame while someone
//! scrolls, the memory of the tab, and the host's CPU time for it; and the host's CPU time for 200 dashboards, whose
//! requests come from this process. `cargo bench -p dropsonde --bench dashboard [-- SECONDS]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark that cannot run says why")]

mod shared;

use shared::Host;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const DASHBOARDS: usize = 200;

/// How often a dashboard asks for lists.
const LISTS: Duration = Duration::from_secs(10);

fn main() {
    let seconds = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(20);
    let long = Duration::from_secs(seconds);
    let folder = tempfile::tempdir().expect("a folder");
    let start = |name: &str, instances: usize, interval: &str| {
        let config = folder.path().join(name).with_extension("toml");
        let text = format!(
            "poll.interval = '{interval}'\n[plugins.procfs]\ninterval = '1h'\n\
             [plugins.synthetic.config]\ninstances = {instances}\n"
        );
        fs::write(&config, text).expect("the configuration");
        Host::start(&folder.path().join(name), &["--config", &config.display().to_string()])
    };

    let host = start("many", 10_000, "10s");
    wait_for(&host, 10_000);
    let alone = spent(&host, long);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut browser = Command::new("node")
        .arg(root.join("tests/browser/run.mjs"))
        .args(["figures", &format!("http://{}", host.address)])
        .env("BROWSER_MODULES", root.join("target/browser"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node");
    let mut line = String::new();
    BufReader::new(browser.stdout.take().expect("its output")).read_line(&mut line).expect("its figures");
    println!("10 000 instances: {}", line.trim());
    std::thread::sleep(LISTS);
    let beside = spent(&host, long);
    println!("private memory of the tab {} MB", tab_mb());
    println!("the host's CPU time for one dashboard {:.2} ms/s", beside - alone);
    let _ = browser.kill();
    let _ = browser.wait();
    drop(host);

    let host = start("few", 50, "5s");
    wait_for(&host, 50);
    let alone = spent(&host, long);
    let is_over = AtomicBool::new(false);
    let named: Vec<_> = (0..25).map(|nth| format!("instance={}", name(nth))).collect();
    let path = format!("/v1/stream?{}", named.join("&"));
    std::thread::scope(|scope| {
        let (host, is_over, path) = (&host, &is_over, &path);
        // The lists of all dashboards come from a few threads.
        for nth in 0..8 {
            scope.spawn(move || {
                let streams: Vec<_> = (0..DASHBOARDS / 8).map(|_| host.get(path)).collect();
                for stream in &streams {
                    stream.get_ref().set_nonblocking(true).expect("a socket");
                }
                let mut piece = vec![0; 64 << 10];
                std::thread::sleep(LISTS * nth / 8);
                while !is_over.load(Relaxed) {
                    for stream in &streams {
                        while matches!(stream.get_ref().read(&mut piece), Ok(count) if count > 0) {}
                        for list in ["/v1/instances", "/v1/plugins", "/health"] {
                            let mut answer = Vec::new();
                            host.get(list).read_to_end(&mut answer).expect("an answer");
                        }
                        std::thread::sleep(LISTS / (DASHBOARDS as u32 / 8));
                        if is_over.load(Relaxed) {
                            return;
                        }
                    }
                }
            });
        }
        std::thread::sleep(LISTS * 2);
        let beside = spent(host, long);
        println!("{DASHBOARDS} dashboards of 50 instances: {:.2} % of a core", (beside - alone) / 10.0);
        is_over.store(true, Relaxed);
    });
}

/// The name of a made-up instance.
fn name(nth: usize) -> String {
    format!("{}-{nth}", ["web", "api", "worker", "cache", "search"][nth % 5])
}

/// Returns the host's CPU time, in milliseconds a second.
fn spent(host: &Host, long: Duration) -> f64 {
    let before = host.cpu();
    std::thread::sleep(long);
    (host.cpu() - before).as_secs_f64() * 1000.0 / long.as_secs_f64()
}

fn wait_for(host: &Host, instances: usize) {
    loop {
        let mut answer = String::new();
        host.get("/v1/usage").read_to_string(&mut answer).expect("an answer");
        if answer.matches("cpu_percent").count() >= instances {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Returns the private memory of the largest renderer of the browser, in MB.
fn tab_mb() -> u64 {
    let processes = fs::read_dir("/proc").expect("the processes");
    let memory = processes.filter_map(|process| {
        let path = process.ok()?.path();
        let command = fs::read(path.join("cmdline")).ok()?;
        if !String::from_utf8_lossy(&command).contains("--type=renderer") {
            return None;
        }
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    memory.max().unwrap_or_default() / 1000
}
