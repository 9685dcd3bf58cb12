//! Samplers and sources that are part of the program that embeds the host, polled beside plugins on the same schedule.
//!
//! They are trusted as the program is: a poll that takes too long is not ended, but it is the only one that waits, and one
//! that panics is a failed poll.

use crate::Engine;
use crate::clock::Schedule;
use crate::plugins::{BY_OPERATOR, BadFields, Failing, Fields, Order, Origin, PluginState, Status, plain};
use crate::recorder::Recorder;
use crate::snapshot::Source;
use crate::tracked::{PluginName, Polled};
use dropsonde_sandbox::{Role, Shape};
use dropsonde_store::InstanceId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub use dropsonde_model::{Aggregation, Field, Kind};
pub use dropsonde_sandbox::{
    CacheStats, ChannelStats, EnvelopeStats, Failure, HistoryStats, Instance, PresenceStats, Readings, Stats,
    TokenStats,
};

/// Something in this process that measures instances.
pub trait Sampler: Send + 'static {
    /// As a plugin could be called; the host's configuration may have a section of this name, for its interval and deadline.
    fn name(&self) -> &str;

    /// What it measures: the same whenever it is asked.
    fn fields(&self) -> Vec<Field>;

    /// What there is to be measured. Asked at `poll.discover_interval`; what it lists no more has ended.
    fn discover(&mut self) -> Result<Vec<Instance>, Failure> {
        Ok(Vec::new())
    }

    /// One value per field; NaN for what has no signal.
    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure>;

    /// The same of all it is asked about, at once.
    fn sample_all(&mut self, instances: &[InstanceId]) -> Readings {
        let columns = self.fields().len();
        let mut readings = Readings { values: Vec::new(), offsets_ms: Vec::new(), failures: Vec::new() };
        for (row, instance) in instances.iter().enumerate() {
            let failure = match self.sample(instance) {
                Ok(values) if values.len() == columns => {
                    readings.values.extend(values);
                    continue;
                }
                Ok(values) => Failure::Unavailable(format!("it gave {} values for {columns} fields", values.len())),
                Err(failure) => failure,
            };
            readings.values.resize(readings.values.len() + columns, f64::NAN);
            readings.failures.push((u32::try_from(row).unwrap_or(u32::MAX), failure));
        }
        readings
    }
}

/// What a program polls with.
pub enum Native {
    Sampler(Box<dyn Sampler>),
    Source(Arc<dyn Source>),
}

/// Why a native sampler or source cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum BadNative {
    #[error("{0:?} is no name: {names}", names = dropsonde_model::names::PLUGIN_RULE)]
    Name(String),
    #[error("{0:?} is there twice")]
    Twice(String),
    #[error("{0}: {1}")]
    Fields(String, BadFields),
}

/// A native sampler's or source's polls.
struct Poller {
    engine: Arc<Engine>,
    status: Arc<Status>,
    /// When it is asked what there is, for a sampler.
    discover_at: i64,
}

// === impl Native ===

impl Native {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Sampler(sampler) => sampler.name(),
            Self::Source(source) => source.name(),
        }
    }
}

/// Shows natives among the plugins, and has each polled by a task of its own.
pub(crate) fn start(
    engine: &Arc<Engine>,
    natives: Vec<Native>,
    stopping: &watch::Receiver<bool>,
) -> Result<Vec<impl Future<Output = ()> + Send + use<>>, BadNative> {
    let mut tasks = Vec::new();
    for native in natives {
        let name: PluginName = native.name().into();
        if !dropsonde_model::names::is_plugin(&name) {
            return Err(BadNative::Name(name.to_string()));
        }
        if engine.plugins.get(&name).is_some() {
            return Err(BadNative::Twice(name.to_string()));
        }
        let fields = match &native {
            Native::Sampler(sampler) => Some(Fields::check(&name, &sampler.fields())),
            Native::Source(_) => None,
        };
        let fields = fields.transpose().map_err(|why| BadNative::Fields(name.to_string(), why))?;
        let status = Arc::new(Status::new(name.clone(), Origin::Native, true, &engine.options.load()));
        let role = if fields.is_some() { Role::Sampler } else { Role::Source };
        status.update(|known| {
            known.shape = Some(Shape { roles: vec![role], imports: Vec::new(), exports: Vec::new(), size: 0 });
            known.fields.clone_from(&fields);
            known.has_current = true;
            known.has_run_well = true;
            known.loaded_ms = Some(engine.clock.now_ms());
        });
        engine.plugins.add(status.clone());
        engine.metrics.know_plugin(&name);
        let poller = Poller { engine: engine.clone(), status, discover_at: i64::MIN };
        tasks.push(poller.run(native, fields, stopping.clone()));
    }
    Ok(tasks)
}

