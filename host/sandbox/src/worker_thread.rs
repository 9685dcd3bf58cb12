//! The thread of a worker. It runs jobs one by one, each in the live instance or in a new one.

use crate::capability::log::{LogLine, RecentLog};
use crate::instance::{Live, Surroundings};
use crate::{CallError, Event, Field, Instance, Plugin, Readings, Role, Sandbox, Stats, Tick};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument as _, Span};

/// The niceness of a worker's thread: a plugin that computes must not delay a scrape.
const NICE: i32 = 10;

/// Bytes of the thread's stack: enough for the host's own frames. Guests run on stacks of their own.
pub(crate) const STACK: usize = 512 << 10;

/// Most additional threads of a worker. It has them while it reads directories or resolves names.
pub(crate) const BLOCKING_THREADS: usize = 4;

/// Resource usage and state of a worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    memory: AtomicUsize,
    cpu_ns: AtomicU64,
    last_cpu_ns: AtomicU64,
    instances: AtomicU64,
    crashed: AtomicU64,
    idled: AtomicU64,
    live: AtomicBool,
    busy: AtomicBool,
    pub(crate) log: Arc<RecentLog>,
}

/// A job, and the tracing span that it belongs to.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) job: Job,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum Job {
    Ready { reply: oneshot::Sender<Result<(), CallError>> },
    Renew { reply: oneshot::Sender<Result<(), CallError>> },
    Discover { tick: Tick, reply: oneshot::Sender<Result<Vec<Instance>, CallError>> },
    Sample { tick: Tick, instances: Vec<String>, reply: oneshot::Sender<Result<Readings, CallError>> },
    Collect { tick: Tick, reply: oneshot::Sender<Result<Stats, CallError>> },
    Observe { tick: Tick, events: Vec<Event>, reply: oneshot::Sender<Result<(), CallError>> },
    Time { timed: Timed, rounds: u64, reply: oneshot::Sender<Result<Vec<Took>, CallError>> },
}

/// The time one call took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    pub wall: Duration,
    pub cpu: Duration,
}

/// A call to measure.
#[derive(Debug, Clone)]
pub enum Timed {
    Sample(Tick, Vec<String>),
    Collect(Tick),
}

/// The state of a worker's thread.
pub(crate) struct Thread {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) plugin: Plugin,
    pub(crate) config: String,
    pub(crate) with: Surroundings,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) live: Option<Live>,
}

