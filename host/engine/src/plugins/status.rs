use super::failure_log::FailureLog;
use super::{ComponentOrigin, Fields};
use crate::conflict_reports::Conflicts;
use crate::events::EventQueue;
use crate::options::{Options, PluginConfig};
use crate::tracked::PluginName;
use dropsonde_sandbox::{
    CallError, Description, Grants, Limits, Need, PluginMetrics, Role, Shape, Trap, Worker, WorkerStats,
};
use dropsonde_store::InstanceId;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The number of recent calls whose durations the plugin page sums up.
const RECENT_CALLS: usize = 256;

/// The state of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// The plugin's file is being read, or its instance started.
    Loading,
    Compiling,
    Running,
    /// The plugin waits for a retry after a start or a call that ended badly.
    Backoff,
    /// Too many starts or calls ended badly. The plugin is tried again after a pause, or when an operator releases it
    /// or its file is replaced.
    Quarantined,
    /// The plugin cannot be loaded, or cannot work with its configuration.
    Failed,
}

/// One plugin: its fixed settings, and its changing state.
#[derive(Debug)]
pub struct PluginStatus {
    pub name: PluginName,
    /// The interval between polls, unless the plugin is a source and not a sampler.
    interval: Duration,
    /// The interval between polls of a source that is not a sampler.
    source_interval: Duration,
    pub limits: Limits,
    pub config: PluginConfig,
    /// Whether the plugin was there when the host started.
    pub is_of_start: bool,
    /// The time when the plugin's task began, by a clock that never goes back.
    pub(crate) began: Instant,
    /// The statistics and own metrics of the current worker, while there is one.
    worker: Mutex<Option<(Arc<WorkerStats>, PluginMetrics)>>,
    /// The statistics of earlier workers. Their threads end after the call under way.
    draining: Mutex<Vec<Weak<WorkerStats>>>,
    /// The events that wait for the plugin, if it is an observer.
    events: Arc<EventQueue>,
    poll_now: Notify,
    known: Mutex<PluginInfo>,
    /// Decides which failures of the plugin are logged.
    pub(crate) failure_log: FailureLog,
    orders: watch::Sender<Option<OperatorOrder>>,
}

/// The reason for a quarantine that an operator ordered.
pub const BY_OPERATOR: &str = "an operator said so";

/// An order of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorOrder {
    Quarantine,
    Release,
}

/// An instance that is set aside: it is not polled for now, because it ends the plugin's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsideInstance {
    pub instance: InstanceId,
    pub reason: String,
    /// The number of calls that it ended.
    pub times: usize,
    pub retry_at_ms: i64,
}

/// The changing state of a plugin.
#[derive(Debug)]
pub struct PluginInfo {
    pub state: PluginState,
    pub origin: ComponentOrigin,
    /// Whether there is a version that a newer one would replace.
    pub has_current: bool,
    /// Whether a newer version is being prepared.
    pub is_preparing: bool,
    /// While a version is being prepared: whether it waits for its turn to be compiled.
    pub(super) turn: Option<watch::Receiver<bool>>,
    /// The newest version that was refused, if none was accepted since.
    pub refused: Option<VersionRefusal>,
    /// The plugin's section of the configuration that was read last, if that configuration is refused because of the
    /// section.
    pub refused_section: Option<RefusedSection>,
    /// Whether this is the last good version, restored because a newer one does not work.
    pub is_restored: bool,
    /// Whether this version has had a tick in which no call ended badly.
    pub has_run_well: bool,
    /// sha256 of the component, in hex.
    pub digest: Option<String>,
    /// The time when the current version took over.
    pub loaded_ms: Option<i64>,
    pub shape: Option<Shape>,
    pub description: Option<Description>,
    pub grants: Grants,
    pub missing: Vec<Need>,
    pub fields: Option<Fields>,
    pub instances: usize,
    /// The polls of instances since this version began, as long as none of them gave a sample; `None` once one did.
    pub polls_in_vain: Option<u32>,
    /// The samples of the plugin that were stored before this version began.
    samples_before: u64,
    /// Failed discoveries in a row.
    pub failed_discoveries: u32,
    /// Whether the plugin was there when the host started, and has neither discovered instances nor failed since.
    is_initial: bool,
    /// The time before the start for which the plugin is to make history.
    backfill: Option<Duration>,
    pub set_aside: Vec<SetAsideInstance>,
    /// The plugin's conflicts with other owners.
    pub conflicts: Conflicts,
    /// The reason for quarantine, if the plugin is in quarantine.
    pub quarantined: Option<String>,
    /// The time of the next retry, if the plugin is in backoff or in quarantine and has one.
    pub retry_at_ms: Option<i64>,
    pub memory_bytes: usize,
    pub cpu: Duration,
    pub last_call_cpu: Duration,
    pub workers_spawned: u64,
    pub log_lines_dropped: u64,
    pub calls: u64,
    pub failures: u64,
    /// The number of failures when a poll last ended.
    failures_seen: u64,
    pub polls_missed: u64,
    /// Late ticks in a row.
    pub late_ticks: u32,
    pub last_failure: Option<PluginFailure>,
    pub next_poll_ms: Option<i64>,
    call_times: VecDeque<Duration>,
}

