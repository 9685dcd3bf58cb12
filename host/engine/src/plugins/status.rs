use super::failure_log::FailureLog;
use super::{Fields, Origin};
use crate::conflicts::Conflicts;
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

/// Calls whose times the plugin page sums up.
const RECENT_CALLS: usize = 256;

/// Where a plugin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// Its file is being read, or its instance made.
    Loading,
    Compiling,
    Running,
    /// Waiting to try again after a start or a call that ended badly.
    Backoff,
    /// Too many did: it is tried again after a pause, or when an operator releases it or its file is replaced.
    Quarantined,
    /// It cannot be loaded, or cannot work with its configuration.
    Failed,
}

/// One plugin: what is fixed, and what is known of it so far.
#[derive(Debug)]
pub struct Status {
    pub name: PluginName,
    /// Between its polls, unless it is a source and no sampler.
    interval: Duration,
    /// The same if it is.
    source_interval: Duration,
    pub limits: Limits,
    pub config: PluginConfig,
    /// It was there when the host started.
    pub is_of_start: bool,
    /// Its versions' clock: it never goes back.
    pub(crate) began: Instant,
    /// What its worker is doing and has recorded, once it has one.
    worker: Mutex<Option<(Arc<WorkerStats>, PluginMetrics)>>,
    /// What workers before it are doing: their threads end after the call they are in.
    draining: Mutex<Vec<Weak<WorkerStats>>>,
    /// What waits for it, if it is an observer.
    events: Arc<EventQueue>,
    poll_now: Notify,
    known: Mutex<Known>,
    /// Of its failures, what the log says.
    pub(crate) failure_log: FailureLog,
    orders: watch::Sender<Option<Order>>,
}

/// Why a plugin is in quarantine, if nothing is wrong with it.
pub const BY_OPERATOR: &str = "an operator said so";

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Quarantine,
    Release,
}

/// An instance that is polled no more for now, as it ends the plugin's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub instance: InstanceId,
    pub reason: String,
    /// How often it did.
    pub times: usize,
    pub retry_at_ms: i64,
}

/// What changes while it runs.
#[derive(Debug)]
pub struct Known {
    pub state: PluginState,
    pub origin: Origin,
    /// Whether there is something that a newer version would replace.
    pub has_current: bool,
    /// A newer version is being made ready.
    pub is_preparing: bool,
    /// Whether that waits for its turn to be compiled, while it is made ready.
    pub(super) turn: Option<watch::Receiver<bool>>,
    /// The newest version that was not taken, if none was since.
    pub refused: Option<Refusal>,
    /// Its section of the configuration that was read last, if that is refused because of it.
    pub refused_section: Option<RefusedSection>,
    /// It ran well at another time, and a newer one does not work.
    pub is_restored: bool,
    /// This version had a tick in which no call ended badly.
    pub has_run_well: bool,
    /// sha256 of the component, in hex.
    pub digest: Option<String>,
    /// When the current version took over.
    pub loaded_ms: Option<i64>,
    pub shape: Option<Shape>,
    pub description: Option<Description>,
    pub grants: Grants,
    pub missing: Vec<Need>,
    pub fields: Option<Fields>,
    pub instances: usize,
    /// Polls in which its instances were asked and none had a sample: since it began, and none once one had.
    pub polls_in_vain: Option<u32>,
    /// Samples of it that were stored before it began.
    samples_before: u64,
    /// Discoveries in a row that failed.
    pub failed_discoveries: u32,
    /// It was there at the host's start, and has neither discovered instances nor failed since.
    is_initial: bool,
    pub set_aside: Vec<Waiting>,
    /// What it says that is another's to say.
    pub conflicts: Conflicts,
    /// Why it is in quarantine, if it is.
    pub quarantined: Option<String>,
    /// When a plugin that waits, or is in quarantine, is tried again by itself.
    pub retry_at_ms: Option<i64>,
    pub memory_bytes: usize,
    pub cpu: Duration,
    pub last_call_cpu: Duration,
    pub workers_spawned: u64,
    pub log_lines_dropped: u64,
    pub calls: u64,
    pub failures: u64,
    /// How many there were when a poll last ended.
    failures_seen: u64,
    pub polls_missed: u64,
    /// Ticks in a row that came too late.
    pub late_ticks: u32,
    pub last_failure: Option<Failure>,
    pub next_poll_ms: Option<i64>,
    call_times: VecDeque<Duration>,
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub at_ms: i64,
    pub reason: String,
    /// How the plugin ended, if it did.
    pub trap: Option<Trap>,
    /// It was a newer version that was not taken.
    pub is_of_newer: bool,
    /// A whole poll went well since.
    pub is_over: bool,
}