impl Thread {
    pub(crate) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Asked>,
        ready: oneshot::Sender<Result<Vec<Field>, CallError>>,
    ) {
        let fields = self.fields().await;
        let Ok(columns) = fields.as_ref().map(Vec::len) else {
            let _ = ready.send(fields);
            return;
        };
        let _ = ready.send(fields);
        while let Some(Asked { job, span }) = self.next(&mut jobs).await {
            self.work(job, columns).instrument(span).await;
        }
    }

    /// Runs a job and replies. The caller may have gone; then the reply is dropped.
    async fn work(&mut self, job: Job, columns: usize) {
        match job {
            Job::Ready { reply } => drop(reply.send(self.with_live(async |_, _| Ok(())).await)),
            Job::Renew { reply } => {
                self.set_live(None);
                drop(reply.send(Ok(())));
            }
            Job::Discover { tick, reply } => drop(reply.send(self.discover(tick).await)),
            Job::Sample { tick, instances, reply } => drop(reply.send(self.sample(tick, &instances, columns).await)),
            Job::Collect { tick, reply } => drop(reply.send(self.collect(tick).await)),
            Job::Observe { tick, events, reply } => drop(reply.send(self.observe(tick, events).await)),
            Job::Time { timed, rounds, reply } => drop(reply.send(self.time(&timed, columns, rounds).await)),
        }
    }

    /// Waits for the next job. If none comes within the idle timeout, ends the instance.
    async fn next(&mut self, jobs: &mut mpsc::Receiver<Asked>) -> Option<Asked> {
        if let Some(idle) = self.with.limits.idle_timeout.filter(|_| self.live.is_some()) {
            match tokio::time::timeout(idle, jobs.recv()).await {
                Ok(job) => return job,
                Err(_) => {
                    self.set_live(None);
                    self.stats.idled.fetch_add(1, Relaxed);
                }
            }
        }
        jobs.recv().await
    }

    fn set_live(&mut self, live: Option<Live>) {
        self.stats.live.store(live.is_some(), Relaxed);
        self.stats.memory.store(live.as_ref().map_or(0, Live::memory), Relaxed);
        self.live = live;
    }

    async fn fields(&mut self) -> Result<Vec<Field>, CallError> {
        let sampler = self.plugin.has(Role::Sampler);
        self.with_live(async |live, sandbox| {
            if !sampler {
                return Ok(Vec::new());
            }
            live.call(sandbox, async |exports, store| exports.fields(store).await).await
        })
        .await
    }

    async fn discover(&mut self, tick: Tick) -> Result<Vec<Instance>, CallError> {
        self.with_live(async |live, sandbox| {
            live.call(sandbox, async |exports, store| exports.discover(store, tick).await).await
        })
        .await
    }

    async fn sample(&mut self, tick: Tick, instances: &[String], columns: usize) -> Result<Readings, CallError> {
        self.with_live(async |live, sandbox| {
            let readings =
                live.call(sandbox, async |exports, store| exports.sample(store, tick, instances).await).await?;
            check(&readings, instances.len(), columns)?;
            Ok(readings)
        })
        .await
    }

    async fn collect(&mut self, tick: Tick) -> Result<Stats, CallError> {
        self.with_live(async |live, sandbox| {
            let stats = live.call(sandbox, async |exports, store| exports.collect(store, tick).await).await?;
            check_stats(&stats)?;
            Ok(stats)
        })
        .await
    }

    async fn observe(&mut self, tick: Tick, events: Vec<Event>) -> Result<(), CallError> {
        self.with_live(async |live, sandbox| {
            live.call(sandbox, async |exports, store| exports.observe(store, tick, events).await).await
        })
        .await
    }

    async fn time(&mut self, timed: &Timed, columns: usize, rounds: u64) -> Result<Vec<Took>, CallError> {
        let mut times = Vec::with_capacity(usize::try_from(rounds).unwrap_or(0));
        let mut before = Instant::now();
        for _ in 0..rounds {
            match timed {
                Timed::Sample(tick, instances) => drop(self.sample(*tick, instances, columns).await?),
                Timed::Collect(tick) => drop(self.collect(*tick).await?),
            }
            let now = Instant::now();
            times.push(Took { wall: now - before, cpu: self.stats.last_cpu() });
            before = now;
        }
        Ok(times)
    }

    /// Calls the live instance, and creates one if there is none. Drops the instance if the call ended it.
    async fn with_live<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Live, &Sandbox) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.stats.busy.store(true, Relaxed);
        let answer = self.call(call).await;
        self.stats.busy.store(false, Relaxed);
        answer
    }

    async fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Live, &Sandbox) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.fresh().await.map_err(|error| CallError::NoInstance(Box::new(error)))?,
        };
        let answer = call(&mut live, &self.sandbox).await;
        self.charge(&live);
        let ended = live.is_over() || answer.as_ref().is_err_and(CallError::is_end);
        if ended {
            self.crashed();
        }
        self.set_live((!ended).then_some(live));
        answer
    }

    async fn fresh(&mut self) -> Result<Live, CallError> {
        self.stats.live.store(false, Relaxed);
        let mut live = Live::start(&self.sandbox, &self.plugin, &self.with).await?;
        self.charge(&live);
        let config = &self.config;
        let init = live.call_init(&self.sandbox, async |exports, store| exports.init(store, config).await).await;
        self.charge(&live);
        self.stats.instances.fetch_add(1, Relaxed);
        if init.is_err() {
            self.crashed();
        }
        init.map(|()| live)
    }

    fn crashed(&self) {
        self.stats.crashed.fetch_add(1, Relaxed);
        self.with.metrics.lose_gauges();
    }

    fn charge(&self, live: &Live) {
        let used = u64::try_from(live.cpu_used().as_nanos()).unwrap_or(u64::MAX);
        self.stats.cpu_ns.fetch_add(used, Relaxed);
        self.stats.last_cpu_ns.store(used, Relaxed);
    }
}

/// Checks that there is one row per instance and one value per field, and that failures refer to existing rows.
fn check(readings: &Readings, rows: usize, columns: usize) -> Result<(), CallError> {
    let Readings { values, offsets_ms, failures, .. } = readings;
    let wrong = |what: String| Err(CallError::OutOfContract(what));
    if values.len() != rows * columns {
        return wrong(format!("{} values for {rows} instances of {columns} fields", values.len()));
    }
    if !offsets_ms.is_empty() && offsets_ms.len() != rows {
        return wrong(format!("{} offsets for {rows} instances", offsets_ms.len()));
    }
    match failures.iter().find(|(row, _)| *row as usize >= rows) {
        Some((row, _)) => wrong(format!("a failure for row {row} of {rows}")),
        None => Ok(()),
    }
}

