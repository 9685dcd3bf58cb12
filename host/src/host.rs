//! Starts and stops everything.

use crate::audit::Audit;
pub use crate::builder::HostBuilder;
use crate::cli;
use crate::clock::Clock;
use crate::config::{self, Config, Listen};
use crate::core::Core;
use crate::exposition::Exposition;
use crate::health::Pulse;
use crate::history::{Keeping, Surroundings};
use crate::http::{Listener, Server, Tls};
use crate::hub::{self, Hub};
use crate::memory;
use crate::metrics::HostMetrics;
use crate::native::{self, Native};
use crate::plugins::{Component, Plugins, Supervisor, TrialFailed, Tried, try_component};
use crate::reload::{self, Reload, Reloads, read_tokens_again};
use crate::room::Rooms;
use crate::service::{Service, Subscription};
use crate::shares;
use crate::snapshot::{self, Snapshots};
use crate::timeline::Timeline;
use crate::tokens::Tokens;
use crate::tracked::{Lifecycle, Tracked};
use crate::unwritable::{is_denied, is_unwritable};
use crate::writers::{Patience, Writers};
use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use dropsonde_sandbox::{CacheFolder, Sandbox};
use dropsonde_store::{Failing, InstanceId, Keeper, Limits, OpenError, Opened, Pool, Restored, Step, Store};
use futures_core::Stream;
use humantime::format_duration;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

/// Stays the one that runs, also when its file was replaced.
pub(crate) const OWN_BINARY: &str = "/proc/self/exe";

/// How often what times streams are of is noted: after a crash readers ask for as much too much.
const STREAMS_NOTED: Duration = Duration::from_secs(60);

/// How often free memory is given back to the kernel: the allocator keeps holes where many pieces came and went.
const MEMORY_GIVEN_BACK: Duration = Duration::from_secs(60);

/// Longest time open requests have to end.
const DRAIN: Duration = Duration::from_secs(3);

/// Longest time the last samples have to be written.
const CLOSE: Duration = Duration::from_secs(5);

/// What came of a stop that is not as it should be.
pub(crate) const NOT_WRITTEN: &str = "the last samples could not be written; what was not on disk is lost";

/// What may be wanted of plugins at a time; who comes later waits.
const REQUESTS: usize = 16;

/// In the data directory.
pub(crate) const HISTORY: &str = "history";

/// Compiles a plugin, if this process was started for that: the host starts its own binary so. A program that embeds the host
/// asks this first of all, and ends with what it says.
pub fn compile_if_told() -> Option<ExitCode> {
    let is_told = std::env::args_os().nth(1).is_some_and(|argument| argument == cli::COMPILE);
    is_told.then(dropsonde_sandbox::compile_as_child)
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    core: Arc<Core>,
    address: Listen,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    server: Arc<Server>,
    /// One task; it ends with this.
    serving: JoinSet<()>,
    keeping: Keeping,
    writers: Writers,
    /// Held while another configuration takes over.
    reloading: Mutex<()>,
}