/// A version that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub at_ms: i64,
    /// None: it could not be read.
    pub digest: Option<String>,
    pub reason: String,
    pub trap: Option<Trap>,
}

/// A section that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSection {
    pub at_ms: i64,
    pub reason: String,
}

impl Order {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Release => "release",
        }
    }
}

impl Status {
    /// With its own section of the configuration.
    pub fn new(name: PluginName, origin: Origin, is_of_start: bool, config: &Options) -> Self {
        let own = config.plugin(&name);
        let (interval, limits) = (config.interval(&own), config.limits(&own));
        let known = Known {
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

    /// In the place of another: what waits for that waits for this.
    pub(crate) fn after(self, before: &Self) -> Self {
        Self { events: before.events.clone(), ..self }
    }

    /// Whether events that are put there wait for it.
    pub fn has_queue(&self, queue: &Arc<EventQueue>) -> bool {
        Arc::ptr_eq(&self.events, queue)
    }

    /// Whether it is as a configuration has it.
    pub fn is_as(&self, config: &Options) -> bool {
        let other = Self::new(self.name.clone(), Origin::Native, self.is_of_start, config);
        self.config == other.config
            && self.interval == other.interval
            && self.source_interval == other.source_interval
            && self.limits == other.limits
    }

    /// Looks at what is known now. Nothing else about the plugin can be asked meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        self.with(|known| look(known))
    }

    pub fn state(&self) -> PluginState {
        self.with(|known| known.state)
    }

    pub fn has(&self, role: Role) -> bool {
        self.with(|known| known.shape.as_ref().is_some_and(|shape| shape.roles.contains(&role)))
    }

    /// Between its polls: a source that is no sampler is polled as often as the snapshot is made.
    pub fn interval(&self) -> Duration {
        if self.has(Role::Source) && !self.has(Role::Sampler) { self.source_interval } else { self.interval }
    }

    /// Where events for it wait; none if it takes none.
    pub fn events(&self) -> Option<Arc<EventQueue>> {
        self.has(Role::Observer).then(|| self.events.clone())
    }

    /// What waits for a version that takes no events is for nobody.
    pub(crate) fn keep_events_if_observed(&self) {
        if !self.has(Role::Observer) {
            self.events.clear();
        }
    }

    /// It is to be asked once more, before its next tick.
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

    /// Whether it comes with the binary, or with the program that embeds the host.
    pub(crate) fn is_built_in(&self) -> bool {
        self.with(|known| matches!(known.origin, Origin::Bundled(_) | Origin::Native))
    }

    /// Whether what runs came from the same kind of place: a file, or the binary.
    pub(crate) fn runs_a(&self, origin: &Origin) -> bool {
        let is_bundled = |origin: &Origin| matches!(origin, Origin::Bundled(_));
        self.with(|known| is_bundled(&known.origin) == is_bundled(origin))
    }

    pub fn fields(&self) -> Option<Fields> {
        self.with(|known| known.fields.clone())
    }

    /// The plugin's task does it soon; whoever is given two orders does the later one.
    pub fn order(&self, order: Order) {
        self.orders.send_replace(Some(order));
    }

    /// An order that was meant for what was before.
    pub(crate) fn forget(&self, stale: Order) {
        self.orders.send_if_modified(|order| order.take_if(|order| *order == stale).is_some());
    }

    /// Waits for an order, and takes it. Others that come meanwhile are for nobody.
    pub(crate) async fn ordered(&self, wanted: Order) {
        let mut orders = self.orders.subscribe();
        loop {
            let _ = orders.wait_for(|order| *order == Some(wanted)).await;
            if self.orders.send_if_modified(|order| order.take_if(|order| *order == wanted).is_some()) {
                return;
            }
        }
    }

    /// What its worker has used and is doing; none before the first, and none that is gone.
    pub(crate) fn worker(&self) -> Option<Arc<WorkerStats>> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map(|(stats, _)| stats.clone())
    }

