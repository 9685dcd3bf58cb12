//! One plugin's task: load, start, have it polled until the host stops; begin again when that ends.

use super::batches::Batches;
use super::ladder::{Ladder, Next, Went, backoff};
use super::poll::{Ended, Poller, Standing};
use super::state_file::StateFile;
use super::status::{Order, Shared};
use super::{Component, Fields, Origin, PluginState, Status, grants_toml, missing, plain};
use crate::core::Core;
use dropsonde_sandbox::{CallError, Description, Grants, Plugin, Role, Sandbox, SavedState, Setup, Worker, introduce};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Needs a plugin may name; more is no list for an operator.
const MOST_NEEDS: usize = 256;

/// Why a plugin does not run.
enum Stop {
    /// Trying again cannot help.
    Failed(String),
    /// It may work another time. Whether some calls came back before.
    Retry(CallError, bool),
    /// Until someone says that it may run again.
    Quarantined(String),
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
pub(super) struct Keeper {
    state: SavedState,
    file: Option<StateFile>,
}

impl Keeper {
    /// Writes what was saved since the last time.
    pub(super) async fn keep(&self, core: &Core, status: &Status) {
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
    let ladder = Ladder::new(status.config.failures(), status.config.failure_window());
    let mut standing = Standing { ladder, batches: Batches::default() };
    // Starts that were neither good nor bad: it said that something is missing.
    let mut refusals = 0;
    loop {
        let stop = tokio::select! {
            stop = start_and_poll(core, sandbox, &plugin, component, status, keeper, &mut standing) => stop,
            why = told_to_stop(status) => Stop::Quarantined(why),
        };
        let quarantined = match stop {
            Stop::Failed(why) => return failed(why),
            Stop::Quarantined(why) => Some(why),
            Stop::Retry(error, came_back) => {
                count(core, status, &error);
                status.failed(core.clock.now_ms(), &error);
                refusals = if error.is_end() { 0 } else { refusals + 1 };
                let went = Went { came_back, ended_badly: usize::from(error.is_end()), ..Went::default() };
                match standing.ladder.after(went, Instant::now()) {
                    Next::Quarantine(why) => Some(why),
                    Next::Wait(wait) => back_off(status, &error, wait).await,
                    Next::GoOn => back_off(status, &error, backoff(refusals.max(1))).await,
                }
            }
        };
        if let Some(why) = quarantined {
            quarantine(core, status, why).await;
            standing.ladder.reset();
            standing.batches = Batches::default();
        }
        status.enter(PluginState::Loading);
    }
}

/// Waits until an operator wants it to run no more, and tells why it does not then.
async fn told_to_stop(status: &Status) -> String {
    status.ordered(Order::Quarantine).await;
    "an operator said so".to_owned()
}

/// Waits before the next start, unless an operator is faster; why it is to be quarantined instead, if it is.
async fn back_off(status: &Status, error: &CallError, wait: Duration) -> Option<String> {
    let why = plain(&error.to_string());
    tracing::warn!(plugin = &*status.name, "could not start, trying again in {wait:.1?}: {why}");
    status.forget(Order::Release);
    status.enter(PluginState::Backoff);
    tokio::select! {
        () = tokio::time::sleep(wait) => None,
        () = status.ordered(Order::Release) => None,
        why = told_to_stop(status) => Some(why),
    }
}

/// Waits until someone lifts it.
async fn quarantine(core: &Core, status: &Shared, why: String) {
    let name = &*status.name;
    tracing::error!(plugin = name, "in quarantine: {why}; `dropsonde plugin release {name}` lets it run again");
    core.metrics.errors.with_label_values(&[name, "quarantine"]).inc();
    status.update(|known| {
        known.quarantined = Some(why);
        known.next_poll_ms = None;
        known.set_aside.clear();
    });
    status.forget(Order::Quarantine);
    status.enter(PluginState::Quarantined);
    status.ordered(Order::Release).await;
    status.update(|known| known.quarantined = None);
    tracing::info!(plugin = name, "released");
}

async fn start_and_poll(
    core: &Core,
    sandbox: &Arc<Sandbox>,
    plugin: &Plugin,
    component: &Component,
    status: &Shared,
    keeper: &Keeper,
    standing: &mut Standing,
) -> Stop {
    let (worker, fields) = match start(core, sandbox, plugin, component, status, &keeper.state).await {
        Ok(started) => started,
        Err(stop) => return stop,
    };
    match Poller::new(core, status, worker, fields, keeper, standing).poll_on_schedule().await {
        Ended::Invalid(why) => Stop::Failed(format!("its configuration cannot work: {}", plain(&why))),
        Ended::Quarantined(why) => Stop::Quarantined(why),
        Ended::Lost(error, came_back) => Stop::Retry(error, came_back),
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
    let introduction =
        introduce(sandbox, plugin.clone(), setup.clone()).await.map_err(|error| Stop::Retry(error, false))?;
    let needs =
        introduction.needs.map_err(|why| Stop::Failed(format!("its configuration cannot work: {}", plain(&why))))?;
    if needs.len() > MOST_NEEDS {
        return Err(Stop::Failed(format!("it names {} needs; at most {MOST_NEEDS} are taken", needs.len())));
    }
    let grants = match (&status.config.grants, &component.origin) {
        (Some(grants), _) => Grants::new(grants.needs()),
        // It came with the binary, and asks for what its own configuration makes it need.
        (None, Origin::Bundled) => Grants::new(needs.iter().cloned()),
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
    let worker = Worker::start(sandbox, plugin.clone(), setup).await.map_err(|error| match error.invalid() {
        Some(why) => Stop::Failed(format!("its configuration cannot work: {}", plain(why))),
        None => Stop::Retry(error, false),
    })?;
    let fields = plugin.has(Role::Sampler).then(|| Fields::check(&component.name, worker.fields())).transpose();
    let fields = fields.map_err(|bad| Stop::Failed(format!("its fields are not taken: {bad}")))?;
    status.set_worker(Some(worker.stats().clone()));
    core.metrics.cold_start_seconds.with_label_values(&[&*status.name]).observe(started.elapsed().as_secs_f64());
    status.update(|known| known.fields = fields.clone());
    status.enter(PluginState::Running);
    tracing::info!(plugin = &*status.name, "running");
    Ok((worker, fields))
}

/// In the metrics, by what it was.
pub(super) fn count(core: &Core, status: &Shared, error: &CallError) {
    core.metrics.errors.with_label_values(&[&*status.name, error.reason()]).inc();
    if error.is_end() {
        core.metrics.panics.with_label_values(&[&*status.name]).inc();
    }
}
