//! Measures the cost of calls through the sandbox, with budgets in force: `cargo bench -p dropsonde-sandbox`.
//!
//! The guest tests/guests/eight returns eight fields per instance and does nothing else. The guest tests/guests/verbs
//! records ten thousand values in a metric of its own.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run says why")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dropsonde_builder::{Crate, Network, Toolchain};
use dropsonde_sandbox::{Sandbox, Setup, Tick, Timed, Worker};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const TICK: Tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval: Duration::from_secs(10) };

fn component(name: &str) -> anyhow::Result<Vec<u8>> {
    let guest = Crate::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests").join(name))?;
    let toolchain = Toolchain::find(guest.target_dir()).expect("`cargo dev setup` sets up a compiler for wasm");
    guest.build(&toolchain, Network::Allowed)
}

/// Starts a worker for a guest. Returns it with the runtime to call it on.
fn started(guest: &str) -> (Runtime, Worker) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sandbox = Arc::new(Sandbox::new().expect("a sandbox"));
    let plugin = sandbox.load(&component(guest).expect("the guest builds")).expect("the guest is a plugin");
    let worker = runtime.block_on(Worker::start(&sandbox, plugin, Setup::named(guest))).expect("the guest starts");
    (runtime, worker)
}

/// Returns the time that a number of `sample` calls take together.
fn samples(runtime: &Runtime, worker: &Worker, ids: &[String], rounds: u64) -> Duration {
    let timed = Timed::Sample(TICK, ids.to_vec());
    let took = runtime.block_on(worker.time(timed, rounds)).expect("the guest answers");
    took.iter().map(|took| took.wall).sum()
}

fn calls(criterion: &mut Criterion) {
    let (runtime, worker) = started("eight");
    let mut group = criterion.benchmark_group("sample");
    for instances in [1, 1000] {
        let ids: Vec<String> = (0..instances).map(|index| format!("instance-{index}")).collect();
        group.throughput(Throughput::Elements(instances));
        group.bench_function(BenchmarkId::new("instances", instances), |bencher| {
            bencher.iter_custom(|rounds| samples(&runtime, &worker, &ids, rounds));
        });
    }
    group.finish();
}

fn recordings(criterion: &mut Criterion) {
    const RECORDINGS: u64 = 10_000;
    let (runtime, worker) = started("verbs");
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(RECORDINGS));
    for how in ["single", "batch"] {
        let ids = [how.to_owned()];
        group.bench_function(how, |bencher| {
            bencher.iter_custom(|rounds| samples(&runtime, &worker, &ids, rounds));
        });
    }
    group.finish();
}

criterion_group!(benches, calls, recordings);
criterion_main!(benches);