/// A plugin's last failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFailure {
    pub at_ms: i64,
    pub reason: String,
    /// The trap that ended the plugin's instance, if there was one.
    pub trap: Option<Trap>,
    /// Whether the failure is of a newer version, which was refused.
    pub is_of_newer: bool,
    /// Whether a whole poll has gone well since.
    pub is_over: bool,
}

/// A refused version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRefusal {
    pub at_ms: i64,
    /// `None` if the version could not be read.
    pub digest: Option<String>,
    pub reason: String,
    pub trap: Option<Trap>,
}

/// A section of the configuration that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSection {
    pub at_ms: i64,
    pub reason: String,
}

impl OperatorOrder {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Release => "release",
        }
    }
}

impl PluginStatus {
    /// Creates the status of a plugin with its section of the configuration.
    pub fn new(name: PluginName, origin: ComponentOrigin, is_of_start: bool, config: &Options) -> Self {
        let own = config.plugin(&name);
        let (defaults, backfill) = match &origin {
            ComponentOrigin::Bundled(bundled) => (*bundled.limits, bundled.backfill.filter(|_| is_of_start)),
            ComponentOrigin::File(_) | ComponentOrigin::Native => (Limits::DEFAULT, None),
        };
        let (interval, limits) = (config.interval(&own), config.limits(&own, defaults));
        let known = PluginInfo {
            state: PluginState::Loading,
            origin,
            has_current: false,
            is_preparing: false,
            turn: None,
            refused: None,
            refused_section: None,
            is_restored: false,
            has_run_well: false,
            digest: None,
            loaded_ms: None,
            shape: None,
            description: None,
            grants: Grants::default(),
            missing: Vec::new(),
            fields: None,
            instances: 0,
            polls_in_vain: Some(0),
            samples_before: 0,
            failed_discoveries: 0,
            is_initial: is_of_start,
            backfill,
            set_aside: Vec::new(),
            conflicts: Conflicts::default(),
            quarantined: None,
            retry_at_ms: None,
            memory_bytes: 0,
            cpu: Duration::ZERO,
            last_call_cpu: Duration::ZERO,
            workers_spawned: 0,
            log_lines_dropped: 0,
            calls: 0,
            failures: 0,
            failures_seen: 0,
            polls_missed: 0,
            late_ticks: 0,
            last_failure: None,
            next_poll_ms: None,
            call_times: VecDeque::new(),
        };
        let source_interval = own.interval.unwrap_or(config.snapshot.interval).get();
        let (worker, draining) = (Mutex::default(), Mutex::default());
        let (known, orders) = (Mutex::new(known), watch::Sender::new(None));
        Self {
            name,
            interval,
            limits,
            config: own,
            is_of_start,
            source_interval,
            events: Arc::default(),
            poll_now: Notify::new(),
            began: Instant::now(),
            worker,
            draining,
            known,
            failure_log: FailureLog::default(),
            orders,
        }
    }

    /// Takes over the queue of events from the status that this one replaces.
    pub(crate) fn after(self, before: &Self) -> Self {
        Self { events: before.events.clone(), ..self }
    }

    /// Returns whether events in `queue` wait for this plugin.
    pub fn has_queue(&self, queue: &Arc<EventQueue>) -> bool {
        Arc::ptr_eq(&self.events, queue)
    }

    /// Returns whether the plugin's settings are those of a configuration.
    pub fn has_settings_of(&self, config: &Options) -> bool {
        let origin = self.look(|known| known.origin.clone());
        // A bundled plugin may run only with a section.
        let is_in_use = !matches!(origin, ComponentOrigin::Bundled(_)) || config.bundled(&self.name).is_some();
        let other = Self::new(self.name.clone(), origin, self.is_of_start, config);
        is_in_use
            && self.config == other.config
            && self.interval == other.interval
            && self.source_interval == other.source_interval
            && self.limits == other.limits
    }