impl Host {
    /// One that is to be started.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    pub(crate) async fn start(
        config: Config,
        clock: Clock,
        metrics: HostMetrics,
        natives: Vec<Native>,
        has_plugins: bool,
    ) -> Result<Self> {
        if std::env::var_os(dropsonde_sandbox::COMPILING).is_some() {
            bail!(
                "this process was started to compile a plugin: its main is to begin with dropsonde::host::compile_if_told()"
            );
        }
        let tls = Tls::read(&config.tls)?;
        let listener = Listener::bind(&config.listen, config.http.socket_mode)?;
        let address = listener.address().context("the listening socket has no address")?;
        let folder = prepare_folders(&config)?;
        let most = config.compile_cache.get() as u64;
        let compiled = config.kept_dir().map(|kept| CacheFolder { path: kept.join("compiled"), most });
        let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, cli::COMPILE, compiled));
        let (store, keeper, without_history) = history(&config, clock.now_ms())?;
        let (wanted, requests) = mpsc::channel(REQUESTS);
        let core = Arc::new(core(config, clock, metrics, store, Plugins::new(wanted))?);
        if let Some(why) = without_history {
            core.vitals.lose_history(why);
        }
        let (stopping, stopped) = watch::channel(false);
        let mut supervisor = if has_plugins {
            Supervisor::find(core.clone(), sandbox, folder)?
        } else {
            Supervisor::of_none(core.clone(), sandbox)
        };
        let names: Vec<&str> = supervisor.names().into_iter().chain(natives.iter().map(Native::name)).collect();
        core.tracked.restore(&core.store, &names, core.clock.now_ms());
        // The configuration may have been another then.
        core.revoke_shares();
        core.hub.restore(&core.store);
        // Should it be killed at once, the next start has a number of its own all the same.
        core.hub.note(&core.store);
        let natives = native::start(&core, natives, &stopped)?;
        let config::Stream { heartbeat, stalled, .. } = core.config.load().stream;
        let patience = Patience { heartbeat: heartbeat.get(), stalled: stalled.get() };
        let writers =
            Writers::start(&core.hub, patience, &core.vitals).context("cannot start the writers of streams")?;
        let interval = core.config.load().store.flush_interval.get();
        let around = Around {
            core: core.clone(),
            streams_noted: Instant::now(),
            memory_given_back: Instant::now(),
            failing: core.store.archive().failing,
            greedy: shares::Log::default(),
            _pulse: core.vitals.pulse("history"),
        };
        let keeping = Keeping::start(keeper, interval, around).context("cannot start a thread")?;
        let _ = core.bell.set(Arc::downgrade(&keeping.bell()));
        let mut tasks = JoinSet::new();
        natives.into_iter().for_each(|native| drop(tasks.spawn(native)));
        supervisor.start();
        let vitals = &core.vitals;
        tasks.spawn(alive(vitals.pulse("plugins"), supervisor.supervise(requests, stopped.clone())));
        tasks.spawn(alive(vitals.pulse("snapshot"), snapshot::keep(core.clone(), stopped.clone())));
        tasks.spawn(alive(vitals.pulse("housekeeping"), housekeeping(core.clone(), stopped.clone())));
        let server = Server::new(core.clone(), tls);
        let mut serving = JoinSet::new();
        serving.spawn(server.clone().serve(listener, stopped, DRAIN));
        core.vitals.serve();
        Ok(Self { core, address, stopping, tasks, server, serving, keeping, writers, reloading: Mutex::default() })
    }

    /// Where it serves; tells the port when the configuration left it open.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// The same as a URL, or as `unix:PATH`.
    pub fn url(&self) -> String {
        let is_secure = self.core.config.load().tls.files().is_some();
        match &self.address {
            Listen::Tcp(address) => format!("{}://{address}", if is_secure { "https" } else { "http" }),
            unix @ Listen::Unix(_) => unix.to_string(),
        }
    }

    /// Has another configuration in force, and certificates and tokens as their files are now. What takes a restart stays as
    /// it is; when something does not work, everything does.
    pub async fn reload(&self, config: Config) -> Reload {
        self.reload_from(None, Ok(config)).await
    }

    /// The same from a file, which may be one that cannot be read.
    pub(crate) async fn reload_from(&self, file: Option<&Path>, said: Result<Config>) -> Reload {
        let _one = self.reloading.lock().await;
        reload::reload(&self.core, &self.server, file, said).await
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// What a program does with its samples.
    pub fn service(&self) -> Arc<dyn Service> {
        self.core.clone()
    }

    /// Has instances follow a platform's events, until the subscription is dropped or the stream is over.
    pub fn attach_to_events(&self, events: impl Stream<Item = Lifecycle> + Send + 'static) -> Subscription {
        Subscription::attach(self.core.clone(), events)
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Waits until the server ends without having been told to, which only a bug can make it do.
    pub async fn server_ended(&mut self) {
        self.serving.join_next().await;
    }

    /// Ends streams, lets open requests finish for a bounded time, stops polling. Returns whether the last samples were
    /// written, where they are to be.
    pub async fn stop(mut self) -> bool {
        self.core.vitals.drain();
        self.stopping.send_replace(true);
        self.core.hub.close_all();
        if let Some(Err(_)) = self.serving.join_next().await {
            tracing::error!("the server ended abruptly");
        }
        while self.tasks.join_next().await.is_some() {}
        let (core, writers, keeping) = (self.core, self.writers, self.keeping);
        let written = tokio::task::spawn_blocking(move || {
            writers.stop();
            let is_kept = keeping.stop(CLOSE) && core.vitals.without_history().is_none();
            if !core.audit.close(CLOSE) {
                tracing::error!("the last lines of the audit log could not be written");
            }
            is_kept
        });
        let is_written = written.await.unwrap_or_default();
        if !is_written {
            tracing::error!("{NOT_WRITTEN}");
        }
        is_written
    }
}

/// Tries plugins by a configuration, as a start would, and keeps nothing of it. Returns what came of each, by name.
pub(crate) async fn try_plugins(
    config: &Config,
    found: Vec<Component>,
) -> Result<Vec<(String, Result<Tried, TrialFailed>)>> {
    // Nothing is written, and there are no tokens to be made.
    let store = config::StoreConfig { memory_only: true, ..config.store.clone() };
    let apart = Config { store, auth: Default::default(), ..config.clone() };
    let (wanted, _) = mpsc::channel(1);
    let kept = Store::in_memory(&Limits::default());
    let core = core(apart, Clock::system(), HostMetrics::new()?, kept, Plugins::new(wanted))?;
    let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, cli::COMPILE, None));
    let mut tried = Vec::new();
    for component in found {
        let name = component.name.clone();
        tried.push((name, try_component(&core, &sandbox, component, config).await));
    }
    Ok(tried)
}

