//! Measures what rules cost, from outside of the whole binary: 10 000 rules over 80 000 series, and 100 000 active
//! alerts. `cargo bench -p dropsonde --bench rules`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot run says why")]

mod shared;

use dropsonde_builder::{Crate, Network, Toolchain};
use shared::Host;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Each has 8 series.
const INSTANCES: usize = 10_000;

const RULES: usize = 10_000;

/// Rules of one group.
const IN_GROUP: usize = 100;

/// The time of a measurement.
const MEASURED: Duration = Duration::from_secs(60);

/// Seconds between two evaluations.
const INTERVAL: f64 = 10.0;

fn main() -> anyhow::Result<()> {
    let guest = Crate::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/eight"))?;
    let component = guest.build(
        &Toolchain::find(guest.target_dir()).expect("`cargo dev setup` sets up a compiler for wasm"),
        Network::Allowed,
    )?;
    let alone = measure(&component, "no rules", "groups: []\n", 0.0)?;
    measure(&component, "10 000 rules, 8 series each", &of_instances(), alone)?;
    measure(&component, "10 000 alerting rules, 8 series each", &alerting(), alone)?;
    measure(&component, "100 000 active alerts of 10 rules", &many_alerts(), alone)?;
    Ok(())
}

/// Rules that each compute one series of the eight of an instance.
fn of_instances() -> String {
    grouped(|nth| {
        format!(
            "  - {{record: 'instance:sum', expr: 'sum({{id=\"instance-{nth}\",sampler=\"eight\"}})', labels: {{nth: '{nth}'}}}}\n"
        )
    })
}

/// Rules whose alerts never fire.
fn alerting() -> String {
    grouped(|nth| {
        format!("  - {{alert: A{nth}, expr: '{{id=\"instance-{nth}\",sampler=\"eight\"}} > 1e300', for: 5m}}\n")
    })
}

fn grouped(rule: impl Fn(usize) -> String) -> String {
    let mut text = "groups:\n".to_owned();
    for nth in 0..RULES {
        if nth % IN_GROUP == 0 {
            let _ = writeln!(text, "- name: g{nth}\n  interval: {INTERVAL}s\n  rules:");
        }
        text += &rule(nth);
    }
    text
}

/// Ten rules with 10 000 alerts each.
fn many_alerts() -> String {
    let mut text = format!("groups:\n- name: g\n  interval: {INTERVAL}s\n  rules:\n");
    for nth in 0..10 {
        let _ = writeln!(
            text,
            "  - {{alert: A{nth}, expr: 'dropsonde_sample_field_{} > -1e300', annotations: {{summary: '{{{{ $labels.id }}}} has {{{{ $value }}}}'}}}}",
            nth % 8
        );
    }
    text
}

/// Returns the seconds of CPU time that the host uses in each interval.
fn measure(component: &[u8], what: &str, rules: &str, alone: f64) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir_all(folder.path().join("plugins"))?;
    std::fs::write(folder.path().join("plugins/eight.wasm"), component)?;
    std::fs::write(folder.path().join("rules.yml"), rules)?;
    let instance =
        |nth| format!("[[instances]]\nid = 'instance-{nth}'\nlabels = {{ workload = 'web' }}\nsamplers = ['eight']\n");
    let instances: String = (0..INSTANCES).map(instance).collect();
    let plugins = folder.path().join("plugins").display().to_string();
    // Polled once a minute, because only the rules are measured.
    let config = format!("plugins_dir = '{plugins}'\nrules = ['rules.yml']\npoll.interval = '1m'\n{instances}");
    let file = folder.path().join("dropsonde.toml");
    std::fs::write(&file, config)?;
    let host = Host::start(&folder.path().join("data"), &["--config", &file.display().to_string()]);
    let last = format!("id=\"instance-{}\",sampler=\"eight\"", INSTANCES - 1);
    while !text(&host, "/metrics").contains(&last) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // The first rounds make series.
    std::thread::park_timeout(Duration::from_secs(15));
    let (began, before) = (Instant::now(), host.cpu());
    while began.elapsed() < MEASURED {
        std::thread::park_timeout(MEASURED - began.elapsed());
    }
    let each = (host.cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64() * INTERVAL;
    let metrics = text(&host, "/metrics");
    let sum = |name: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value)
    };
    println!(
        "{what:<40} CPU of one round {:6.2} s | evaluated {:>9} failed {:>4} missed {:>4} | firing {:>7} | {:>5} MB",
        each - alone,
        sum("dropsonde_rule_evaluations_total"),
        sum("dropsonde_rule_evaluation_failures_total"),
        sum("dropsonde_rule_group_evaluations_missed_total"),
        sum("dropsonde_alerts_firing"),
        shared::rss_kb(host.id()) >> 10,
    );
    Ok(each)
}

fn text(host: &Host, path: &str) -> String {
    let mut text = Vec::new();
    host.get_with(path, "").read_to_end(&mut text).expect("an answer");
    String::from_utf8_lossy(&text).into_owned()
}
