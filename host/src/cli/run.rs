use super::check::{Checked, fields};
use super::{BuildArgs, RunArgs};
use crate::config::GrantsConfig;
use crate::json;
use crate::plugins::{Origin, grants_toml, missing};
use anyhow::{Context, Result, bail};
use dropsonde_builder::{Crate, Network, Toolchain};
use dropsonde_sandbox::{Grants, Kind, Setup, Tick, Worker};
use dropsonde_store::{InstanceId, Limits, Sample, Store};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Between the two samples that rates are derived from.
const BETWEEN: Duration = Duration::from_secs(1);

pub(super) fn build(args: &BuildArgs) -> Result<()> {
    let plugin = Crate::at(&args.folder)?;
    let toolchain = Toolchain::find_or_fetch(plugin.target_dir())?;
    let started = Instant::now();
    let component = plugin.build(&toolchain, Network::Allowed)?;
    let out = args.out.clone().unwrap_or_else(|| args.folder.join(plugin.name()).with_extension("wasm"));
    std::fs::write(&out, &component).with_context(|| format!("cannot write {}", out.display()))?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{}  {} bytes, built in {seconds:.1} s", out.display(), component.len());
    println!("next: dropsonde plugin check {}", out.display());
    Ok(())
}

/// Runs a component on its own: discovers, samples, and shows what comes out.
pub(super) async fn run(mut args: RunArgs) -> Result<()> {
    let checked = Checked::load(&args.file, &args.config).await?;
    let needs = checked.introduction.needs.as_ref();
    let needs =
        needs.map_err(|why| anyhow::anyhow!("its configuration cannot work: {}", crate::plugins::plain(why)))?;
    let granted = GrantsConfig::from(std::mem::take(&mut args.granted));
    let mut granted: Vec<_> = granted.needs().collect();
    if checked.component.origin == Origin::Bundled {
        granted.extend(needs.iter().cloned());
    }
    let grants = Grants::new(granted)?;
    let missing = missing(needs, &grants);
    if !missing.is_empty() {
        eprintln!(
            "note: it needs what it is not granted; --read, --http, --env and --dir grant it here, on a host these lines:\n{}",
            grants_toml(&checked.component.name, &missing)
        );
    }
    let setup = Setup { grants, ..checked.setup.clone() };
    let worker = Worker::start(&checked.sandbox, checked.plugin.clone(), setup).await.context("it does not start")?;
    let outcome = sample(&args, &checked, &worker).await?;
    if args.json { outcome.print_json(&worker) } else { outcome.print_table(&worker) }
}

/// What one run gave.
struct Outcome {
    store: Store,
    instances: Vec<InstanceId>,
    failures: Vec<(InstanceId, String)>,
    call: Duration,
}

async fn sample(args: &RunArgs, checked: &Checked, worker: &Worker) -> Result<Outcome> {
    let fields = fields(&checked.component.name, worker)?;
    let now_ms = || crate::clock::Clock::system().now_ms();
    let started = Instant::now();
    let tick = |at_ms: i64| Tick {
        at_ms: u64::try_from(at_ms).unwrap_or(0),
        monotonic_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        budget_ms: u32::try_from(checked.setup.limits.cpu.as_millis()).unwrap_or(u32::MAX),
        interval: BETWEEN,
    };
    let asked: Vec<String> = if args.instance.is_empty() {
        let found = worker.discover(tick(now_ms())).await.context("discover failed")?;
        found.into_iter().map(|instance| instance.id).collect()
    } else {
        args.instance.clone()
    };
    if asked.is_empty() {
        bail!("it discovers nothing by itself; name something to sample with --instance ID");
    }
    let instances = asked.iter().map(InstanceId::new).collect::<Result<Vec<_>, _>>()?;
    let store = Store::in_memory(&Limits { samples: 2, ..Limits::default() });
    let has_rates = worker.fields().iter().any(|field| matches!(field.kind, Kind::Counter(_)));
    let rounds = if has_rates { 2 } else { 1 };
    let (mut failures, mut call) = (Vec::new(), Duration::ZERO);
    for round in 0..rounds {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        let at_ms = now_ms();
        let called = Instant::now();
        let readings = worker.sample(tick(at_ms), asked.clone()).await.context("sample failed")?;
        call = called.elapsed();
        failures.clear();
        for (row, (id, values)) in instances.iter().zip(readings.values.chunks(worker.fields().len())).enumerate() {
            match readings.failures.iter().find(|(failed, _)| *failed as usize == row) {
                Some((_, failure)) => failures.push((id.clone(), crate::plugins::plain(&failure.to_string()))),
                None => {
                    let offset = readings.offsets_ms.get(row).copied().unwrap_or(0);
                    let interval_ms = i64::try_from(BETWEEN.as_millis()).unwrap_or(i64::MAX);
                    store.frame(id, &fields.schema, interval_ms).push(at_ms.saturating_add(i64::from(offset)), values);
                }
            }
        }
    }
    Ok(Outcome { store, instances, failures, call })
}

/// The same as JSON, by instance id.
#[derive(Serialize)]
struct Report<'a> {
    samples: BTreeMap<String, Box<RawValue>>,
    failures: BTreeMap<&'a str, &'a str>,
    call_seconds: f64,
    memory_bytes: usize,
}

impl Outcome {
    fn samples(&self) -> impl Iterator<Item = (&InstanceId, Sample)> {
        self.instances.iter().filter_map(|id| Some((id, self.store.latest(id)?)))
    }

    fn print_json(&self, worker: &Worker) -> Result<()> {
        let samples = self.samples().map(|(id, sample)| {
            let raw = RawValue::from_string(String::from_utf8(json::sample(&sample))?)?;
            Ok((id.to_string(), raw))
        });
        let samples: BTreeMap<String, Box<RawValue>> = samples.collect::<Result<_>>()?;
        let failures: BTreeMap<_, _> = self.failures.iter().map(|(id, why)| (id.as_str(), why.as_str())).collect();
        let report =
            Report { samples, failures, call_seconds: self.call.as_secs_f64(), memory_bytes: worker.stats().memory() };
        println!("{}", serde_json::to_string_pretty(&report)?);
        Ok(())
    }

    fn print_table(&self, worker: &Worker) -> Result<()> {
        let units: HashMap<_, _> =
            worker.fields().iter().map(|field| (field.name.as_str(), crate::plugins::plain(&field.unit))).collect();
        for (id, sample) in self.samples() {
            println!("{id}  {}", json::time(sample.at_ms));
            for (name, value) in &sample.values {
                let unit = units.get(&**name).map(String::as_str).unwrap_or_default();
                println!("{}", format!("  {name:<28} {value:>16.2} {unit}").trim_end());
            }
        }
        for (id, why) in &self.failures {
            println!("{id}  {why}");
        }
        if self.failures.iter().any(|(_, why)| why.starts_with("denied")) {
            println!("(--read, --http, --env and --dir grant what it needs)");
        }
        let memory = worker.stats().memory();
        let count = match self.instances.len() {
            1 => "1 instance".to_owned(),
            many => format!("{many} instances"),
        };
        println!("\n{count} in one call of {:.0?}, {memory} bytes of memory", self.call);
        Ok(())
    }
}