/// What the thread that keeps history needs.
struct Around {
    core: Arc<Core>,
    streams_noted: Instant,
    memory_given_back: Instant,
    /// Why nothing was written in the last step.
    failing: Option<Failing>,
    greedy: shares::Log,
    _pulse: Pulse,
}

/// Works until it ends, and shows that it lives until then.
async fn alive(pulse: Pulse, work: impl Future<Output = ()>) {
    work.await;
    drop(pulse);
}

impl Surroundings for Around {
    fn now_ms(&mut self) -> i64 {
        self.core.tracked.note_changes(&self.core.store);
        self.core.timeline.look(&self.core.store, &self.core.metrics);
        if self.streams_noted.elapsed() > STREAMS_NOTED || self.core.vitals.is_draining() {
            self.streams_noted = Instant::now();
            self.core.hub.note(&self.core.store);
        }
        self.core.clock.now_ms()
    }

    fn stepped(&mut self, _: Step, took: Duration) {
        self.core.metrics.core.took("history", "flush", took);
        if let Some(Opened { notes, restored }) = self.core.store.take_opened() {
            self.core.adopt(notes);
            read_tokens_again(&self.core);
            self.core.plugins.begin_anew();
            if let Some(data) = self.core.config.load().kept_dir() {
                say_what_came_back(&data.join(HISTORY), &restored);
            }
        }
        let failing = self.core.store.archive().failing;
        match (&self.failing, &failing) {
            (None, Some(why)) => {
                tracing::error!(error = %why.error, "history cannot be written, and is in memory alone until it can");
            }
            (Some(_), None) => tracing::info!("history is written again"),
            _ => {}
        }
        self.failing = failing;
        self.greedy.look(&self.core);
        if self.memory_given_back.elapsed() > MEMORY_GIVEN_BACK {
            memory::give_back();
            self.memory_given_back = Instant::now();
        }
    }
}

/// Says of which intervals memory holds less than retention would.
fn say_what_memory_cuts(config: &Config) {
    for (interval, reach) in config.intervals().into_iter().filter_map(|one| Some((one, config.store.cut(one)?))) {
        let [interval, reach, retention] = [interval, reach, config.store.retention.get()].map(format_duration);
        tracing::warn!(
            %interval, %reach, %retention,
            "history in memory is shorter than store.retention; raise store.retention_samples, or keep history on disk"
        );
    }
}

