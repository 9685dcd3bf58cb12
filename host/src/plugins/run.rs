//! One plugin's task: load, start, then poll on schedule until the host stops.

use super::state_file::StateFile;
use super::status::Shared;
use super::{Component, Fields, Origin, PluginState, Status, grants_toml, missing, plain};
use crate::clock::Schedule;
use crate::core::Core;
use crate::labels;
use dropsonde_sandbox::{
    CallError, Description, Failure, Grants, Plugin, Readings, Role, Sandbox, SavedState, Setup, Tick, Worker,
    introduce,
};
use dropsonde_store::{Frame, InstanceId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Instances per call: bounds what one call returns, and what is lost when it fails.
const BATCH: usize = 1000;

/// Instances one plugin may discover; [`Tracked`](crate::tracked::Tracked) bounds all of them together.
const MOST_DISCOVERED: usize = 100_000;

/// Needs a plugin may name; more is no list for an operator.
const MOST_NEEDS: usize = 256;

/// The wait before a plugin that could not start is tried again: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Why a plugin does not run.
enum Stop {
    /// Trying again cannot help.
    Failed(String),
    /// It may work another time.
    Retry(CallError),
}

/// Runs a plugin until `stopping` says so, or until it turns out that it can never work.
pub async fn run(
    core: Arc<Core>,
    sandbox: Arc<Sandbox>,
    component: Component,
    status: Shared,
    mut stopping: watch::Receiver<bool>,
) {
    let kept = core.config.kept_dir().map(|folder| StateFile::of(&component.name, &folder));
    let state = kept.as_ref().map(StateFile::load).unwrap_or_default();
    let keeper = Keeper { state, file: kept };
    tokio::select! {
        () = task(&core, &sandbox, &component, &status, &keeper) => {}
        _ = stopping.wait_for(|&stopping| stopping) => {}
    }
    // The poll that was cut off may have saved something.
    keeper.keep(&core, &status).await;
}

/// What a plugin saves, and where it is kept.
struct Keeper {
    state: SavedState,
    file: Option<StateFile>,
}

impl Keeper {
    /// Writes what was saved since the last time.
    async fn keep(&self, core: &Core, status: &Status) {
        let Some(file) = &self.file else { return };
        let Some(bytes) = self.state.take_change() else { return };
        let file = file.clone();
        let saved = tokio::task::spawn_blocking(move || file.save(&bytes)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(plugin = &*status.name, %error, "cannot keep what it saved");
            core.metrics.errors.with_label_values(&[&*status.name, "state"]).inc();
        }
    }
}

async fn task(core: &Arc<Core>, sandbox: &Arc<Sandbox>, component: &Component, status: &Shared, keeper: &Keeper) {
    let failed = |why: String| {
        tracing::error!(plugin = &*status.name, "not running: {why}");
        status.failed_because(core.clock.now_ms(), why, None);
        core.metrics.errors.with_label_values(&[&*status.name, "load"]).inc();
        status.enter(PluginState::Failed);
    };
    let plugin = match load(core, sandbox, component, status).await {
        Ok(plugin) => plugin,
        Err(why) => return failed(why),
    };
    let mut wait = BACKOFF.0;
    loop {
        let stop = match start(core, sandbox, &plugin, component, status, &keeper.state).await {
            Ok((worker, fields)) => {
                let mut poller = Poller::new(core, status, worker, fields, keeper);
                Stop::Failed(poller.poll_on_schedule().await)
            }
            Err(stop) => stop,
        };
        match stop {
            Stop::Failed(why) => return failed(why),
            Stop::Retry(error) => {
                tracing::warn!(
                    plugin = &*status.name,
                    "could not start, trying again in {wait:?}: {}",
                    plain(&error.to_string())
                );
                count(core, status, &error);
                status.failed(core.clock.now_ms(), &error);
                status.enter(PluginState::Backoff);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
    }
}

/// Reads and compiles, off the server's threads.
async fn load(core: &Core, sandbox: &Arc<Sandbox>, component: &Component, status: &Shared) -> Result<Plugin, String> {
    let started = Instant::now();
    let bytes = {
        let component = component.clone();
        tokio::task::spawn_blocking(move || component.bytes()).await
    };
    let bytes = bytes.map_err(|error| error.to_string())?.map_err(|error| format!("cannot read it: {error}"))?;
    status.enter(PluginState::Compiling);
    let sandbox = sandbox.clone();
    let plugin = tokio::task::spawn_blocking(move || sandbox.load(&bytes)).await;
    let took = started.elapsed();
    core.metrics.build_seconds.with_label_values(&[&*status.name]).observe(took.as_secs_f64());
    let plugin = plugin.map_err(|error| error.to_string())?.map_err(|refused| plain(&refused.to_string()))?;
    tracing::debug!(plugin = &*status.name, ?took, "compiled");
    status.update(|known| known.shape = Some(plugin.shape().clone()));
    status.enter(PluginState::Loading);
    Ok(plugin)
}

/// Asks what it needs, compares with what is granted, and makes the first instance.
async fn start(
    core: &Core,
    sandbox: &Arc<Sandbox>,
    plugin: &Plugin,
    component: &Component,
    status: &Shared,
    state: &SavedState,
) -> Result<(Worker, Option<Fields>), Stop> {
    let started = Instant::now();
    let mut setup = Setup {
        name: component.name.clone(),
        config: status.config.json(),
        grants: Grants::default(),
        limits: status.limits,
        state: state.clone(),
    };
    let introduction = introduce(sandbox, plugin.clone(), setup.clone()).await.map_err(Stop::Retry)?;
    let needs =
        introduction.needs.map_err(|why| Stop::Failed(format!("its configuration cannot work: {}", plain(&why))))?;
    if needs.len() > MOST_NEEDS {
        return Err(Stop::Failed(format!("it names {} needs; at most {MOST_NEEDS} are taken", needs.len())));
    }
    let grants = match (&status.config.grants, &component.origin) {
        (Some(grants), _) => Grants::new(&grants.read),
        // It came with the binary, and asks for what its own configuration makes it read.
        (None, Origin::Bundled) => Grants::new(needs.iter().filter_map(|need| match need {
            dropsonde_sandbox::Need::Read(glob) => Some(glob),
            _ => None,
        })),
        (None, Origin::File(_)) => Ok(Grants::default()),
    };
    setup.grants = grants.map_err(|bad| Stop::Failed(bad.to_string()))?;
    let missing = missing(&needs, &setup.grants);
    if !missing.is_empty() {
        tracing::warn!(
            plugin = &*status.name,
            "needs what it is not granted; if you trust it, add to the configuration:\n{}",
            grants_toml(&component.name, &needs)
        );
    }
    status.update(|known| {
        let Description { name, version, about } = introduction.description;
        known.description = Some(Description { name: plain(&name), version: plain(&version), about: plain(&about) });
        known.grants = setup.grants.clone();
        known.missing = missing;
    });
    let worker = Worker::start(sandbox, plugin.clone(), setup).await.map_err(|error| match error {
        CallError::Failed(Failure::Invalid(why)) => {
            Stop::Failed(format!("its configuration cannot work: {}", plain(&why)))
        }
        other => Stop::Retry(other),
    })?;
    let fields = plugin.has(Role::Sampler).then(|| Fields::check(&component.name, worker.fields())).transpose();
    let fields = fields.map_err(|bad| Stop::Failed(format!("its fields are not taken: {bad}")))?;
    core.metrics.cold_start_seconds.with_label_values(&[&*status.name]).observe(started.elapsed().as_secs_f64());
    status.update(|known| known.fields = fields.clone());
    status.enter(PluginState::Running);
    tracing::info!(plugin = &*status.name, "running");
    Ok((worker, fields))
}

/// A running plugin's polls.
struct Poller<'a> {
    core: &'a Core,
    status: &'a Shared,
    worker: Worker,
    /// None: it is no sampler, and has nothing to poll.
    fields: Option<Fields>,
    frames: HashMap<InstanceId, Arc<Frame>>,
    keeper: &'a Keeper,
    started: Instant,
    /// CPU time of the worker that was counted.
    accounted: Duration,
}

impl<'a> Poller<'a> {
    fn new(core: &'a Core, status: &'a Shared, worker: Worker, fields: Option<Fields>, keeper: &'a Keeper) -> Self {
        let (frames, started, accounted) = (HashMap::new(), Instant::now(), Duration::ZERO);
        Self { core, status, worker, fields, frames, keeper, started, accounted }
    }

    /// Ends only when the plugin says that its configuration cannot work.
    async fn poll_on_schedule(&mut self) -> String {
        let Some(fields) = self.fields.clone() else {
            return "this host polls samplers only so far, and it is none".to_owned();
        };
        let mut schedule = Schedule::new(&self.status.name, self.status.interval);
        let discover_interval =
            i64::try_from(self.core.config.poll.discover_interval.get().as_millis()).unwrap_or(i64::MAX);
        let mut discover_at = i64::MIN;
        loop {
            let now_ms = self.core.clock.now_ms();
            let (due_ms, missed) = schedule.next(now_ms);
            self.core.metrics.plugin_polls_missed.with_label_values(&[&*self.status.name]).inc_by(missed);
            self.status.update(|known| {
                known.next_poll_ms = Some(due_ms);
                known.polls_missed += missed;
            });
            tokio::time::sleep(Duration::from_millis(u64::try_from(due_ms - now_ms).unwrap_or(0))).await;
            let polled = async {
                // A clock that was set back must not put discovery off for as long.
                if due_ms >= discover_at || discover_at - due_ms > discover_interval {
                    discover_at = due_ms.saturating_add(discover_interval);
                    self.discover(due_ms).await?;
                }
                self.sample(due_ms, &fields).await
            };
            let invalid = polled.await.err();
            self.keeper.keep(self.core, self.status).await;
            self.account();
            if let Some(why) = invalid {
                return format!("its configuration cannot work: {}", plain(&why));
            }
        }
    }

    /// Errors are the plugin's word that its configuration cannot work; everything else is counted and passes.
    async fn discover(&mut self, at_ms: i64) -> Result<(), String> {
        let found = match self.worker.discover(self.tick(at_ms)).await {
            Ok(found) => found,
            Err(error) => return self.report(error),
        };
        let over = found.len().saturating_sub(MOST_DISCOVERED);
        let mut refused = over as u64;
        let mut instances = Vec::new();
        for instance in found.into_iter().take(MOST_DISCOVERED) {
            match InstanceId::new(&instance.id) {
                Ok(id) => instances.push((id, labels::cleaned(instance.labels))),
                Err(why) => {
                    refused += 1;
                    self.status.failed_because(at_ms, format!("an instance it discovered is refused: {why}"), None);
                }
            }
        }
        let discovered = self.core.tracked.discovered(&self.status.name, instances, at_ms);
        refused += discovered.refused;
        for id in &discovered.forgotten {
            self.core.forget(id);
        }
        self.core.metrics.errors.with_label_values(&[&*self.status.name, "instances_refused"]).inc_by(refused);
        Ok(())
    }

    async fn sample(&mut self, at_ms: i64, fields: &Fields) -> Result<(), String> {
        let instances = self.core.tracked.polled_by(&self.status.name);
        self.status.update(|known| known.instances = instances.len());
        // What is no longer polled may be forgotten, and begin again with another frame.
        self.frames.retain(|id, _| instances.binary_search(id).is_ok());
        for batch in instances.chunks(BATCH) {
            let asked: Vec<String> = batch.iter().map(ToString::to_string).collect();
            let called = Instant::now();
            let readings = self.worker.sample(self.tick(at_ms), asked).await;
            let took = called.elapsed();
            self.status.called(took);
            self.core.metrics.plugin_call_seconds.with_label_values(&[&*self.status.name]).observe(took.as_secs_f64());
            match readings {
                Ok(readings) => self.record(at_ms, batch, fields, readings),
                Err(error) => self.report(error)?,
            }
        }
        Ok(())
    }

    /// Each row once: to the store, then to the hub.
    fn record(&mut self, at_ms: i64, instances: &[InstanceId], fields: &Fields, readings: Readings) {
        let columns = fields.metrics.len();
        let failures: HashMap<usize, Failure> =
            readings.failures.into_iter().map(|(row, failure)| (row as usize, failure)).collect();
        let rows = readings.values.chunks_exact(columns.max(1));
        for (row, (id, values)) in instances.iter().zip(rows).enumerate() {
            match failures.get(&row) {
                Some(Failure::Gone) => {
                    self.core.tracked.gone(&self.status.name, id, at_ms);
                    // Should it begin again, its history may be another.
                    self.frames.remove(id);
                    continue;
                }
                Some(failure) => {
                    let error = CallError::Failed(failure.clone());
                    self.core.metrics.errors.with_label_values(&[&*self.status.name, error.reason()]).inc();
                    self.status.failed_because(at_ms, format!("{id}: {failure}"), None);
                    continue;
                }
                None => {}
            }
            if values.iter().all(|value| !value.is_finite()) {
                continue;
            }
            let offset = i64::from(readings.offsets_ms.get(row).copied().unwrap_or(0));
            // Read before the last tick, or after this call can have ended: not this tick's.
            let earliest = -self.interval_ms();
            let latest = i64::try_from(self.status.limits.deadline.as_millis()).unwrap_or(i64::MAX);
            if !(earliest..=latest).contains(&offset) {
                self.core.metrics.samples_dropped.with_label_values(&["offset"]).inc();
                continue;
            }
            let replaced = self.frame(id, fields).push(at_ms.saturating_add(offset), values);
            self.core.metrics.samples_dropped.with_label_values(&["clock"]).inc_by(replaced as u64);
            if let Some(sample) = self.core.store.latest(id).filter(|sample| !sample.values.is_empty()) {
                self.core.hub.publish(id, &sample);
            }
        }
    }

    fn frame(&mut self, id: &InstanceId, fields: &Fields) -> &Frame {
        let interval_ms = self.interval_ms();
        self.frames.entry(id.clone()).or_insert_with(|| self.core.store.frame(id, &fields.schema, interval_ms))
    }

    fn interval_ms(&self) -> i64 {
        i64::try_from(self.status.interval.as_millis()).unwrap_or(i64::MAX)
    }

    fn tick(&self, at_ms: i64) -> Tick {
        Tick {
            at_ms: u64::try_from(at_ms).unwrap_or(0),
            monotonic_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            budget_ms: u32::try_from(self.status.limits.cpu.as_millis()).unwrap_or(u32::MAX),
            interval: self.status.interval,
        }
    }

    fn report(&self, error: CallError) -> Result<(), String> {
        count(self.core, self.status, &error);
        self.status.failed(self.core.clock.now_ms(), &error);
        if let CallError::Failed(Failure::Invalid(why)) = error {
            return Err(why);
        }
        tracing::warn!(plugin = &*self.status.name, "a poll failed: {}", plain(&error.to_string()));
        Ok(())
    }

    fn account(&mut self) {
        let stats = self.worker.stats();
        let name = [&*self.status.name];
        let cpu = stats.cpu();
        let since = cpu.saturating_sub(self.accounted);
        self.accounted = cpu;
        self.core.metrics.plugin_cpu_seconds.with_label_values(&name).inc_by(since.as_secs_f64());
        let memory = i64::try_from(stats.memory()).unwrap_or(i64::MAX);
        self.core.metrics.plugin_memory_bytes.with_label_values(&name).set(memory);
        self.status.update(|known| {
            known.memory_bytes = stats.memory();
            known.cpu = cpu;
            known.workers_spawned = stats.instances();
            known.log_lines_dropped = stats.log_lines_dropped();
        });
    }
}

fn count(core: &Core, status: &Shared, error: &CallError) {
    core.metrics.errors.with_label_values(&[&*status.name, error.reason()]).inc();
    if !matches!(error, CallError::Failed(_) | CallError::Stopped) {
        core.metrics.panics.with_label_values(&[&*status.name]).inc();
    }
}