    /// Reads the plugin's state under a lock. `look` must not call other methods of this status.
    pub fn look<T>(&self, look: impl FnOnce(&PluginInfo) -> T) -> T {
        self.with(|known| look(known))
    }

    pub fn state(&self) -> PluginState {
        self.with(|known| known.state)
    }

    pub fn has(&self, role: Role) -> bool {
        self.with(|known| known.shape.as_ref().is_some_and(|shape| shape.roles.contains(&role)))
    }

    /// Returns the interval between polls. A source that is not a sampler is polled as often as the snapshot is made.
    pub fn interval(&self) -> Duration {
        if self.has(Role::Source) && !self.has(Role::Sampler) { self.source_interval } else { self.interval }
    }

    /// Returns the queue of events for the plugin; `None` if it is not an observer.
    pub fn events(&self) -> Option<Arc<EventQueue>> {
        self.has(Role::Observer).then(|| self.events.clone())
    }

    /// Discards waiting events if the current version is not an observer.
    pub(crate) fn keep_events_if_observed(&self) {
        if !self.has(Role::Observer) {
            self.events.clear();
        }
    }

    /// Asks for one more poll before the next tick.
    pub fn poll_now(&self) {
        self.poll_now.notify_one();
    }

    pub(crate) async fn told_to_poll(&self) {
        self.poll_now.notified().await;
    }

    pub fn has_current(&self) -> bool {
        self.with(|known| known.has_current)
    }

    pub(crate) fn conflicts<T>(&self, look: impl FnOnce(&Conflicts) -> T) -> T {
        self.with(|known| look(&known.conflicts))
    }

    /// Returns whether the plugin comes with the binary, or with the program that embeds the host.
    pub(crate) fn is_built_in(&self) -> bool {
        self.with(|known| matches!(known.origin, ComponentOrigin::Bundled(_) | ComponentOrigin::Native))
    }

    /// Returns whether the current version has the same kind of origin: a file, or the binary.
    pub(crate) fn runs_a(&self, origin: &ComponentOrigin) -> bool {
        let is_bundled = |origin: &ComponentOrigin| matches!(origin, ComponentOrigin::Bundled(_));
        self.with(|known| is_bundled(&known.origin) == is_bundled(origin))
    }

    pub fn fields(&self) -> Option<Fields> {
        self.with(|known| known.fields.clone())
    }

    /// Gives the plugin's task an order, which it follows soon. A later order replaces one that the task has not
    /// followed.
    pub fn order(&self, order: OperatorOrder) {
        self.orders.send_replace(Some(order));
    }

    /// Drops an order that is stale, because it was meant for an earlier state.
    pub(crate) fn forget(&self, stale: OperatorOrder) {
        self.orders.send_if_modified(|order| order.take_if(|order| *order == stale).is_some());
    }

    /// Waits for an order and takes it. Leaves other orders alone.
    pub(crate) async fn ordered(&self, wanted: OperatorOrder) {
        let mut orders = self.orders.subscribe();
        loop {
            let _ = orders.wait_for(|order| *order == Some(wanted)).await;
            if self.orders.send_if_modified(|order| order.take_if(|order| *order == wanted).is_some()) {
                return;
            }
        }
    }