// === impl Poller ===

impl Poller {
    /// Polls until `stopping` says so; a poll under way is not waited for.
    async fn run(self, native: Native, fields: Option<Fields>, mut stopping: watch::Receiver<bool>) {
        tokio::select! {
            () = self.poll_on_schedule(native, fields) => {}
            _ = stopping.wait_for(|&stopping| stopping) => {}
        }
    }

    async fn poll_on_schedule(mut self, mut native: Native, fields: Option<Fields>) {
        let (engine, status) = (self.engine.clone(), self.status.clone());
        let recorder = |fields| Recorder::new(status.name.clone(), fields, status.interval(), status.limits.deadline);
        let mut recorder = fields.map(recorder);
        let mut schedule = Schedule::new(&status.name, status.interval());
        loop {
            status.enter(PluginState::Running);
            let before = schedule;
            let (due_ms, missed) = schedule.next(engine.clock.now_ms(), engine.clock.steady());
            let name = [&*status.name];
            status.update(|known| known.next_poll_ms = Some(due_ms));
            let wait = Duration::from_millis(u64::try_from(due_ms - engine.clock.now_ms()).unwrap_or(0));
            let due_ms = tokio::select! {
                () = tokio::time::sleep(wait) => {
                    engine.metrics.plugin_polls_missed.with_label_values(&name).inc_by(missed);
                    status.update(|known| {
                        known.polls_missed += missed;
                        known.late_ticks = if missed > 0 { known.late_ticks.saturating_add(1) } else { 0 };
                    });
                    due_ms
                }
                // The tick is still to come.
                () = status.told_to_poll() => {
                    schedule = before;
                    engine.clock.now_ms()
                }
                () = status.ordered(Order::Quarantine) => {
                    status.enter(PluginState::Quarantined);
                    status.update(|known| {
                        known.quarantined = Some(BY_OPERATOR.to_owned());
                        known.next_poll_ms = None;
                    });
                    status.ordered(Order::Release).await;
                    status.update(|known| known.quarantined = None);
                    continue;
                }
            };
            engine.metrics.plugin_polls.with_label_values(&name).inc();
            status.polled();
            let polled = match (native, &mut recorder) {
                (Native::Sampler(sampler), Some(recorder)) => {
                    self.sample(sampler, recorder, due_ms).await.map(Native::Sampler)
                }
                (Native::Source(source), _) => self.collect(source).await.map(Native::Source),
                // There is a recorder for each sampler.
                (Native::Sampler(_), None) => None,
            };
            // The runtime is going, and took it along.
            let Some(polled) = polled else { return };
            native = polled;
        }
    }

    async fn sample(
        &mut self,
        mut sampler: Box<dyn Sampler>,
        recorder: &mut Recorder,
        due_ms: i64,
    ) -> Option<Box<dyn Sampler>> {
        let (engine, status) = (self.engine.clone(), self.status.clone());
        let interval_ms =
            i64::try_from(engine.options.load().poll.discover_interval.get().as_millis()).unwrap_or(i64::MAX);
        // A clock that was set back must not put discovery off for as long.
        if due_ms >= self.discover_at || self.discover_at - due_ms > interval_ms {
            self.discover_at = due_ms.saturating_add(interval_ms);
            let (back, found) = self.call(sampler, Failing::Discover, |sampler| sampler.discover()).await?;
            sampler = back;
            match found {
                Some(Ok(found)) => {
                    self.works(Failing::Discover);
                    let wrong = recorder.find(&engine, found, status.limits.instances, due_ms);
                    self.failed_some(Failing::Discovered, wrong);
                }
                Some(Err(failure)) => self.failed(Failing::Discover, failure.to_string()),
                None => {}
            }
        }
        let polled: Arc<[Polled]> = recorder.polled(&engine).into();
        status.update(|known| known.instances = polled.len());
        if polled.is_empty() {
            return Some(sampler);
        }
        let ids: Vec<InstanceId> = polled.iter().map(|polled| polled.id.clone()).collect();
        let (called, stamp) = (Instant::now(), engine.clock.stamp(due_ms, status.interval()));
        let (sampler, readings) = self.call(sampler, Failing::Sample, move |sampler| sampler.sample_all(&ids)).await?;
        let cells = polled.len() * recorder.columns();
        match readings {
            Some(readings) if readings.values.len() != cells => {
                self.failed(
                    Failing::Sample,
                    format!("it gave {} values where there are {cells}", readings.values.len()),
                );
                recorder.failed(&engine, polled.len() as u64);
            }
            Some(readings) => {
                let failures = recorder.record(&engine, stamp, called.elapsed(), &polled, readings);
                self.works(Failing::Sample);
                let failures = failures.into_iter().map(|(id, failure)| format!("{id}: {failure}")).collect();
                self.failed_some(Failing::Readings, failures);
                engine.publish_workloads();
            }
            None => recorder.failed(&engine, polled.len() as u64),
        }
        status.sampled(engine.metrics.core.samples_stored(&status.name));
        Some(sampler)
    }

