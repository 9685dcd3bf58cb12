//! Starts the engine and stops it.

use crate::address_space::AddressSpace;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::disk_errors::{is_denied, is_unwritable};
use crate::health::TaskGuard;
use crate::history::{FlushHooks, Flusher};
use crate::hub::{self, Hub};
use crate::metrics::HostMetrics;
use crate::native::Native;
use crate::plugins::{Plugins, Supervisor, start_natives};
use crate::rules::{self, Rules};
use crate::snapshot::{self, Snapshots};
use crate::timeline::Timeline;
use crate::tracked::TrackedInstances;
use crate::{Engine, Options, memory, series, shares};
use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use dropsonde_sandbox::Sandbox;
use dropsonde_store::{
    InstanceId, Keeper, KeeperStep, OpenError, OpenedFolder, Pool, RestoreReport, Store, StoreLimits, WriteFailure,
};
use humantime::format_duration;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The interval at which the times of streamed events are written down. After a crash, readers ask history for up to
/// this much more than they missed.
const STREAMS_NOTED: Duration = Duration::from_secs(60);

/// The interval at which free memory is returned to the kernel. The allocator keeps gaps where many pieces came and
/// went.
const MEMORY_GIVEN_BACK: Duration = Duration::from_secs(60);

/// The longest time for writing the last samples when the host stops.
const CLOSE: Duration = Duration::from_secs(5);

/// The most queued requests about plugins; further callers wait.
const REQUESTS: usize = 16;

/// The folder of history in the data directory.
pub const HISTORY: &str = "history";

/// A running engine.
#[derive(Debug)]
pub struct RunningEngine {
    engine: Arc<Engine>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    keeping: Flusher,
}

/// The parts of an engine that its options do not describe.
pub struct EngineParts {
    pub clock: Clock,
    pub metrics: HostMetrics,
    /// The samplers and sources of the program itself.
    pub natives: Vec<Native>,
    pub sandbox: Arc<Sandbox>,
    /// Whether the engine runs plugins at all.
    pub has_plugins: bool,
}

