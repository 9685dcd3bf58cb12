//! Measures the whole binary from outside: the time to the first sample with a warm compile cache, and memory and CPU
//! of an idle host that samples its machine every second. `cargo bench -p dropsonde --bench startup [-- SECONDS]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts that are measured; the first only warms the cache.
const STARTS: usize = 11;

fn main() -> std::io::Result<()> {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20);
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("dropsonde.toml"), "poll.interval = '1s'\n")?;
    let mut times = Vec::new();
    for start in 0..STARTS {
        let (mut child, took) = first_sample(folder.path())?;
        if start > 0 {
            times.push(took);
        }
        child.kill()?;
        child.wait()?;
    }
    times.sort_unstable();
    let (median, slowest) = (times.get(times.len() / 2), times.last());
    println!("first sample after start, warm cache: median {median:?}, slowest {slowest:?}");

    let (mut child, _) = first_sample(folder.path())?;
    let before = cpu_ticks(child.id())?;
    std::thread::sleep(Duration::from_secs(seconds));
    let ticks = cpu_ticks(child.id())? - before;
    println!(
        "idle, sampling itself every second, for {seconds} s: RSS {} kB, CPU {:.2} ms/s",
        rss_kb(child.id())?,
        ticks as f64 * 10.0 / seconds as f64
    );
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Starts a host. Returns it with the time from before its start until its first sample was read over HTTP.
fn first_sample(folder: &std::path::Path) -> std::io::Result<(Child, Duration)> {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_dropsonde"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(folder.join("dropsonde.toml"))
        .arg("--data")
        .arg(folder.join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    BufReader::new(out).read_line(&mut line)?;
    let address = line.trim().trim_start_matches("listening on http://").to_owned();
    let mut socket = TcpStream::connect(&address)?;
    write!(socket, "GET /v1/instances/host/usage/stream HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while !seen.windows(6).any(|part| part == b"data: ") {
        let read = socket.read(&mut chunk)?;
        seen.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
    Ok((child, started.elapsed()))
}

fn rss_kb(pid: u32) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.split_whitespace().next().and_then(|kb| kb.parse().ok()).unwrap_or(0))
}

/// Returns user and system time together, in hundredths of a second.
fn cpu_ticks(pid: u32) -> std::io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    Ok(fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0))
}
