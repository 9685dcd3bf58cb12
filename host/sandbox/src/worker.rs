use crate::capability::http::Connections;
use crate::capability::log::Log;
use crate::capability::metrics::PluginMetrics;
use crate::instance::{Live, Surroundings};
use crate::worker_thread::{Asked, Job, Thread, Timed, Took, WorkerStats, on_own_thread, spawn};
use crate::{CallError, Description, Failure, Field, Grants, Instance, Limits, Need, Plugin, Readings, SavedState};
use crate::{Event, Inputs, Sandbox, Stats, Tick};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

/// Time that an answer may take in addition to its deadlines.
const GRACE: Duration = Duration::from_secs(1);

/// Everything that a plugin is run with.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The host's name for the plugin: its file name.
    pub name: String,
    /// The configuration: a JSON object as text.
    pub config: String,
    pub grants: Grants,
    pub limits: Limits,
    pub state: SavedState,
    /// The plugin's own metrics.
    pub metrics: PluginMetrics,
    pub inputs: Inputs,
}

/// A plugin's answers before it is granted anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    pub description: Description,
    /// The grants that the plugin needs with this configuration, or why the configuration cannot work.
    pub needs: Result<Vec<Need>, String>,
}

/// A plugin's own thread, with its live instance. When the worker is dropped, the thread ends after its current call.
#[derive(Debug)]
pub struct Worker {
    jobs: mpsc::Sender<Asked>,
    fields: Arc<[Field]>,
    limits: Limits,
    stats: Arc<WorkerStats>,
    metrics: PluginMetrics,
}

// === impl Setup ===

impl Setup {
    /// Returns a setup with no grants, an empty configuration and default limits.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), config: "{}".to_owned(), ..Self::default() }
    }
}

// === impl Limits ===

impl Limits {
    /// Returns the longest time until an instance has started and is initialised, or has failed to.
    fn longest_start(&self) -> Duration {
        self.init_deadline.saturating_mul(2).saturating_add(GRACE)
    }
}

/// Asks a plugin for its description and its needs, on a temporary instance without grants.
pub async fn introduce(sandbox: &Arc<Sandbox>, plugin: Plugin, setup: Setup) -> Result<Introduction, CallError> {
    let sandbox = sandbox.clone();
    let (grants, state, metrics) = Default::default();
    let setup = Setup { grants, state, metrics, ..setup };
    let stats = Arc::new(WorkerStats::default());
    on_own_thread(&setup.name.clone(), async move {
        let mut live = Live::start(&sandbox, &plugin, &surroundings(&setup, &stats)).await?;
        let description = live.call(&sandbox, async |exports, store| Ok(Ok(exports.describe(store).await?))).await?;
        let config = &setup.config;
        let needs = live.call_init(&sandbox, async |exports, store| exports.needs(store, config).await).await;
        let needs = match needs {
            Ok(needs) => Ok(needs),
            Err(CallError::Failed(Failure::Invalid(why))) => Err(why),
            Err(other) => return Err(other),
        };
        Ok(Introduction { description, needs })
    })
    .await
}

// === impl Worker ===

impl Worker {
    /// Starts the thread and the first instance: `init`, then `fields`.
    pub async fn start(sandbox: &Arc<Sandbox>, plugin: Plugin, setup: Setup) -> Result<Self, CallError> {
        let stats = Arc::new(WorkerStats::default());
        // One call is under way and one may wait. The schedule never queues ticks.
        let (jobs, queue) = mpsc::channel(1);
        let (ready, fields) = oneshot::channel();
        let (name, limits, metrics) = (setup.name.clone(), setup.limits, setup.metrics.clone());
        let thread = Thread {
            sandbox: sandbox.clone(),
            plugin,
            config: setup.config.clone(),
            with: surroundings(&setup, &stats),
            stats: stats.clone(),
            live: None,
        };
        let with_network = !thread.with.grants.http.is_empty();
        spawn(&name, with_network, thread.run(queue, ready));
        let fields = tokio::time::timeout(limits.longest_start().saturating_add(limits.deadline), fields).await;
        let fields = fields.map_err(|_| CallError::Stuck(limits.init_deadline))?;
        let fields = fields.map_err(|_| CallError::Stopped)?.map_err(|error| match error {
            // This is the first instance, so its own error is clearer.
            CallError::NoInstance(why) => *why,
            error => error,
        })?;
        Ok(Self { jobs, fields: fields.into(), limits, stats, metrics })
    }

    /// Returns the fields of a sampler, in the order of its values.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// Returns the plugin's own metrics.
    pub fn metrics(&self) -> &PluginMetrics {
        &self.metrics
    }

    /// Creates an instance if there is none.
    pub async fn ready(&self) -> Result<(), CallError> {
        self.ask_in_time(|reply| Job::Ready { reply }).await
    }

    /// Drops the live instance. The next call gets a new one, which loads the saved state.
    pub async fn renew(&self) -> Result<(), CallError> {
        self.ask(|reply| Job::Renew { reply }).await
    }

    pub async fn discover(&self, tick: Tick) -> Result<Vec<Instance>, CallError> {
        self.ask_in_time(|reply| Job::Discover { tick, reply }).await
    }

    /// Reads a batch of instances. The answer has one row per instance and one value per field.
    pub async fn sample(&self, tick: Tick, instances: Vec<String>) -> Result<Readings, CallError> {
        self.ask_in_time(|reply| Job::Sample { tick, instances, reply }).await
    }

    /// Collects the statistics of a source.
    pub async fn collect(&self, tick: Tick) -> Result<Stats, CallError> {
        self.ask_in_time(|reply| Job::Collect { tick, reply }).await
    }

    /// Passes events to an observer, in order.
    pub async fn observe(&self, tick: Tick, events: Vec<Event>) -> Result<(), CallError> {
        self.ask_in_time(|reply| Job::Observe { tick, events, reply }).await
    }

    /// Repeats a call on the worker's own thread, and returns the time that each round took.
    pub async fn time(&self, timed: Timed, rounds: u64) -> Result<Vec<Took>, CallError> {
        self.ask(|reply| Job::Time { timed, rounds, reply }).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, CallError>>) -> Job) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Asked { job: job(reply), span: Span::current() }).await.map_err(|_| CallError::Stopped)?;
        answer.await.map_err(|_| CallError::Stopped)?
    }

    /// Asks with a time limit. The worker's own deadline has no effect while its thread is in a system call, for
    /// example for a file on a network file system that is gone.
    async fn ask_in_time<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, CallError>>) -> Job,
    ) -> Result<T, CallError> {
        let Limits { deadline, idle_timeout, .. } = self.limits;
        let is_there = self.stats.is_live() && idle_timeout.is_none();
        let fresh = if is_there { GRACE } else { self.limits.longest_start() };
        let longest = fresh.saturating_add(deadline);
        let answer = tokio::time::timeout(longest, self.ask(job)).await;
        answer.unwrap_or(Err(CallError::Stuck(deadline)))
    }
}

fn surroundings(setup: &Setup, stats: &WorkerStats) -> Surroundings {
    let log = Log::new(setup.name.as_str().into(), &setup.limits, stats.log.clone());
    Surroundings {
        plugin: setup.name.as_str().into(),
        limits: setup.limits,
        grants: Arc::new(setup.grants.clone()),
        state: setup.state.clone(),
        metrics: setup.metrics.clone(),
        inputs: setup.inputs.clone(),
        log: Arc::new(Mutex::new(log)),
        connections: Connections::default(),
    }
}
