//! Polls one component without a host.

use super::StandaloneArgs;
use super::check::{CheckedComponent, CompiledComponent};
use super::usage::{CallUsage, HostLimits};
use crate::cli::out::aside;
use crate::config::GrantsConfig;
use anyhow::{Context, Result, bail};
use dropsonde_engine::plugins::{self, ComponentOrigin, Fields, describe_need, grants_toml, missing};
use dropsonde_model::labels::NAME;
use dropsonde_openmetrics::{number, series_text};
use dropsonde_sandbox::{CallError, Grants, Inputs, Kind, Need, ReportedSeries, Role, Setup, Stats, Tick, Worker};
use dropsonde_store::{InstanceId, Sample, Store, StoreLimits};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A started component and its samples.
pub(super) struct StandaloneRun {
    pub(super) checked: CheckedComponent,
    pub(super) worker: Worker,
    /// The fields of a sampler; none if the component is no sampler.
    pub(super) fields: Option<Fields>,
    pub(super) granted: Vec<Need>,
    pub(super) allowed: HostLimits,
    store: Store,
    started_ms: Option<i64>,
    interval: Duration,
}

/// The result of one tick.
#[derive(Debug, Default)]
pub(super) struct PollResult {
    pub(super) samples: BTreeMap<InstanceId, Sample>,
    pub(super) failures: BTreeMap<InstanceId, String>,
    /// The series that it reported of each instance, as lines of an exposition.
    pub(super) series: BTreeMap<String, Vec<String>>,
    /// The statistics of a source.
    pub(super) stats: Option<Stats>,
    /// The highest usage among its calls.
    pub(super) used: CallUsage,
}

impl StandaloneRun {
    /// Starts a component with the grants in the arguments, and prints the missing ones.
    pub(super) async fn granted(args: &StandaloneArgs, inputs: Inputs, interval: Duration) -> Result<Self> {
        let checked = CompiledComponent::cached(&args.file).await?.check(&args.config).await?;
        let needs = checked.needs()?;
        let mut granted: Vec<_> = GrantsConfig::from(args.granted.clone()).needs().collect();
        if args.grant_all {
            needs.iter().for_each(|need| aside(format_args!("granted: {}", describe_need(need))));
        }
        if args.grant_all || matches!(checked.component.origin, ComponentOrigin::Bundled(_)) {
            granted.extend(needs.iter().cloned());
        }
        let missing = missing(needs, &Grants::new(granted.iter().cloned())?);
        if !missing.is_empty() {
            aside(format_args!(
                "note: the plugin needs more than it is granted; grant it here with --read, --http, --env, --dir or \
                 --grant-all, on a host with these lines:\n{}",
                grants_toml(&checked.component.name, &missing)
            ));
        }
        Self::start(checked, granted, inputs, interval, HostLimits::new(&args.limits)).await
    }

    pub(super) async fn start(
        checked: CheckedComponent,
        granted: Vec<Need>,
        inputs: Inputs,
        interval: Duration,
        allowed: HostLimits,
    ) -> Result<Self> {
        let grants = Grants::new(granted.iter().cloned())?;
        let setup = Setup { grants, inputs, limits: allowed.with_room(), ..checked.setup.clone() };
        let worker = Worker::start(&checked.sandbox, checked.plugin.clone(), setup).await;
        let worker = worker.map_err(|error| allowed.explain("the start", error))?;
        // A start has its own deadline.
        allowed.check("the start", CallUsage { memory: worker.stats().memory(), ..CallUsage::default() })?;
        let fields = checked.plugin.has(Role::Sampler).then(|| Fields::check(&checked.component.name, worker.fields()));
        let fields = fields.transpose().context("its fields are refused")?;
        let store = Store::in_memory(&StoreLimits { samples: 2, ..StoreLimits::default() });
        Ok(Self { checked, worker, fields, granted, allowed, store, started_ms: None, interval })
    }

    pub(super) fn name(&self) -> &str {
        &self.checked.component.name
    }

