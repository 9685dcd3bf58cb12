//! What a call through the sandbox costs, budgets on: `cargo bench -p dropsonde-sandbox`.
//!
//! The guest (tests/guests/eight) gives eight fields per instance and does nothing else; another (tests/guests/verbs) records
//! ten thousand times in a metric of its own.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run says why")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dropsonde_builder::{Crate, Network, Toolchain};
use dropsonde_sandbox::{Sandbox, Setup, Tick, Timed, Worker};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const TICK: Tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval: Duration::from_secs(10) };

fn component(name: &str) -> anyhow::Result<Vec<u8>> {
    let guest = Crate::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests").join(name))?;
    let toolchain = Toolchain::find_or_fetch(guest.target_dir())?;
    guest.build(&toolchain, Network::Allowed)
}

fn calls(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sandbox = Arc::new(Sandbox::new().expect("a sandbox"));
    let plugin = sandbox.load(&component("eight").expect("the guest builds")).expect("the guest is a plugin");
    let worker = runtime.block_on(Worker::start(&sandbox, plugin, Setup::named("eight"))).expect("the guest starts");
    let mut group = criterion.benchmark_group("sample");
    for instances in [1, 1000] {
        let ids: Vec<String> = (0..instances).map(|index| format!("instance-{index}")).collect();
        group.throughput(Throughput::Elements(instances));
        group.bench_function(BenchmarkId::new("instances", instances), |bencher| {
            bencher.iter_custom(|rounds| {
                let timed = Timed::Sample(TICK, ids.clone());
                runtime
                    .block_on(worker.time(timed, rounds))
                    .expect("the guest answers")
                    .iter()
                    .map(|took| took.wall)
                    .sum()
            });
        });
    }
    group.finish();
}

fn recordings(criterion: &mut Criterion) {
    const RECORDINGS: u64 = 10_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sandbox = Arc::new(Sandbox::new().expect("a sandbox"));
    let plugin = sandbox.load(&component("verbs").expect("the guest builds")).expect("the guest is a plugin");
    let worker = runtime.block_on(Worker::start(&sandbox, plugin, Setup::named("verbs"))).expect("the guest starts");
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(RECORDINGS));
    for how in ["single", "batch"] {
        group.bench_function(how, |bencher| {
            bencher.iter_custom(|rounds| {
                let timed = Timed::Sample(TICK, vec![how.to_owned()]);
                runtime
                    .block_on(worker.time(timed, rounds))
                    .expect("the guest answers")
                    .iter()
                    .map(|took| took.wall)
                    .sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, calls, recordings);
criterion_main!(benches);
