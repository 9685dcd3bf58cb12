use super::BenchArgs;
use super::standalone::StandaloneRun;
use super::usage::{CallUsage, took};
use crate::cli::out::{Out, aside};
use anyhow::{Result, bail};
use dropsonde_engine::clock::Clock;
use dropsonde_model::Size;
use dropsonde_sandbox::{Inputs, Timed, Took};
use humantime::format_duration;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Calls between two checks of the clock.
const ROUNDS: u64 = 100;

/// Measures the same call again and again, on the plugin's own thread.
pub(super) async fn bench(args: BenchArgs, out: &mut Out) -> Result<()> {
    let mut standalone = StandaloneRun::granted(&args.standalone, Inputs::Live, Duration::from_secs(10)).await?;
    let at_ms = Clock::system().now_ms();
    let instances = standalone.instances(&args.standalone.instance, at_ms).await?;
    // A failing call is not worth measuring.
    let polled = standalone.poll(at_ms, &instances).await?;
    if let Some((id, why)) = polled.failures.first_key_value() {
        bail!("no sample: {id}: {why}");
    }
    let tick = standalone.tick(at_ms);
    let timed = if standalone.fields.is_some() { Timed::Sample(tick, instances.clone()) } else { Timed::Collect(tick) };
    let measure = async |rounds| {
        let times = standalone.worker.time(timed.clone(), rounds).await;
        times.map_err(|error| standalone.allowed.explain("a call", error))
    };
    // The first calls are slower: they fault in pages and fill caches, also the guest's own.
    measure(ROUNDS / 10).await?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut times = Vec::new();
    while Instant::now() < until {
        // Make a slow plugin's calls one by one, to stop in time.
        let is_slow = times.last().is_some_and(|last: &Took| last.wall > Duration::from_millis(10));
        times.extend(measure(if is_slow { 1 } else { ROUNDS }).await?);
    }
    let calls = times.len();
    let wall = TimeDistribution::of(times.iter().map(|took| took.wall));
    let cpu = TimeDistribution::of(times.iter().map(|took| took.cpu));
    let per_second = calls as f64 / wall.total.as_secs_f64();
    let (stats, allowed) = (standalone.worker.stats(), standalone.allowed);
    if args.standalone.json {
        let report = json!({
            "calls": calls, "calls_per_second": per_second, "instances": instances.len(),
            "call_seconds": wall.json(), "call_cpu_seconds": cpu.json(),
            "cpu_seconds": stats.cpu().as_secs_f64(), "memory_bytes": stats.memory(), "limits": allowed.json(),
        });
        say!(out, "{report:#}");
    } else {
        say!(out, "calls     {calls} in {:.1} s, {per_second:.0} per second", wall.total.as_secs_f64());
        if !instances.is_empty() {
            let each = wall.p50 / u32::try_from(instances.len()).unwrap_or(u32::MAX);
            say!(out, "instances {} per call, {each:.1?} each", instances.len());
        }
        say!(out, "time      {wall}; deadline {}", format_duration(allowed.wall));
        say!(out, "CPU time  {cpu}; limit {}", format_duration(allowed.cpu));
        say!(out, "memory    {}; limit {}", Size::new(stats.memory()), Size::new(allowed.memory));
    }
    let worst = CallUsage { cpu: cpu.worst, wall: wall.worst, memory: stats.memory() };
    // The measurement is valid even above a limit.
    if let Err(over) = allowed.check("the slowest call", worst) {
        aside(format_args!("note: {over}"));
    }
    Ok(())
}

/// The distribution of a time over all calls.
struct TimeDistribution {
    p50: Duration,
    p99: Duration,
    worst: Duration,
    total: Duration,
}

impl TimeDistribution {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        let last = times.len().saturating_sub(1) as f64;
        let at = |share: f64| times.get((last * share) as usize).copied().unwrap_or_default();
        Self { p50: at(0.5), p99: at(0.99), worst: at(1.0), total: times.iter().sum() }
    }

    fn json(&self) -> Value {
        json!({ "p50": self.p50.as_secs_f64(), "p99": self.p99.as_secs_f64(), "worst": self.worst.as_secs_f64() })
    }
}

impl std::fmt::Display for TimeDistribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {}, p99 {}, worst {}", took(self.p50), took(self.p99), took(self.worst))
    }
}