/// Opens history, and says what came back; in memory, and why, where there is none on disk and none can be begun.
fn history(config: &Config, now_ms: i64) -> Result<(Store, Keeper, Option<String>)> {
    let limits = Limits {
        samples: config.store.retention_samples,
        age_ms: i64::try_from(config.store.retention.get().as_millis()).unwrap_or(i64::MAX),
        disk: config.store.max_disk.get() as u64,
        block_cache: config.store.block_cache.get() as u64,
        memory: config.store.memory(),
    };
    let Some(data) = config.kept_dir() else {
        say_what_memory_cuts(config);
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
        say_what_memory_cuts(config);
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
    say_what_came_back(&folder, &restored);
    Ok((store, keeper, None))
}

fn say_what_came_back(folder: &Path, restored: &Restored) {
    for name in &restored.newer {
        tracing::warn!(folder = %folder.display(), name, "a file of history was written by a later version, and is left alone");
    }
    for (name, why) in &restored.unreadable {
        tracing::error!(folder = %folder.display(), name, error = %why, "a file of history cannot be read, and is left alone");
    }
    if restored.damaged > 0 {
        tracing::warn!(
            folder = %folder.display(),
            places = restored.damaged,
            "history is damaged; what is whole is there, `dropsonde store verify` tells more"
        );
    }
    tracing::debug!(frames = restored.frames, logged_rows = restored.logged_rows, "history is there");
}

fn core(config: Config, clock: Clock, metrics: HostMetrics, store: Store, plugins: Plugins) -> Result<Core> {
    metrics.start_time_seconds.set(clock.now_ms() as f64 / 1000.0);
    let poll = &config.poll;
    let tracked = Tracked::new(poll.default_samplers.clone(), config.labels.clone(), poll.max_instances);
    for instance in &config.instances {
        let id = InstanceId::new(&instance.id)?;
        tracked.configure(&id, instance.labels.clone(), instance.samplers.clone())?;
    }
    let data = config.kept_dir();
    let tokens = Tokens::open(&config).context("cannot read or make a token")?;
    let audit = Audit::open(data.as_deref(), metrics.audit_entries_dropped.clone());
    let boot = hub::next_boot(&store, clock.now_ms());
    let timeline = Timeline::resume(clock.clone(), &store, &metrics);
    let (memory, lost) = (memory::available(), metrics.samples_dropped.with_label_values(&["slow_reader"]));
    let stream = &config.stream;
    let hub = Hub::new(boot, clock.now_ms(), stream.watch_buffer, stream.streams(), lost);
    hub.allow_bytes(stream.buffer_bytes(memory));
    Ok(Core {
        tokens,
        timeline,
        snapshots: Snapshots::new(clock.now_ms()),
        fresh: Default::default(),
        vitals: Arc::default(),
        reloads: Reloads::default(),
        bell: OnceLock::new(),
        exposed: Pool::halved(config.metrics.size()),
        exposition: Exposition::default(),
        workloads: Default::default(),
        connections: Arc::default(),
        turned_away: Arc::default(),
        beginnings: Arc::default(),
        queries: Arc::default(),
        answers: Arc::default(),
        rooms: Rooms::of_process(),
        memory,
        audit: audit?,
        store,
        tracked,
        hub,
        plugins,
        metrics,
        clock,
        config: ArcSwap::from_pointee(config),
    })
}

/// Makes the folders that are ours to make. Returns where plugins are looked for.
fn prepare_folders(config: &Config) -> Result<Option<PathBuf>> {
    let data = if config.store.memory_only { None } else { Some(config.data_dir()?) };
    let private = |folder: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // Whoever would write there says so.
        let is_inside = |error: &io::Error| is_denied(error) && data.as_ref().is_some_and(|data| data != folder);
        let goes_on = |error: &io::Error| is_unwritable(error) || is_inside(error);
        let made = made.or_else(|error| if goes_on(&error) { Ok(()) } else { Err(error) });
        made.with_context(|| {
            format!("cannot make {}; choose another with --data, or use --memory-only", folder.display())
        })
    };
    if let Some(data) = &data {
        private(data)?;
    }
    match (&config.plugins_dir, &data) {
        (Some(given), _) if given.is_dir() => Ok(Some(given.clone())),
        (Some(given), _) => bail!("plugins_dir = {}: there is no such folder", given.display()),
        (None, Some(data)) => {
            let folder = data.join("plugins");
            private(&folder)?;
            Ok(Some(folder))
        }
        (None, None) => Ok(None),
    }
}

/// Forgets what ended longer ago than history reaches back.
async fn housekeeping(core: Arc<Core>, mut stopping: watch::Receiver<bool>) {
    loop {
        let wait = core.config.load().poll.discover_interval.get();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        let kept_ms = i64::try_from(core.config.load().store.retention.get().as_millis()).unwrap_or(i64::MAX);
        // Not by a clock that has just jumped ahead.
        let Some(trusted_ms) = core.store.trusted_ms() else { continue };
        core.forget_ended_before(trusted_ms.min(core.clock.now_ms()).saturating_sub(kept_ms));
    }
}