    async fn collect(&self, source: Arc<dyn Source>) -> Option<Arc<dyn Source>> {
        let (engine, name, now_ms) = (&self.engine, &self.status.name, self.engine.clock.now_ms());
        let (source, stats) = self.call(source, Failing::Collect, move |source| source.collect(now_ms)).await?;
        let (metrics, now_ms) = (&engine.metrics.core, engine.clock.now_ms());
        metrics.received(name, "stats", 1);
        let checked = |stats: Stats| match stats.no_number() {
            Some(wrong) => Err(format!("{wrong} is no number")),
            None => Ok(stats),
        };
        let stats = stats.map(|stats| stats.and_then(checked));
        match stats {
            Some(Ok(stats)) => {
                metrics.processed(name, "stats", "ok", 1);
                engine.snapshots.put(name, stats, now_ms, self.status.interval());
                self.works(Failing::Collect);
            }
            failed => {
                metrics.processed(name, "stats", "failed", 1);
                metrics.failed(name, "stats", 1);
                engine.snapshots.failed(name, now_ms);
                if let Some(Err(why)) = failed {
                    self.failed(Failing::Collect, why);
                }
            }
        }
        Some(source)
    }

    /// Calls it off the server's threads; it comes back with its answer, or without one if it panicked. None: it does not
    /// come back.
    async fn call<S: Send + 'static, T: Send + 'static>(
        &self,
        mut native: S,
        what: Failing,
        call: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Option<(S, Option<T>)> {
        let began = Instant::now();
        let mut called = tokio::task::spawn_blocking(move || {
            let answer = catch_unwind(AssertUnwindSafe(|| call(&mut native)));
            (native, answer.ok())
        });
        let deadline = self.status.limits.deadline;
        let answered = match tokio::time::timeout(deadline, &mut called).await {
            Ok(answered) => answered,
            Err(_) => {
                let why = format!("it has not answered for {deadline:?}, and nothing else of it is asked meanwhile");
                self.failed(what, why);
                called.await
            }
        };
        let (native, answer) = answered.ok()?;
        let took = began.elapsed();
        self.status.called(took);
        let (metrics, name) = (&self.engine.metrics, &*self.status.name);
        metrics.plugin_call_seconds.with_label_values(&[name]).observe(took.as_secs_f64());
        if answer.is_none() {
            metrics.core.panics(name, 1);
            self.failed(what, "it panicked".to_owned());
        }
        Some((native, answer))
    }

    fn works(&self, what: Failing) {
        self.status.failure_log.works(&self.status.name, what);
    }

    fn failed(&self, what: Failing, why: String) {
        self.status.failure_log.failed(&self.status.name, what, &plain(&why));
        self.engine.metrics.core.errors(&self.status.name, "native", 1);
        self.engine.metrics.health_checks_failed.with_label_values(&[&*self.status.name]).inc();
        self.status.failed_because(self.engine.clock.now_ms(), why);
    }

    /// Of a poll that worked otherwise. They are counted already, and one line a tick says enough.
    fn failed_some(&self, what: Failing, failures: Vec<String>) {
        match failures.first() {
            Some(first) => self.status.failure_log.failed(&self.status.name, what, &plain(first)),
            None => self.works(what),
        }
        for why in failures {
            self.status.failed_because(self.engine.clock.now_ms(), why);
        }
    }
}
