//! Measures the cost of a scrape, from outside of the whole binary: of a host that samples only its machine, and of a
//! host with 80 000 sample series. `cargo bench -p dropsonde --bench scrape`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot run says why")]

mod shared;

use dropsonde_builder::{Crate, Network, Toolchain};
use shared::Host;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const INSTANCES: usize = 10_000;

/// Scrapes that are measured, after some to warm up.
const SCRAPES: usize = 50;
const WARM_UP: usize = 5;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("dropsonde.toml"), "poll.interval = '1s'\n")?;
    let host = Host::start(&folder.path().join("data"), &["--config", &told(folder.path())]);
    until(&host, "dropsonde_sample_");
    scrapes(&host, "the host alone");
    drop(host);

    let guest = Crate::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/eight"))?;
    let component = guest.build(
        &Toolchain::find(guest.target_dir()).expect("`cargo dev setup` sets up a compiler for wasm"),
        Network::Allowed,
    )?;
    let folder = tempfile::tempdir()?;
    std::fs::create_dir_all(folder.path().join("plugins"))?;
    std::fs::write(folder.path().join("plugins/eight.wasm"), component)?;
    let instance =
        |nth| format!("[[instances]]\nid = 'instance-{nth}'\nlabels = {{ workload = 'web' }}\nsamplers = ['eight']\n");
    let instances: String = (0..INSTANCES).map(instance).collect();
    let plugins = folder.path().join("plugins").display().to_string();
    // Polled once, because only the scrape is measured.
    let config = format!("plugins_dir = '{plugins}'\npoll.interval = '10m'\n{instances}");
    std::fs::write(folder.path().join("dropsonde.toml"), config)?;
    let host = Host::start(&folder.path().join("data"), &["--config", &told(folder.path())]);
    until(&host, &format!("id=\"instance-{}\",sampler=\"eight\"", INSTANCES - 1));
    scrapes(&host, "80 000 sample series");
    Ok(())
}

fn told(folder: &Path) -> String {
    folder.join("dropsonde.toml").display().to_string()
}

fn until(host: &Host, wanted: &str) {
    while !text(host, "").contains(wanted) {
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn text(host: &Host, headers: &str) -> String {
    let mut text = Vec::new();
    host.get_with("/metrics", headers).read_to_end(&mut text).expect("an answer");
    String::from_utf8_lossy(&text).into_owned()
}

fn scrapes(host: &Host, what: &str) {
    for (format, headers) in [
        ("text", ""),
        ("OpenMetrics", "Accept: application/openmetrics-text\r\n"),
        ("text, gzip", "Accept-Encoding: gzip\r\n"),
    ] {
        for _ in 0..WARM_UP {
            text(host, headers);
        }
        let (before, cpu) = (made(host), host.cpu());
        let mut size = 0;
        let mut times: Vec<Duration> = (0..SCRAPES)
            .map(|_| {
                let started = Instant::now();
                size = text(host, headers).len();
                started.elapsed()
            })
            .collect();
        let (after, cpu) = (made(host), host.cpu() - cpu);
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let mean = (after.0 - before.0) / (after.1 - before.1);
        println!(
            "{what}, {format}: {size} bytes; made in {:.3} ms (mean), {:.2} ms of CPU in all; the client waits {:.2} ms (median)",
            mean * 1e3,
            cpu.as_secs_f64() * 1e3 / (SCRAPES + 1) as f64,
            median.as_secs_f64() * 1e3,
        );
    }
}

/// Returns the host's own figures: the seconds it has spent on making the text, and the number of texts.
fn made(host: &Host) -> (f64, f64) {
    let text = text(host, "");
    let value = |name: &str| {
        let name = format!("dropsonde_processing_duration_seconds_{name}{{operation=\"scrape\",service=\"host\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    (value("sum"), value("count"))
}