impl RunningEngine {
    /// Opens history, finds the plugins and starts them.
    pub fn start(options: Options, parts: EngineParts) -> Result<Self> {
        let EngineParts { clock, metrics, natives, sandbox, has_plugins } = parts;
        let folder = options.plugins_dir.clone();
        let (store, keeper, without_history) = history(&options, clock.now_ms())?;
        let (wanted, requests) = mpsc::channel(REQUESTS);
        let engine = Arc::new(Engine::new(options, clock, metrics, store, Plugins::new(wanted))?);
        if let Some(why) = without_history {
            engine.vitals.lose_history(why);
        }
        let (stopping, stopped) = watch::channel(false);
        let mut supervisor = if has_plugins {
            Supervisor::find(engine.clone(), sandbox, folder)?
        } else {
            Supervisor::of_none(engine.clone(), sandbox)
        };
        let names: Vec<&str> = supervisor.names().into_iter().chain(natives.iter().map(Native::name)).collect();
        engine.tracked.restore(&engine.store, &names, engine.clock.now_ms());
        // The options may have changed since the last run.
        engine.revoke_shares();
        engine.hub.restore(&engine.store);
        // So the next start gets another number even if this process is killed at once.
        engine.hub.note(&engine.store);
        let natives = start_natives(&engine, natives, &stopped)?;
        let interval = engine.options.load().store.flush_interval.get();
        let around = HistoryHooks {
            engine: engine.clone(),
            streams_noted: Instant::now(),
            memory_given_back: Instant::now(),
            failing: engine.store.archive().failing,
            greedy: shares::GreedyLog::default(),
            began_ms: i64::MIN,
            _pulse: engine.vitals.pulse("history"),
        };
        let keeping = Flusher::start(keeper, interval, around).context("cannot start a thread")?;
        let _ = engine.bell.set(Arc::downgrade(&keeping.bell()));
        let mut tasks = JoinSet::new();
        natives.into_iter().for_each(|native| drop(tasks.spawn(native)));
        supervisor.start();
        let vitals = &engine.vitals;
        tasks.spawn(alive(vitals.pulse("plugins"), supervisor.supervise(requests, stopped.clone())));
        tasks.spawn(alive(vitals.pulse("snapshot"), snapshot::record_in_history(engine.clone(), stopped.clone())));
        tasks.spawn(alive(vitals.pulse("metrics_history"), series::record_in_history(engine.clone(), stopped.clone())));
        tasks.spawn(alive(vitals.pulse("rules"), rules::supervise(engine.clone(), stopped.clone())));
        tasks.spawn(alive(vitals.pulse("housekeeping"), housekeeping(engine.clone(), stopped)));
        Ok(Self { engine, stopping, tasks, keeping })
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Returns a receiver that turns true when the engine stops, for tasks that stop with it.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Ends all streams, and lets no further poll begin.
    pub fn drain(&self) {
        self.engine.vitals.drain();
        self.stopping.send_replace(true);
        self.engine.hub.close_all();
    }

    /// Stops the engine and waits until its tasks have ended. Returns false if the last samples should be on disk and
    /// are not.
    pub async fn stop(mut self) -> bool {
        self.drain();
        while self.tasks.join_next().await.is_some() {}
        let Self { engine, keeping, .. } = self;
        let written = tokio::task::spawn_blocking(move || {
            let is_kept = keeping.stop(CLOSE) && engine.vitals.without_history().is_none();
            if !engine.audit.close(CLOSE) {
                tracing::error!("the last lines of the audit log could not be written");
            }
            is_kept
        });
        written.await.unwrap_or_default()
    }
}

impl Engine {
    pub(crate) fn new(
        options: Options,
        clock: Clock,
        metrics: HostMetrics,
        store: Store,
        plugins: Plugins,
    ) -> Result<Self> {
        metrics.start_time_seconds.set(clock.now_ms() as f64 / 1000.0);
        let poll = &options.poll;
        let tracked =
            TrackedInstances::new(poll.default_samplers.clone(), options.labels.clone(), poll.max_instances());
        for instance in &options.instances {
            let id = InstanceId::new(&instance.id)?;
            tracked.configure(&id, instance.labels.clone(), instance.samplers.clone())?;
        }
        let rules = Rules::open(options.data_dir.as_deref(), clock.now_ms());
        let audit = Audit::open(options.data_dir.as_deref(), metrics.audit_entries_dropped.clone());
        let boot = hub::next_boot(&store, clock.now_ms());
        let timeline = Timeline::resume(clock.clone(), &store, &metrics);
        let (memory, lost) = (memory::available(), metrics.samples_dropped.with_label_values(&["slow_reader"]));
        let stream = &options.stream;
        let hub = Hub::new(boot, clock.now_ms(), stream.watch_buffer, stream.streams(), lost);
        hub.allow_bytes(stream.buffer_bytes(memory));
        Ok(Self {
            timeline,
            snapshots: Snapshots::new(clock.now_ms()),
            fresh: Default::default(),
            vitals: Arc::default(),
            bell: OnceLock::new(),
            front: OnceLock::new(),
            opened: Default::default(),
            exposed: Pool::halved(options.metrics.size()),
            exposed_own: Pool::halved(options.metrics.size()),
            exposition: Default::default(),
            fields: Default::default(),
            rules,
            remotes: Default::default(),
            long_history: Default::default(),
            horizon: Default::default(),
            workloads: Default::default(),
            rooms: AddressSpace::of_process(),
            memory,
            audit: audit?,
            store,
            tracked,
            hub,
            plugins,
            metrics,
            clock,
            options: ArcSwap::from_pointee(options),
        })
    }
}

/// The surroundings of the history thread.
struct HistoryHooks {
    engine: Arc<Engine>,
    streams_noted: Instant,
    memory_given_back: Instant,
    /// The reason why the last step could not write history; `None` if it could.
    failing: Option<WriteFailure>,
    greedy: shares::GreedyLog,
    /// When the last step began.
    began_ms: i64,
    _pulse: TaskGuard,
}

/// Runs a task to its end, and holds the pulse that shows that the task is alive.
async fn alive(pulse: TaskGuard, work: impl Future<Output = ()>) {
    work.await;
    drop(pulse);
}

impl FlushHooks for HistoryHooks {
    fn now_ms(&mut self) -> i64 {
        self.engine.tracked.note_changes(&self.engine.store);
        self.engine.fields.drop_stale(&self.engine);
        self.engine.timeline.look(&self.engine.store, &self.engine.metrics);
        if self.streams_noted.elapsed() > STREAMS_NOTED || self.engine.vitals.is_draining() {
            self.streams_noted = Instant::now();
            self.engine.hub.note(&self.engine.store);
        }
        self.began_ms = self.engine.clock.now_ms();
        self.began_ms
    }