/// Checks that all numbers are finite.
fn check_stats(stats: &Stats) -> Result<(), CallError> {
    match stats.no_number() {
        Some(name) => Err(CallError::OutOfContract(format!("{name} is not a number"))),
        None => Ok(()),
    }
}

// === impl WorkerStats ===

impl WorkerStats {
    /// Returns the size of the live instance's memories and tables, in bytes.
    pub fn memory(&self) -> usize {
        self.memory.load(Relaxed)
    }

    /// Returns the CPU time of all instances so far.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Relaxed))
    }

    /// Returns the CPU time of the last call.
    pub fn last_cpu(&self) -> Duration {
        Duration::from_nanos(self.last_cpu_ns.load(Relaxed))
    }

    /// Returns the number of instances created: the first, and one more after each that ended.
    pub fn instances(&self) -> u64 {
        self.instances.load(Relaxed)
    }

    /// Returns the number of instances that a call ended.
    pub fn crashed(&self) -> u64 {
        self.crashed.load(Relaxed)
    }

    /// Returns the number of instances that the idle timeout ended.
    pub fn idled(&self) -> u64 {
        self.idled.load(Relaxed)
    }

    /// Returns whether there is a live instance.
    pub fn is_live(&self) -> bool {
        self.live.load(Relaxed)
    }

    /// Returns whether a call is under way.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed)
    }

    pub fn log_lines_dropped(&self) -> u64 {
        self.log.dropped()
    }

    /// Returns the newest lines that the plugin logged, the oldest first.
    pub fn log(&self) -> Vec<LogLine> {
        self.log.lines()
    }
}

pub(crate) async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> Result<T, CallError> {
    let (done, outcome) = oneshot::channel();
    spawn(name, false, async move { drop(done.send(work.await)) });
    outcome.await.map_err(|_| CallError::Stopped)?
}

/// Runs `work` on its own thread with its own runtime. If the machine cannot start either, `work` is dropped, and the
/// task that waits for its result notices that.
pub(crate) fn spawn(name: &str, with_network: bool, work: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().max_blocking_threads(BLOCKING_THREADS).thread_stack_size(STACK);
        if with_network {
            runtime.enable_io();
        }
        // A thread that does not get a lower priority still works.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        match runtime.build() {
            Ok(runtime) => {
                runtime.block_on(work);
                // Does not wait for a file that never opens, or for a name that never resolves.
                runtime.shutdown_background();
            }
            Err(error) => tracing::error!(%error, "cannot start a worker's runtime"),
        }
    };
    let spawned = std::thread::Builder::new().name(format!("plugin {name}")).stack_size(STACK).spawn(run);
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start a worker's thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    fn readings(values: usize, offsets: usize, failed_row: Option<u32>) -> Readings {
        Readings {
            values: vec![0.0; values],
            offsets_ms: vec![0; offsets],
            failures: failed_row.map(|row| (row, Failure::Gone)).into_iter().collect(),
            ..Readings::default()
        }
    }

    #[test]
    fn stats_that_are_no_numbers_are_out_of_contract() {
        let of = |hit_rate_pct| Stats {
            cache: Some(crate::CacheStats { hit_rate_pct, ..crate::CacheStats::default() }),
            ..Stats::default()
        };
        assert_eq!(check_stats(&of(99.5)), Ok(()));
        assert!(matches!(check_stats(&of(f64::NAN)), Err(CallError::OutOfContract(why)) if why.contains("hit-rate")));
    }

    #[test]
    fn an_answer_of_another_shape_than_asked_for_is_out_of_contract() {
        assert_eq!(check(&readings(6, 0, None), 2, 3), Ok(()));
        assert_eq!(check(&readings(6, 2, Some(1)), 2, 3), Ok(()));
        for wrong in [readings(5, 0, None), readings(6, 1, None), readings(6, 0, Some(2))] {
            assert!(matches!(check(&wrong, 2, 3), Err(CallError::OutOfContract(_))), "{wrong:?}");
        }
    }
}
