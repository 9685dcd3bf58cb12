//! One component polled without a host.

use super::check::{Checked, Opened};
use super::{AloneArgs, GrantArgs};
use crate::cli::out::aside;
use crate::config::GrantsConfig;
use crate::plugins::{self, Fields, Origin, grants_toml, missing};
use anyhow::{Context, Result, bail};
use dropsonde_sandbox::{Grants, Inputs, Kind, Need, Role, Setup, Stats, Tick, Worker};
use dropsonde_store::{InstanceId, Limits, Sample, Store};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A started component, and what it gave so far.
pub(super) struct Alone {
    pub(super) checked: Checked,
    pub(super) worker: Worker,
    /// None: it is no sampler.
    pub(super) fields: Option<Fields>,
    store: Store,
    started_ms: Option<i64>,
    interval: Duration,
}

/// What one tick gave.
#[derive(Debug, Default)]
pub(super) struct Polled {
    pub(super) samples: BTreeMap<InstanceId, Sample>,
    pub(super) failures: BTreeMap<InstanceId, String>,
    /// Of a source.
    pub(super) stats: Option<Stats>,
    pub(super) call: Duration,
}

impl Alone {
    /// With what the arguments grant; says what is missing.
    pub(super) async fn granted(args: &AloneArgs, inputs: Inputs, interval: Duration) -> Result<Self> {
        let checked = Opened::cached(&args.file).await?.check(&args.config).await?;
        let needs = checked.needs()?;
        let mut granted = named(&args.granted);
        if checked.component.origin == Origin::Bundled {
            granted.extend(needs.iter().cloned());
        }
        let missing = missing(needs, &Grants::new(granted.iter().cloned())?);
        if !missing.is_empty() {
            aside(format_args!(
                "note: it needs what it is not granted; --read, --http, --env and --dir grant it here, on a host these lines:\n{}",
                grants_toml(&checked.component.name, &missing)
            ));
        }
        Self::start(checked, granted, inputs, interval).await
    }

    pub(super) async fn start(
        checked: Checked,
        granted: Vec<Need>,
        inputs: Inputs,
        interval: Duration,
    ) -> Result<Self> {
        let setup = Setup { grants: Grants::new(granted)?, inputs, ..checked.setup.clone() };
        let worker = Worker::start(&checked.sandbox, checked.plugin.clone(), setup).await;
        let worker = worker.context("it does not start")?;
        let fields = checked.plugin.has(Role::Sampler).then(|| Fields::check(&checked.component.name, worker.fields()));
        let fields = fields.transpose().context("its fields are not taken")?;
        let store = Store::in_memory(&Limits { samples: 2, ..Limits::default() });
        Ok(Self { checked, worker, fields, store, started_ms: None, interval })
    }

    pub(super) fn name(&self) -> &str {
        &self.checked.component.name
    }

    pub(super) fn has_rates(&self) -> bool {
        self.worker.fields().iter().any(|field| matches!(field.kind, Kind::Counter(_)))
    }

    /// Those named, else those it finds; a source has none.
    pub(super) async fn instances(&mut self, named: &[String], at_ms: i64) -> Result<Vec<String>> {
        if self.fields.is_none() || !named.is_empty() {
            return Ok(named.to_owned());
        }
        let tick = self.tick(at_ms);
        let found = self.worker.discover(tick).await.context("discover failed")?;
        if found.is_empty() {
            bail!("it discovers nothing by itself; name something to sample with --instance ID");
        }
        Ok(found.into_iter().map(|instance| instance.id).collect())
    }

    /// One tick. What it derives from ticks before, as rates, is as on a host.
    pub(super) async fn poll(&mut self, at_ms: i64, instances: &[String]) -> Result<Polled> {
        let tick = self.tick(at_ms);
        let mut polled = Polled::default();
        if self.checked.plugin.has(Role::Source) {
            let called = Instant::now();
            polled.stats = Some(self.worker.collect(tick).await.context("collect failed")?);
            polled.call = called.elapsed();
        }
        let Some(fields) = self.fields.clone() else { return Ok(polled) };
        let ids = instances.iter().map(InstanceId::new).collect::<Result<Vec<_>, _>>()?;
        let called = Instant::now();
        let readings = self.worker.sample(tick, instances.to_vec()).await.context("sample failed")?;
        polled.call += called.elapsed();
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

    pub(super) fn tick(&mut self, at_ms: i64) -> Tick {
        let started = *self.started_ms.get_or_insert(at_ms);
        let since = u64::try_from(at_ms.saturating_sub(started)).unwrap_or(0);
        Tick {
            at_ms: u64::try_from(at_ms).unwrap_or(0),
            monotonic_ns: since.saturating_mul(1_000_000),
            budget_ms: u32::try_from(self.checked.setup.limits.cpu.as_millis()).unwrap_or(u32::MAX),
            interval: self.interval,
        }
    }
}

fn named(granted: &GrantArgs) -> Vec<Need> {
    GrantsConfig::from(granted.clone()).needs().collect()
}