    /// Its own metrics: as long as its worker.
    pub(crate) fn metrics(&self) -> Option<PluginMetrics> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map(|(_, metrics)| metrics.clone())
    }

    pub(crate) fn set_worker(&self, worker: &Worker) {
        let worker = (worker.stats().clone(), worker.metrics().clone());
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
    }

    /// Its worker is of no more use, and ends after the call it is in.
    pub(crate) fn retire_worker(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        draining.retain(|worker| worker.strong_count() > 0);
        draining.extend(worker.iter().map(|(stats, _)| Arc::downgrade(stats)));
    }

    /// How many workers before the current one have not ended yet.
    pub(crate) fn draining(&self) -> usize {
        let draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        draining.iter().filter(|worker| worker.strong_count() > 0).count()
    }

    pub fn update(&self, change: impl FnOnce(&mut Known)) {
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

    /// Returns whether what it discovers now is the first it does since the host's start, which it was there at: true once.
    pub(crate) fn take_first_discovery(&self) -> bool {
        self.with(|known| std::mem::take(&mut known.is_initial))
    }

    /// A call came back after some time.
    pub(crate) fn called(&self, took: Duration) {
        self.with(|known| {
            known.calls += 1;
            if known.call_times.len() == RECENT_CALLS {
                known.call_times.pop_front();
            }
            known.call_times.push_back(took);
        });
    }

    /// A version begins: no sample is its own yet. `stored`: samples of the plugin so far.
    pub(crate) fn begin_sampling(&self, stored: u64) {
        self.with(|known| {
            (known.polls_in_vain, known.samples_before, known.failed_discoveries) = (Some(0), stored, 0);
        });
    }

    /// Its instances were asked, if it has some. `stored`: samples of the plugin so far.
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
        self.fail(Failure { at_ms, reason, trap, is_of_newer: false, is_over: false });
    }

    pub(crate) fn failed_because(&self, at_ms: i64, reason: String) {
        self.fail(Failure { at_ms, reason: super::plain(&reason), trap: None, is_of_newer: false, is_over: false });
    }

    fn fail(&self, failure: Failure) {
        self.with(|known| {
            known.failures += 1;
            known.last_failure = Some(failure);
        });
    }

    /// A poll has ended, and the plugin goes on. When nothing failed since the one before, what failed earlier is over.
    pub(crate) fn polled(&self) {
        self.with(|known| {
            let is_well = known.failures == known.failures_seen && known.set_aside.is_empty();
            known.failures_seen = known.failures;
            if let Some(failure) = known.last_failure.as_mut().filter(|failure| is_well && !failure.is_of_newer) {
                failure.is_over = true;
            }
        });
    }

    /// Beside what runs, which has not failed itself.
    pub(crate) fn refused(&self, refusal: Refusal) {
        let Refusal { at_ms, reason, trap, .. } = refusal.clone();
        let reason = format!("a newer version: {reason}");
        self.with(|known| {
            known.last_failure = Some(Failure { at_ms, reason, trap, is_of_newer: true, is_over: false });
            known.refused = Some(refusal);
        });
    }

    /// What was refused is no longer what there is.
    pub(crate) fn forget_refused(&self) {
        self.with(|known| {
            known.refused = None;
            known.last_failure.take_if(|failure| failure.is_of_newer);
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    /// Whether a version of it waits for its turn to be compiled.
    pub fn waits_for_its_turn(&self) -> bool {
        self.turn.as_ref().is_some_and(|waits| *waits.borrow())
    }

    /// Those of another version say nothing about this one.
    pub(crate) fn forget_call_times(&mut self) {
        self.call_times.clear();
    }

    /// The time that a share of recent calls stayed within; none without calls.
    pub fn call_time(&self, quantile: f64) -> Option<Duration> {
        let mut times: Vec<_> = self.call_times.iter().copied().collect();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        times.get((last as f64 * quantile).round() as usize).copied()
    }
}

/// Shares a status between its task and those who look.
pub(crate) type Shared = Arc<Status>;