    pub(super) fn has_rates(&self) -> bool {
        self.worker.fields().iter().any(|field| field.kind != Kind::Gauge)
    }

    /// Returns the named instances, or else those that the plugin discovers. A source has none.
    pub(super) async fn instances(&mut self, named: &[String], at_ms: i64) -> Result<Vec<String>> {
        if self.fields.is_none() || !named.is_empty() {
            return Ok(named.to_owned());
        }
        let tick = self.tick(at_ms);
        let (found, _) = self.measured("discover", self.worker.discover(tick)).await?;
        if found.is_empty() {
            bail!("the plugin discovers no instances; name one with --instance ID");
        }
        Ok(found.into_iter().map(|instance| instance.id).collect())
    }

    /// Polls once. Values that derive from earlier ticks, such as rates, are computed as on a host.
    pub(super) async fn poll(&mut self, at_ms: i64, instances: &[String]) -> Result<PollResult> {
        let tick = self.tick(at_ms);
        let mut polled = PollResult::default();
        if self.checked.plugin.has(Role::Source) {
            let (stats, used) = self.measured("collect", self.worker.collect(tick)).await?;
            (polled.stats, polled.used) = (Some(stats), used);
        }
        let Some(fields) = self.fields.clone() else { return Ok(polled) };
        let ids = instances.iter().map(InstanceId::new).collect::<Result<Vec<_>, _>>()?;
        let (readings, used) = self.measured("sample", self.worker.sample(tick, instances.to_vec())).await?;
        polled.used = polled.used.max(used);
        polled.series = lines_of_series(&readings.series);
        let interval_ms = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX);
        for (row, (id, values)) in ids.into_iter().zip(readings.values.chunks(fields.metrics.len())).enumerate() {
            if let Some((_, failure)) = readings.failures.iter().find(|(failed, _)| *failed as usize == row) {
                polled.failures.insert(id, plugins::plain(&failure.to_string()));
                continue;
            }
            let offset = i64::from(readings.offsets_ms.get(row).copied().unwrap_or(0));
            self.store.frame(&id, &fields.schema, interval_ms).push(at_ms.saturating_add(offset), values);
            if let Some(sample) = self.store.latest(&id) {
                polled.samples.insert(id, sample);
            }
        }
        Ok(polled)
    }

    /// Waits for a call, and fails also if the call exceeded a limit.
    async fn measured<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<(T, CallUsage)> {
        let called = Instant::now();
        let answer = call.await;
        let (wall, stats) = (called.elapsed(), self.worker.stats());
        let used = CallUsage { cpu: stats.last_cpu(), wall, memory: stats.memory() };
        let answer = answer.map_err(|error| self.allowed.explain(what, error))?;
        self.allowed.check(what, used)?;
        Ok((answer, used))
    }

    pub(super) fn tick(&mut self, at_ms: i64) -> Tick {
        let started = *self.started_ms.get_or_insert(at_ms);
        let since = u64::try_from(at_ms.saturating_sub(started)).unwrap_or(0);
        Tick {
            at_ms: u64::try_from(at_ms).unwrap_or(0),
            monotonic_ns: since.saturating_mul(1_000_000),
            budget_ms: u32::try_from(self.allowed.cpu.as_millis()).unwrap_or(u32::MAX),
            interval: self.interval,
        }
    }
}

fn lines_of_series(reported: &ReportedSeries) -> BTreeMap<String, Vec<String>> {
    let mut by_instance: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (instance, points) in &reported.points {
        let lines = by_instance.entry(plugins::plain(instance)).or_default();
        for (handle, value) in points {
            let Some(series) = reported.definitions.get(*handle) else { continue };
            let labels = series.labels.iter().filter(|(key, _)| *key != NAME);
            let mut line = series_text(series.labels.get(NAME).unwrap_or_default(), labels).into_bytes();
            line.push(b' ');
            number(&mut line, *value);
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
    by_instance
}