    /// Returns the statistics of the current worker; `None` without a worker.
    pub(crate) fn worker(&self) -> Option<Arc<WorkerStats>> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map(|(stats, _)| stats.clone())
    }

    /// Returns the plugin's own metrics; `None` without a worker.
    pub(crate) fn metrics(&self) -> Option<PluginMetrics> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map(|(_, metrics)| metrics.clone())
    }

    pub(crate) fn set_worker(&self, worker: &Worker) {
        let worker = (worker.stats().clone(), worker.metrics().clone());
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
    }

    /// Retires the current worker, whose thread ends after the call under way.
    pub(crate) fn retire_worker(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        draining.retain(|worker| worker.strong_count() > 0);
        draining.extend(worker.iter().map(|(stats, _)| Arc::downgrade(stats)));
    }

    /// Returns the number of earlier workers whose threads have not ended yet.
    pub(crate) fn draining(&self) -> usize {
        let draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        draining.iter().filter(|worker| worker.strong_count() > 0).count()
    }

    pub fn update(&self, change: impl FnOnce(&mut PluginInfo)) {
        self.with(change);
    }

    pub(crate) fn retry_at(&self, at_ms: Option<i64>) {
        self.with(|known| known.retry_at_ms = at_ms);
    }

    pub(crate) fn enter(&self, state: PluginState) {
        self.with(|known| {
            known.state = state;
            known.is_initial &= matches!(state, PluginState::Loading | PluginState::Compiling | PluginState::Running);
        });
    }

    /// Returns whether this is the first discovery of a plugin that was there when the host started. Returns true once
    /// at most.
    pub(crate) fn take_first_discovery(&self) -> bool {
        self.with(|known| std::mem::take(&mut known.is_initial))
    }

    /// Returns the time before the start for which the plugin makes history, once.
    pub(crate) fn take_backfill(&self) -> Option<Duration> {
        self.with(|known| known.backfill.take())
    }

    /// Counts a call and its duration.
    pub(crate) fn called(&self, took: Duration) {
        self.with(|known| {
            known.calls += 1;
            if known.call_times.len() == RECENT_CALLS {
                known.call_times.pop_front();
            }
            known.call_times.push_back(took);
        });
    }

    /// Notes that a version begins, without samples of its own. `stored` is the number of the plugin's samples so far.
    pub(crate) fn begin_sampling(&self, stored: u64) {
        self.with(|known| {
            (known.polls_in_vain, known.samples_before, known.failed_discoveries) = (Some(0), stored, 0);
        });
    }

    /// Notes a poll of the plugin's instances, if it has any. `stored` is the number of the plugin's samples so far.
    pub(crate) fn sampled(&self, stored: u64) {
        self.with(|known| {
            if stored > known.samples_before {
                known.polls_in_vain = None;
            } else if known.instances > 0 {
                known.polls_in_vain = known.polls_in_vain.map(|polls| polls.saturating_add(1));
            }
        });
    }

    pub(crate) fn failed(&self, at_ms: i64, error: &CallError) {
        let (reason, trap) = (super::plain(&error.to_string()), error.trap().cloned());
        self.fail(PluginFailure { at_ms, reason, trap, is_of_newer: false, is_over: false });
    }

    pub(crate) fn failed_because(&self, at_ms: i64, reason: String) {
        self.fail(PluginFailure {
            at_ms,
            reason: super::plain(&reason),
            trap: None,
            is_of_newer: false,
            is_over: false,
        });
    }

    fn fail(&self, failure: PluginFailure) {
        self.with(|known| {
            known.failures += 1;
            known.last_failure = Some(failure);
        });
    }

    /// Notes that a poll has ended and the plugin goes on. The last failure is over if nothing failed since the poll
    /// before.
    pub(crate) fn polled(&self) {
        self.with(|known| {
            let is_well = known.failures == known.failures_seen && known.set_aside.is_empty();
            known.failures_seen = known.failures;
            if let Some(failure) = known.last_failure.as_mut().filter(|failure| is_well && !failure.is_of_newer) {
                failure.is_over = true;
            }
        });
    }

    /// Notes the refusal of a newer version. The running version has not failed itself.
    pub(crate) fn refused(&self, refusal: VersionRefusal) {
        let VersionRefusal { at_ms, reason, trap, .. } = refusal.clone();
        let reason = format!("a newer version is refused: {reason}");
        self.with(|known| {
            known.last_failure = Some(PluginFailure { at_ms, reason, trap, is_of_newer: true, is_over: false });
            known.refused = Some(refusal);
        });
    }

    /// Forgets the refused version, because it is no longer the newest.
    pub(crate) fn forget_refused(&self) {
        self.with(|known| {
            known.refused = None;
            known.last_failure.take_if(|failure| failure.is_of_newer);
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut PluginInfo) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PluginInfo {
    /// Returns whether a version of the plugin waits for its turn to be compiled.
    pub fn waits_for_its_turn(&self) -> bool {
        self.turn.as_ref().is_some_and(|waits| *waits.borrow())
    }

    /// Forgets the durations of calls, because those of another version say nothing about this one.
    pub(crate) fn forget_call_times(&mut self) {
        self.call_times.clear();
    }

    /// Returns a quantile of the durations of recent calls; `None` without calls.
    pub fn call_time(&self, quantile: f64) -> Option<Duration> {
        let mut times: Vec<_> = self.call_times.iter().copied().collect();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        times.get((last as f64 * quantile).round() as usize).copied()
    }
}

/// A status that the plugin's task and its readers share.
pub(crate) type SharedStatus = Arc<PluginStatus>;
