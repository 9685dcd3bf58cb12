//! Measures from outside how plugins are added and updated: the time from `plugin new` to the first sample, from a
//! newer file to its first sample, and the time to compile a Python plugin at its first and second start. `cargo bench
//! -p dropsonde --bench reload [-- SWAPS]`, after `cargo dev setup`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says why")]

mod shared;

use shared::Host;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = "poll.interval = '100ms'\n[[instances]]\nid = 'here'\nsamplers = ['load']\n\
                      [plugins.load.grants]\nread = ['/proc/loadavg']\n";

fn main() {
    let swaps = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100);
    let folder = tempfile::tempdir().expect("a folder");
    let host = Plugins::start(&folder.path().join("host"));

    let started = Instant::now();
    plugin(folder.path(), &["new", "load"]);
    let project = folder.path().join("load");
    plugin(&project, &["build"]);
    let mut samples = host.stream();
    host.drop_in(&project.join("load.wasm"));
    samples.next(|_| true);
    println!("Rust, `plugin new` to the first sample in a running host: {:.1?}", started.elapsed());

    // The same plugin with another field, so that its samples show which version runs.
    let other = folder.path().join("other.wasm");
    let source = project.join("src/lib.rs");
    let text = fs::read_to_string(&source).expect("its source").replace("load_avg_1m", "load_avg_other");
    fs::write(&source, text).expect("its source");
    plugin(&project, &["build", "--out", other.to_str().expect("a path")]);
    let files = [(other, "load_avg_other"), (project.join("load.wasm"), "load_avg_1m")];
    let mut times = Vec::new();
    for (nth, (file, field)) in files.iter().cycle().take(swaps + 2).enumerate() {
        let swapped = Instant::now();
        host.drop_in(file);
        // Readings of the previous version stay in the latest sample for a while, so wait for the new digest first.
        let digest = sha256(file);
        host.until(|page| page.contains(&digest));
        samples.next(|sample| sample.contains(field));
        if nth >= 2 {
            times.push(swapped.elapsed());
        }
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "newer file to its first sample, warm cache, {swaps} swaps at 100 ms: p50 {:.1?}, p99 {:.1?}",
        at(0.5),
        at(0.99)
    );

    plugin(folder.path(), &["new", "snake", "--lang", "python"]);
    plugin(&folder.path().join("snake"), &["build", "--out", host.file("snake").to_str().expect("a path")]);
    let first = host.compiled("snake");
    let data = host.data.clone();
    drop(host);
    let host = Plugins::start(&data);
    println!("Python, 18 MB, compiled: {first:.2} s; at the next start: {:.3} s", host.compiled("snake"));
}

struct Plugins {
    host: Host,
    data: PathBuf,
}

struct Samples(BufReader<TcpStream>);

impl Plugins {
    fn start(data: &Path) -> Self {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data.join("plugins")).expect("a folder");
        let config = data.join("dropsonde.toml");
        fs::write(&config, CONFIG).expect("a file");
        let host = Host::start(data, &["--config", config.to_str().expect("a path")]);
        Self { host, data: data.to_owned() }
    }

    fn file(&self, plugin: &str) -> PathBuf {
        self.data.join("plugins").join(plugin).with_extension("wasm")
    }

    fn drop_in(&self, component: &Path) {
        let half = self.file("load").with_extension("new");
        fs::copy(component, &half).expect("a copy");
        fs::rename(half, self.file("load")).expect("in place");
    }

    fn stream(&self) -> Samples {
        Samples(self.host.get("/v1/instances/here/usage/stream"))
    }

    /// Waits until a line of the plugin's page is as wanted.
    fn until(&self, wanted: impl Fn(&str) -> bool) {
        while !self.host.get("/v1/plugins/load").lines().map_while(Result::ok).any(|line| wanted(&line)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns the seconds that compiling a plugin took.
    fn compiled(&self, plugin: &str) -> f64 {
        let sum = format!("dropsonde_build_seconds_sum{{plugin=\"{plugin}\"}} ");
        loop {
            let lines = self.host.get("/metrics").lines().map_while(Result::ok);
            let seconds = lines.filter_map(|line| line.strip_prefix(&sum)?.parse().ok()).next();
            if let Some(seconds) = seconds {
                return seconds;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Samples {
    fn next(&mut self, wanted: impl Fn(&str) -> bool) {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a stream");
            if line.strip_prefix("data: ").is_some_and(&wanted) {
                return;
            }
        }
    }
}

/// Runs `dropsonde plugin …`.
fn plugin(at: &Path, arguments: &[&str]) {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize().expect("a target directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(target.join("languages/python/bin")).chain(std::env::split_paths(&path));
    let done = Command::new(env!("CARGO_BIN_EXE_dropsonde"))
        .arg("plugin")
        .args(arguments)
        .current_dir(at)
        .env("PATH", std::env::join_paths(path).expect("a path"))
        .env_remove("CARGO_TARGET_DIR")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(done.expect("the command").success(), "{arguments:?}");
}

fn sha256(file: &Path) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(fs::read(file).expect("a file")).iter().map(|byte| format!("{byte:02x}")).collect()
}
