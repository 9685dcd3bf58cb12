use super::BenchArgs;
use super::alone::Alone;
use crate::cli::out::Out;
use crate::clock::Clock;
use anyhow::{Context, Result, bail};
use dropsonde_sandbox::{Inputs, Timed};
use serde_json::json;
use std::time::{Duration, Instant};

/// Calls between two looks at the clock.
const ROUNDS: u64 = 100;

/// Times the same call again and again, on the plugin's own thread.
pub(super) async fn bench(args: BenchArgs, out: &mut Out) -> Result<()> {
    let mut alone = Alone::granted(&args.alone, Inputs::Live, Duration::from_secs(10)).await?;
    let at_ms = Clock::system().now_ms();
    let instances = alone.instances(&args.alone.instance, at_ms).await?;
    // What it cannot do takes no time.
    let polled = alone.poll(at_ms, &instances).await?;
    if let Some((id, why)) = polled.failures.first_key_value() {
        bail!("no sample: {id}: {why}");
    }
    let tick = alone.tick(at_ms);
    let timed = if alone.fields.is_some() { Timed::Sample(tick, instances.clone()) } else { Timed::Collect(tick) };
    let measure = async |rounds| alone.worker.time(timed.clone(), rounds).await.context("a call failed");
    // The first are slower: pages, caches, the guest's own.
    measure(ROUNDS / 10).await?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut times = Vec::new();
    while Instant::now() < until {
        // A slow plugin's calls one by one.
        let rounds =
            if times.last().is_some_and(|last: &Duration| *last > Duration::from_millis(10)) { 1 } else { ROUNDS };
        times.extend(measure(rounds).await?);
    }
    let total: Duration = times.iter().sum();
    times.sort_unstable();
    let at =
        |share: f64| times.get((times.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or_default();
    let per_second = times.len() as f64 / total.as_secs_f64();
    let (p50, p99, worst) = (at(0.5), at(0.99), at(1.0));
    let stats = alone.worker.stats();
    if args.alone.json {
        let report = json!({
            "calls": times.len(), "calls_per_second": per_second, "instances": instances.len(),
            "call_seconds": { "p50": p50.as_secs_f64(), "p99": p99.as_secs_f64(), "worst": worst.as_secs_f64() },
            "cpu_seconds": stats.cpu().as_secs_f64(), "memory_bytes": stats.memory(),
        });
        say!(out, "{report:#}");
        return Ok(());
    }
    say!(out, "calls     {} in {:.1} s, {per_second:.0} per second", times.len(), total.as_secs_f64());
    if !instances.is_empty() {
        let each = p50 / u32::try_from(instances.len()).unwrap_or(u32::MAX);
        say!(out, "instances {} per call, {each:.1?} each", instances.len());
    }
    say!(out, "time      p50 {p50:.1?}, p99 {p99:.1?}, worst {worst:.1?}");
    say!(out, "memory    {} bytes", stats.memory());
    Ok(())
}
