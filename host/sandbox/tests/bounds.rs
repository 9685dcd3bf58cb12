//! The resource usage of many plugins, and of many instances that end, stays bounded.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says what is wrong")]

use dropsonde_builder::{Crate, Network, Toolchain};
use dropsonde_sandbox::{CallError, Limits, Plugin, Sandbox, Setup, Tick, Worker};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const TICK: Tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval: Duration::from_secs(10) };

#[derive(Debug, Clone, Copy)]
struct Taken {
    memory_kb: u64,
    threads: u64,
    descriptors: u64,
}

fn taken() -> Taken {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    Taken { memory_kb: number("VmRSS:"), threads: number("Threads:"), descriptors }
}

fn plugin(sandbox: &Sandbox) -> Plugin {
    let guest = Crate::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/verbs")).unwrap();
    let toolchain = Toolchain::find(guest.target_dir()).expect("`cargo dev setup` sets up a compiler for wasm");
    sandbox.load(&guest.build(&toolchain, Network::Forbidden).unwrap()).unwrap()
}

// This is a single test, because other tests in the same process would be counted too.
#[tokio::test]
async fn ten_thousand_ends_and_sixty_four_plugins_level_off() {
    let sandbox = Arc::new(Sandbox::new().unwrap());
    let plugin = plugin(&sandbox);

    let limits = Limits { log_lines_per_second: 0, ..Limits::default() };
    let worker = Worker::start(&sandbox, plugin.clone(), Setup { limits, ..Setup::named("ends") }).await.unwrap();
    let end = async |times: u64| {
        for _ in 0..times {
            let ended = worker.sample(TICK, vec!["panic".to_owned()]).await;
            assert!(matches!(ended, Err(CallError::Trapped(_))), "{ended:?}");
        }
    };
    end(1_000).await;
    let before = taken();
    end(9_000).await;
    let after = taken();
    assert_eq!(worker.stats().instances(), 10_000);
    assert!(after.memory_kb < before.memory_kb + 4 * 1024, "{before:?} {after:?}");
    assert_eq!((after.threads, after.descriptors), (before.threads, before.descriptors));
    drop(worker);

    let many = async || {
        let mut workers = Vec::new();
        for nth in 0..64 {
            let worker = Worker::start(&sandbox, plugin.clone(), Setup::named(format!("p{nth}"))).await.unwrap();
            worker.sample(TICK, vec!["ok".to_owned()]).await.unwrap();
            workers.push(worker);
        }
        taken()
    };
    let first = many().await;
    for _ in 0..5 {
        many().await;
    }
    let last = many().await;
    // The threads of dropped workers end a little later.
    assert!(last.threads <= first.threads + 64, "{first:?} {last:?}");
    assert!(last.memory_kb < first.memory_kb + 16 * 1024, "{first:?} {last:?}");
}