    fn stepped(&mut self, _: KeeperStep, took: Duration) {
        self.engine.metrics.core.took("history", "flush", took);
        if let Some(OpenedFolder { notes, restored }) = self.engine.store.take_opened() {
            self.engine.adopt(notes);
            self.engine.opened.notify_one();
            self.engine.plugins.restart_all();
            if let Some(data) = &self.engine.options.load().data_dir {
                log_restored(&data.join(HISTORY), &restored);
            }
        }
        let failing = self.engine.store.archive().failing;
        if failing.is_none() {
            self.engine.horizon.flushed(self.began_ms);
        }
        match (&self.failing, &failing) {
            (None, Some(why)) => {
                tracing::error!(
                    error = %why.error,
                    "cannot write history to disk; keeping it in memory until the disk works again"
                );
            }
            (Some(_), None) => tracing::info!("the disk works again; writing history to it"),
            _ => {}
        }
        self.failing = failing;
        self.greedy.look(&self.engine);
        if self.memory_given_back.elapsed() > MEMORY_GIVEN_BACK {
            memory::trim();
            self.memory_given_back = Instant::now();
        }
    }
}

/// Warns of polling intervals whose history in memory is shorter than `store.retention`.
fn warn_of_short_history(options: &Options) {
    for (interval, reach) in options.intervals().into_iter().filter_map(|one| Some((one, options.store.cut(one)?))) {
        let [interval, reach, retention] = [interval, reach, options.store.retention.get()].map(format_duration);
        tracing::warn!(
            %interval, %reach, %retention,
            "history in memory is shorter than store.retention; raise store.retention_samples, or keep history on disk"
        );
    }
}

/// Opens history on disk and logs what was restored. Where the disk has no history and none can be created, returns
/// history in memory and the reason.
fn history(options: &Options, now_ms: i64) -> Result<(Store, Keeper, Option<String>)> {
    let limits = StoreLimits {
        samples: options.store.retention_samples,
        age_ms: options.store.retention.as_ms(),
        disk: options.store.max_disk.get() as u64,
        block_cache: options.store.block_cache.get() as u64,
        memory: options.store.memory(),
        series: options.store.max_series,
    };
    let Some(data) = &options.data_dir else {
        warn_of_short_history(options);
        let store = Store::in_memory(&limits);
        return Ok((store.clone(), Keeper::in_memory(store, &limits), None));
    };
    let folder = data.join(HISTORY);
    let opened = Store::open(&folder, &limits);
    if let Err(OpenError::Io(error)) = &opened
        && is_unwritable(error)
    {
        let why = format!("cannot make {}: {error}", folder.display());
        tracing::error!("history is in memory alone until a restart: {why}");
        warn_of_short_history(options);
        let store = Store::in_memory(&limits);
        return Ok((store.clone(), Keeper::in_memory(store, &limits), Some(why)));
    }
    if let Err(OpenError::Io(error)) = &opened
        && is_denied(error)
    {
        let error = io::Error::new(error.kind(), format!("cannot read {}: {error}", folder.display()));
        tracing::error!(%error, "history is in memory alone until it can be read");
        let (store, keeper) = Store::open_later(&folder, &limits, &error, now_ms);
        return Ok((store, keeper, None));
    }
    let (store, keeper, restored) = opened.map_err(|error| match error {
        OpenError::InUse => anyhow::anyhow!(
            "{} is in use by another host; choose another folder with --data, or use --memory-only",
            folder.display()
        ),
        OpenError::Io(error) => anyhow::Error::from(error)
            .context(format!("cannot read history in {}; choose another folder with --data", folder.display())),
    })?;
    // What a later version wrote cannot be read here, and what would be written now could not be read beside it.
    if let Some(first) = restored.newer.first() {
        anyhow::bail!(
            "a later version of Dropsonde wrote history in {} ({first}{}): start that version again, or choose another \
             folder with --data",
            folder.display(),
            match restored.newer.len() {
                1 => String::new(),
                more => format!(" and {} more files", more - 1),
            }
        );
    }
    log_restored(&folder, &restored);
    Ok((store, keeper, None))
}

fn log_restored(folder: &Path, restored: &RestoreReport) {
    for name in &restored.newer {
        tracing::warn!(folder = %folder.display(), name, "ignoring a history file that a later version wrote");
    }
    for (name, why) in &restored.unreadable {
        tracing::error!(folder = %folder.display(), name, error = %why, "ignoring a history file that cannot be read");
    }
    if restored.damaged > 0 {
        tracing::warn!(
            folder = %folder.display(),
            places = restored.damaged,
            "history is damaged; its intact parts are available; run `dropsonde store verify` for details"
        );
    }
    tracing::debug!(frames = restored.frames, logged_rows = restored.logged_rows, "history is open");
}

/// Forgets instances that ended longer ago than history reaches back.
async fn housekeeping(engine: Arc<Engine>, mut stopping: watch::Receiver<bool>) {
    loop {
        let wait = engine.options.load().poll.discover_interval.get();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        let kept_ms = engine.options.load().store.retention.as_ms();
        // The wall clock alone may just have jumped ahead.
        let Some(trusted_ms) = engine.store.trusted_ms() else { continue };
        engine.forget_ended_before(trusted_ms.min(engine.clock.now_ms()).saturating_sub(kept_ms));
    }
}
